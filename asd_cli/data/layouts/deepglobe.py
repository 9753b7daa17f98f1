"""DeepGlobe land cover: ``NAME_sat.jpg`` beside ``NAME_mask.png``, whose seven colours are the classes.

Demir et al., "DeepGlobe 2018: A Challenge to Parse the Earth through Satellite Images", CVPR Workshops 2018. Masks are
cut at 128, as the data set asks; black means unknown and counts nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from asd_cli.data.class_names import ClassNames
from asd_cli.data.discovery import TileSource
from asd_cli.data.layouts.base import Layout, checked, folders, partner, size_of
from asd_cli.data.listing import Folder, Listing, join
from asd_cli.options import TileOptions
from asd_cli.raster.virtual import Band, Source, VirtualRaster, virtual_raster
from asd_cli.vector.labels import LabelSource

_IMAGE, _MASK = "_sat.jpg", "_mask.png"
_NAMES = {
    0x00FFFF: "urban",
    0xFFFF00: "agriculture",
    0xFF00FF: "range",
    0x00FF00: "forest",
    0x0000FF: "water",
    0xFFFFFF: "barren",
}
_CUT = ((0, 0), (127, 0), (128, 255), (255, 255))


def _images(folder: Folder) -> list[str]:
    return [name for name in folder.files if name.endswith(_IMAGE)]


def _find(options: TileOptions, normal: Sequence[str]) -> list[TileSource]:
    tiles = {}
    for folder in folders(options, Listing(), part="train", holds=lambda folder: bool(_images(folder))):
        for name in _images(folder):
            path = join(folder.path, name)
            mask = partner(folder, name.removesuffix(_IMAGE) + _MASK, path)
            tiles[path] = TileSource(path, LabelSource(mask, virtual=_label(mask)))
    return checked(tiles, options, f"*{_IMAGE}")


def _label(mask: str) -> VirtualRaster:
    """The mask with pure colours, and black as nodata."""
    colours = ("Red", "Green", "Blue")
    bands = [
        Band("Byte", (Source(mask, number, lut=_CUT),), interpretation=colour, nodata=0)
        for number, colour in enumerate(colours, start=1)
    ]
    return virtual_raster(*size_of(mask), bands)


LAYOUT = Layout(_find, names=ClassNames("the colours of DeepGlobe", _NAMES, by_colour=True))
