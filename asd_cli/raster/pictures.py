"""Pictures for people: arrays as PNG or JPEG bytes, bands stretched to RGB."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.io import MemoryFile

from asd_cli.raster.gdal import gdal_session, open_raster

_STRETCH = (2.0, 98.0)  # percentiles that become black and white
_NO_DATA = 150

Limits = tuple[tuple[float, float], ...]
"""What becomes black and white in each band."""


def png(pixels: NDArray[np.uint8]) -> bytes:
    """(3 or 4, H, W) uint8, RGB or RGBA -> PNG."""
    return _encoded(pixels, "PNG", ZLEVEL=6)


def jpeg(pixels: NDArray[np.uint8], quality: int = 82) -> bytes:
    """(3, H, W) uint8, RGB -> JPEG."""
    return _encoded(pixels, "JPEG", QUALITY=quality)


def _encoded(pixels: NDArray[np.uint8], driver: str, **options: Any) -> bytes:
    count, height, width = pixels.shape
    with gdal_session(), MemoryFile() as memory:
        options |= {"driver": driver, "count": count, "height": height, "width": width, "dtype": "uint8"}
        with open_raster(memory.name, "w", **options) as picture:
            picture.write(pixels)
        return bytes(memory.read())


def stretch_limits(bands: NDArray[np.float32], valid: NDArray[np.bool_], *, alike: bool) -> Limits:
    """Bands (C, H, W) -> limits of each, from its valid pixels; of all together if `alike`, which keeps colours."""
    if not valid.any():
        return tuple((0.0, 1.0) for _ in bands)
    if alike:
        low, high = np.percentile(bands[:, valid], _STRETCH)
        return tuple((float(low), float(high)) for _ in bands)
    return tuple((float(low), float(high)) for low, high in (np.percentile(band[valid], _STRETCH) for band in bands))


def stretched(bands: NDArray[np.float32], valid: NDArray[np.bool_], limits: Sequence[tuple[float, float]]) -> Any:
    """Bands (1 or 3, H, W) -> (3, H, W) uint8; what is not valid is grey."""
    picture = np.full((3, *valid.shape), _NO_DATA, np.uint8)
    for band in range(3):
        low, high = limits[band % len(limits)]
        shade = (bands[band % len(bands)].astype(np.float64) - low) / max(high - low, 1e-12)
        picture[band, valid] = (255 * shade[valid].clip(0, 1)).round().astype(np.uint8)
    return picture
