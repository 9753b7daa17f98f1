"""Tiles as the general rules find them, without a look at labels."""

from __future__ import annotations

from collections.abc import Sequence

from asd_cli.data.discovery import TileSource, discover_rasters
from asd_cli.data.layouts.base import Layout
from asd_cli.errors import LabelError
from asd_cli.options import TileOptions


def _find(options: TileOptions, normal: Sequence[str]) -> list[TileSource]:
    if options.labels is not None or options.label_field is not None:
        option = "--labels" if options.labels is not None else "--label-field"
        raise LabelError(f"{option}: labels are not looked at here; leave it out")
    return discover_rasters(options.tiles)


LAYOUT = Layout(_find)
