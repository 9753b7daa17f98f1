"""Filling invalid pixels from their valid neighbours, so that a score beside a gap does not see the gap."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from asd_cli.raster.scene import Chip

_Index = NDArray[np.intp]
_PART = 256  # side of the parts that are looked at one by one: most have nothing to fill


def fill_margin(reach: int) -> int:
    """Pixels around p, in chessboard distance, that decide what `fill_invalid` puts at p: ``2 * reach``."""
    return 2 * reach


def fill_invalid(chip: Chip, reach: int) -> Chip:
    """Chip with the same validity; invalid pixels near valid ones are filled from these, others are 0.

    An invalid pixel p with a valid pixel within chessboard distance `reach` takes the mean of q and p' = 2q - p,
    where q is the valid pixel nearest to p in the plane among those within that chessboard distance (ties:
    the upper, then the left one); if p' is invalid or outside the chip, the value of q. Mirroring alone keeps the
    texture but meets itself in edges that look odd, repeating q alone draws streaks; the mean of both did neither.

    What p gets depends only on pixels within `fill_margin(reach)` of p: filling a crop with that margin
    equals cropping the filled whole. Returns `chip` itself if every pixel is valid.
    """
    valid = chip.valid
    if valid.all():
        return chip
    pixels = np.where(valid, chip.pixels, np.float32(0))
    margin = fill_margin(reach)
    for top, left in product(*(range(0, n, _PART) for n in valid.shape)):
        above, before = min(top, margin), min(left, margin)
        around = np.s_[top - above : top + _PART + margin, left - before : left + _PART + margin]
        wanted = np.zeros_like(valid[around])
        inner = np.s_[above : above + _PART, before : before + _PART]
        wanted[inner] = ~valid[around][inner]
        if reach and wanted.any() and valid[around].any():
            _fill_part(pixels[:, *around], valid[around], wanted, reach)
    return Chip(pixels, valid)


def _fill_part(pixels: NDArray[np.float32], valid: NDArray[np.bool_], wanted: NDArray[np.bool_], reach: int) -> None:
    """Fill the `wanted` ones of pixels (C, h, w) in place, from valid ones only."""
    rows, cols, down, right = _nearest_valid(valid, wanted, reach)
    source_rows, source_cols = rows + 2 * down, cols + 2 * right
    height, width = valid.shape
    usable = (source_rows >= 0) & (source_rows < height) & (source_cols >= 0) & (source_cols < width)
    usable[usable] = valid[source_rows[usable], source_cols[usable]]
    source_rows = np.where(usable, source_rows, rows + down)
    source_cols = np.where(usable, source_cols, cols + right)
    nearest, mirrored = pixels[:, rows + down, cols + right], pixels[:, source_rows, source_cols]
    pixels[:, rows, cols] = nearest * np.float32(0.5) + mirrored * np.float32(0.5)


def _nearest_valid(
    valid: NDArray[np.bool_], wanted: NDArray[np.bool_], reach: int
) -> tuple[_Index, _Index, _Index, _Index]:
    """Rows and columns of wanted pixels near valid ones, and offsets (down, right) to the nearest of those.

    Nearest in the order of (down^2 + right^2, down, right). Within one column only the nearest pixel can
    win, so one look per column within `reach` is enough: the work is ``2 * reach + 1`` passes, whatever the
    mask.
    """
    vertical = np.pad(_nearest_in_column(valid, reach), ((0, 0), (reach, reach)), constant_values=reach + 1)
    rows, cols = np.nonzero(wanted & _column_within(vertical <= reach, reach))
    side = 2 * reach + 1
    best = np.full(rows.size, np.iinfo(np.int64).max)
    for right in range(-reach, reach + 1):
        down = vertical[rows, cols + (reach + right)].astype(np.int64)
        order = ((down * down + right * right) * side + (down + reach)) * side + (right + reach)
        np.minimum(best, order, out=best, where=down <= reach)
    right_best = best % side - reach
    down_best = best // side % side - reach
    return rows, cols, down_best, right_best


def _nearest_in_column(valid: NDArray[np.bool_], reach: int) -> NDArray[np.int32]:
    """Row offset to the nearest valid pixel of the column, upper first; ``reach + 1`` if there is none."""
    height = valid.shape[0]
    far = height + reach + 1
    row = np.arange(height, dtype=np.int32)[:, None]
    above = row - np.maximum.accumulate(np.where(valid, row, np.int32(-far)), axis=0)
    below = np.minimum.accumulate(np.where(valid, row, np.int32(height + far))[::-1], axis=0)[::-1] - row
    nearest = np.where(above <= below, -above, below)
    return np.where(np.abs(nearest) <= reach, nearest, np.int32(reach + 1)).astype(np.int32)


def _column_within(marked: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Whether a pixel of the row within `reach` columns is marked; `marked` is padded by `reach`."""
    counts = np.cumsum(marked, axis=1, dtype=np.int32)
    counts = np.pad(counts, ((0, 0), (1, 0)))
    span = 2 * reach + 1
    return np.asarray(counts[:, span:] > counts[:, :-span])
