"""Layouts of folders, by name: how data sets are published. `auto` looks for tiles and labels by the general rules.

A layout is one module here with a `LAYOUT`, imported when it is chosen.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass

from asd_cli.data.classes import ClassTable, scan_classes
from asd_cli.data.discovery import TileSource
from asd_cli.data.layouts.base import Layout
from asd_cli.errors import InputError
from asd_cli.options import TileOptions

_MODULES = {
    "auto": "auto:LAYOUT",
    "deepglobe": "deepglobe:LAYOUT",
    "agriculture-vision": "agriculture_vision:LAYOUT",
    "landslide4sense": "landslide4sense:LAYOUT",
    "landslide4sense-undivided": "landslide4sense:UNDIVIDED",
    "fas": "fas:LAYOUT",
    "unlabelled": "unlabelled:LAYOUT",
}


@dataclass(frozen=True)
class FoundTiles:
    """Tiles, the classes of their labels, and the bands that the layout takes unless told otherwise."""

    sources: Sequence[TileSource]
    classes: ClassTable
    bands: tuple[int, ...] | None = None


def find_tiles(options: TileOptions, *, normal: Sequence[str] = ()) -> FoundTiles:
    """The tiles that the options name, and their classes; every label is read once.

    `normal`: normal classes where the options name none.

    Raises:
        InputError: there is no such layout.
        RasterError, LabelError: tiles or labels cannot be used.
    """
    layout = layout_called(options.layout)
    sources = layout.find(options, options.normal or normal)
    return FoundTiles(sources, scan_classes(sources, names=layout.names), layout.bands)


def layout_called(name: str) -> Layout:
    """A layout by its name.

    Raises:
        InputError: there is no such layout; the text lists those that are.
    """
    if name not in _MODULES:
        raise InputError(f"--layout {name}: not known; layouts: {', '.join(_MODULES)}")
    module, _, attribute = _MODULES[name].partition(":")
    found: Layout = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    return found
