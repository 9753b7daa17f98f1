"""FAS, of the ASD paper (AAAI 2023): hyperspectral ENVI cubes ``NAME`` with ``NAME.hdr`` and the label ``NAME_gt``.

Bands 110, 70 and 33 are taken unless others are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

from asd_cli.data.discovery import TileSource
from asd_cli.data.layouts.base import Layout, checked, folders, partner
from asd_cli.data.listing import Folder, Listing, join, stem_of
from asd_cli.options import TileOptions
from asd_cli.vector.labels import LabelSource

_LABEL = "_gt"


def _cubes(folder: Folder) -> list[str]:
    """Rasters with a header of ENVI's beside them that are no label."""
    headers = {name.lower() for name in folder.files if name.lower().endswith(".hdr")}
    return [
        name
        for name in folder.rasters
        if not stem_of(name).endswith(_LABEL) and headers & {f"{name}.hdr".lower(), f"{stem_of(name)}.hdr".lower()}
    ]


def _find(options: TileOptions, normal: Sequence[str]) -> list[TileSource]:
    tiles = {}
    for folder in folders(options, Listing(), part="train", holds=lambda folder: bool(_cubes(folder))):
        for name in _cubes(folder):
            path = join(folder.path, name)
            labels = folder.by_stem.get(stem_of(name) + _LABEL, ())
            label = partner(folder, labels[0] if labels else stem_of(name) + _LABEL, path)
            tiles[path] = TileSource(path, LabelSource(label))
    return checked(tiles, options, "ENVI cubes (NAME with NAME.hdr)")


LAYOUT = Layout(_find, bands=(110, 70, 33))
