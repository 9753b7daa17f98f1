"""A raster seen from afar: reduced reads in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling

from asd_cli.raster.gdal import to_rasterio
from asd_cli.raster.scene import Chip
from asd_cli.raster.windows import Window

_RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


@dataclass(frozen=True)
class Reduction:
    """A raster of `shape` (height, width) in cells of `factor` x `factor` px; those at the right and lower edge may
    hold less."""

    shape: tuple[int, int]
    factor: int

    @classmethod
    def to(cls, shape: tuple[int, int], longest: int) -> Reduction:
        """At most `longest` cells a side."""
        return cls(shape, max(1, -(-max(shape) // longest)))

    @property
    def cells(self) -> tuple[int, int]:
        """(height, width) in cells."""
        height, width = self.shape
        return -(-height // self.factor), -(-width // self.factor)


def fitted(shape: tuple[int, int], longest: int) -> tuple[int, int]:
    """(height, width) with the same proportions and no side above `longest`; never larger."""
    factor = max(1.0, max(shape) / longest)
    return max(1, round(shape[0] / factor)), max(1, round(shape[1] / factor))


def read_reduced(dataset: Any, bands: Sequence[int], shape: tuple[int, int], window: Window | None = None) -> Chip:
    """Bands of an open raster, or of a window inside it, averaged to `shape` (height, width); from its overviews where
    it has some."""
    box = None if window is None else to_rasterio(window)
    read = dataset.read(
        list(bands), out_shape=(len(bands), *shape), window=box, masked=True, resampling=Resampling.average
    )
    pixels = np.ma.getdata(read).astype(np.float32)
    valid = np.asarray(~np.ma.getmaskarray(read).any(axis=0) & np.isfinite(pixels).all(axis=0))
    return Chip(np.where(valid, pixels, np.float32(0)), valid)


def shown_bands(dataset: Any) -> tuple[int, ...]:
    """The bands that people see: red, green, blue if the file names them, else the first three, else the first."""
    kinds = list(dataset.colorinterp)
    if all(kind in kinds for kind in _RGB):
        return tuple(kinds.index(kind) + 1 for kind in _RGB)
    data = [band for band, kind in enumerate(kinds, start=1) if kind != ColorInterp.alpha] or [1]
    return tuple(data[:3]) if len(data) >= 3 else (data[0],)


def most_anomalous(
    values: NDArray[np.float32], window: Window, factor: int, *, lower: bool
) -> tuple[slice, slice, NDArray[np.float32]]:
    """The window's cells (rows, columns) with the highest score of each (lowest if `lower`); NaN where none is valid.

    Neighbouring windows may share cells: merge with `numpy.fmax` or `fmin`.
    """
    best = np.fmin if lower else np.fmax
    for axis, (start, stop) in enumerate(((window.row, window.row_stop), (window.col, window.col_stop))):
        edges = np.arange(start // factor, -(-stop // factor)) * factor
        values = best.reduceat(values, np.maximum(edges - start, 0), axis=axis)
    rows = slice(window.row // factor, window.row // factor + values.shape[0])
    return rows, slice(window.col // factor, window.col // factor + values.shape[1]), values
