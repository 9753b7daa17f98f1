"""Agriculture-Vision: ``images/rgb``, ``images/nir``, ``boundaries``, ``masks`` and one folder a class in ``labels``.

Chiu et al., "Agriculture-Vision: A Large Aerial Image Database for Agricultural Pattern Analysis", CVPR 2020. Four
bands; pixels outside boundary or mask are invalid. A pixel of no class is ``normal``; of several, it has the first in
the list of this module.
"""

from __future__ import annotations

from collections.abc import Sequence

from asd_cli.data.discovery import TileSource
from asd_cli.data.layouts.base import Layout, checked, folders, partner, size_of
from asd_cli.data.listing import Folder, Listing, join
from asd_cli.errors import LabelError
from asd_cli.options import TileOptions
from asd_cli.raster.virtual import Band, Source, VirtualRaster, virtual_raster
from asd_cli.vector.labels import LabelSource

NORMAL = "normal"
CLASSES = (
    "double_plant",
    "drydown",
    "endrow",
    "nutrient_deficiency",
    "planter_skip",
    "water",
    "waterway",
    "weed_cluster",
    "storm_damage",
)
_COLOURS = ("red", "green", "blue")


def _find(options: TileOptions, normal: Sequence[str]) -> list[TileSource]:
    tiles: dict[str, TileSource] = {}
    listing = Listing()
    for folder in folders(options, listing, part="train", holds=lambda folder: "images" in folder.folders):
        rgb = listing.folder(join(folder.path, "images/rgb"))
        classes = _classes(listing.folder(join(folder.path, "labels"))) if rgb.rasters else ()
        for name in rgb.rasters:
            path = join(rgb.path, name)
            tiles[path] = _tile(path, name, folder, classes, listing)
    return checked(tiles, options, "images/rgb/*.jpg")


def _classes(labels: Folder) -> tuple[str, ...]:
    """The classes that have a folder: those of the list in its order, then any others by name."""
    others = [name for name in labels.folders if name not in CLASSES]
    found = (*(name for name in CLASSES if name in labels.folders), *others)
    if not found:
        raise LabelError(f"{labels.path}: holds no folder of a class, such as {CLASSES[0]}")
    return found


def _tile(path: str, name: str, folder: Folder, classes: Sequence[str], listing: Listing) -> TileSource:
    stem = name.rpartition(".")[0]

    def file(place: str, called: str) -> str:
        return partner(listing.folder(join(folder.path, place)), called, path)

    size = size_of(path)
    nir, boundary, mask = file("images/nir", name), file("boundaries", f"{stem}.png"), file("masks", f"{stem}.png")
    labels = {kind: file(f"labels/{kind}", f"{stem}.png") for kind in classes}
    for other in (nir, boundary, mask, *labels.values()):
        size_of(other, like=(path, size))
    bands = [Band("Byte", (Source(path, number),), name=colour) for number, colour in enumerate(_COLOURS, start=1)]
    bands.append(Band("Byte", (Source(nir),), name="nir"))
    inside = Band("Byte", (Source(boundary), Source(mask)), product=True)
    first = next(iter(labels.values()))
    return TileSource(
        path,
        LabelSource(first, virtual=_label(size, labels)),
        virtual=virtual_raster(*size, bands, mask=inside),
    )


def _label(size: tuple[int, int], labels: dict[str, str]) -> VirtualRaster:
    """One band: 0 normal, else the place in the list of classes; the first class is laid on last."""
    names = (NORMAL, *CLASSES, *(kind for kind in labels if kind not in CLASSES))
    codes = {kind: names.index(kind) for kind in labels}
    sources = [
        Source(path, lut=((0, 0), (1, codes[kind]), (255, codes[kind])), skip=0) for kind, path in labels.items()
    ]
    return virtual_raster(*size, [Band("Byte", tuple(reversed(sources)), categories=names)])


LAYOUT = Layout(_find)
