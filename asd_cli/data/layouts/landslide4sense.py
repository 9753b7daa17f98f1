"""Landslide4Sense: ``img/image_N.h5`` with a dataset ``img`` (128, 128, 14), ``mask/mask_N.h5`` with ``mask`` of 0, 1.

Ghorbanzadeh et al., "The Outcome of the 2022 Landslide4Sense Competition", IEEE JSTARS 15 (2022). Bands 1 to 12 are
Sentinel-2 B1 to B12, 13 is slope, 14 elevation. They are published divided by the mean of each band; the layout
`UNDIVIDED` multiplies them by it, so that a model fits Sentinel-2 products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from asd_cli.data.discovery import TileSource
from asd_cli.data.layouts.base import Layout, checked, folders, partner
from asd_cli.data.listing import Folder, Listing, join
from asd_cli.errors import RasterError
from asd_cli.options import TileOptions
from asd_cli.raster.virtual import Band, Source, VirtualRaster, array_shape, virtual_raster
from asd_cli.vector.labels import LabelSource

DIVISORS = (
    *(1111.81236406, 824.63171476, 663.41636217, 445.17289745, 645.8582926, 1547.73508126, 1960.44401001),
    *(1941.32229668, 674.07572865, 9.04787384, 1113.98338755, 519.90397929, 20.29228266, 772.83144788),
)
"""Mean of each band, by which the published values are divided."""
_NAMES = (*(f"B{number}" for number in range(1, 13)), "slope", "DEM")
_CLASSES = ("background", "landslide")


def _images(folder: Folder, listing: Listing) -> list[str]:
    names = listing.folder(join(folder.path, "img")).files
    return [name for name in names if name.startswith("image_") and name.endswith(".h5")]


def _finder(factors: Sequence[float] | None) -> Callable[[TileOptions, Sequence[str]], list[TileSource]]:
    """Looks for tiles; `factors`: what each band is multiplied by."""

    def find(options: TileOptions, normal: Sequence[str]) -> list[TileSource]:
        tiles, listing = {}, Listing()
        given = folders(options, listing, part="TrainData", holds=lambda folder: bool(_images(folder, listing)))
        for folder in given:
            masks = listing.folder(join(folder.path, "mask"))
            for name in _images(folder, listing):
                path = join(folder.path, f"img/{name}")
                mask = partner(masks, name.replace("image_", "mask_", 1), path)
                tiles[path] = TileSource(path, LabelSource(mask, virtual=_label(mask)), virtual=_image(path, factors))
        return checked(tiles, options, "img/image_*.h5")

    return find


def _image(path: str, factors: Sequence[float] | None) -> VirtualRaster:
    """The array (H, W, C), whose last dimension becomes the bands."""
    shape, dtype = array_shape(path, "img")
    if len(shape) != 3 or (factors is not None and shape[2] != len(factors)):
        raise RasterError(f"{path}: its array 'img' is {' x '.join(map(str, shape))}, not 128 x 128 x {len(DIVISORS)}")
    names = _NAMES if shape[2] == len(_NAMES) else ("",) * shape[2]
    bands = [
        Band(dtype, (Source(path, array="/img", view=f"[:,:,{place}]"),), name=name) for place, name in enumerate(names)
    ]
    plain = virtual_raster(shape[0], shape[1], bands)
    if factors is None:
        return plain
    scaled = [
        Band(dtype, (Source(plain.text, place, ratio=factor),), name=name)
        for place, (name, factor) in enumerate(zip(names, factors, strict=True), start=1)
    ]
    return VirtualRaster(virtual_raster(shape[0], shape[1], scaled).text, plain.files)


def _label(path: str) -> VirtualRaster:
    shape, dtype = array_shape(path, "mask")
    source = Source(path, array="/mask", view="[:,:]")
    return virtual_raster(shape[0], shape[1], [Band(dtype, (source,), categories=_CLASSES)])


LAYOUT = Layout(_finder(None))
UNDIVIDED = Layout(_finder(DIVISORS))
