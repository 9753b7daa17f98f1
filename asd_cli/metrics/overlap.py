"""Overlap by region, so that a small region counts as much as a large one.

Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 129 (2021): per-region overlap (PRO).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from asd_cli.errors import InputError
from asd_cli.metrics.histogram import BINS, score_bins

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RegionOverlap:
    """Overlap with labelled regions, in the order of their first pixels.

    Attributes:
        covered: (R,) int64 pixels of each region that are called anomalous.
        sizes: (R,) int64 valid pixels of each region, > 0.
    """

    covered: IntArray
    sizes: IntArray

    @property
    def shares(self) -> FloatArray:
        """(R,) share in [0, 1] of each region that is called anomalous."""
        return self.covered / self.sizes

    @property
    def mean(self) -> float:
        """Mean share over the regions, each with the same weight; NaN without regions."""
        return float(self.shares.mean()) if self.sizes.size else float("nan")


def region_overlap(
    anomalous: NDArray[np.bool_], label: NDArray[np.bool_], valid: NDArray[np.bool_] | None = None
) -> RegionOverlap:
    """Share of every labelled region (8-connected pixels of `label`) that `anomalous` covers.

    Arrays are (H, W), or (T, H, W) for T separate tiles. Pixels outside `valid` count for nothing, yet do not
    split a region; a region without a valid pixel is left out.

    Raises:
        InputError: shapes differ, are neither (H, W) nor (T, H, W), or arrays are not boolean.
    """
    regions, number = _regions(anomalous, label)
    if anomalous.dtype != np.bool_:
        raise InputError(f"called pixels are {anomalous.dtype}, not boolean; compare the scores with a threshold")
    counted = regions if valid is None else np.where(valid, regions, 0)
    sizes = np.bincount(counted.reshape(-1), minlength=number + 1)[1:]
    covered = np.bincount(counted[anomalous], minlength=number + 1)[1:]
    return RegionOverlap(covered[sizes > 0].astype(np.int64), sizes[sizes > 0].astype(np.int64))


def aupro(score: NDArray[np.floating], label: NDArray[np.bool_], fpr_limit: float = 0.3) -> float:
    """Area under mean region overlap over false-positive rate up to `fpr_limit`, divided by it: in [0, 1].

    Score (H, W) or (T, H, W), higher = more anomalous, NaN = invalid; label True = anomalous. All thresholds
    count; the curve is linear between them. NaN without a labelled region or without normal pixels.

    Raises:
        InputError: shapes differ or are neither (H, W) nor (T, H, W), labels are not boolean, or the limit is
            outside (0, 1].
    """
    if not 0.0 < fpr_limit <= 1.0:
        raise InputError(f"false-positive limit {fpr_limit:g} is outside 0 to 1; 0.3 is usual")
    regions, number = _regions(score, label)
    scored = ~np.isnan(score)
    inside = regions[scored]
    sizes = np.bincount(inside, minlength=number + 1)
    present = int(np.count_nonzero(sizes[1:]))
    if present == 0 or sizes[0] == 0:
        return float("nan")
    # A pixel of a region adds its share of that region's overlap, a normal pixel its share of the rate.
    weights = 1.0 / (np.maximum(sizes, 1) * float(present))
    weights[0] = 0.0
    values = score[scored]
    order = np.argsort(values)[::-1]
    values, inside = values[order], inside[order]
    last = np.append(np.flatnonzero(values[1:] != values[:-1]), values.size - 1)
    overlap = np.concatenate([[0.0], np.cumsum(weights[inside])[last]])
    fpr = np.concatenate([[0.0], (np.cumsum(inside == 0)[last]) / sizes[0]])
    return _area(fpr, overlap, fpr_limit) / fpr_limit


class OverlapHistogram:
    """`aupro` of many tiles in constant memory (16 MiB): scores are binned, 2^-12 of their value wide."""

    def __init__(self) -> None:
        self._overlap = np.zeros(BINS)
        self._normal = np.zeros(BINS, dtype=np.int64)
        self._regions = 0

    def add(self, score: NDArray[np.floating], label: NDArray[np.bool_]) -> None:
        """Take in one tile (H, W): score >= 0, higher = more anomalous, NaN = invalid; label True = anomalous.

        Raises:
            InputError: shapes differ or are not (H, W), or labels are not boolean.
        """
        regions, number = _regions(score, label)
        scored = ~np.isnan(score)
        inside, bins = regions[scored], score_bins(score[scored].astype(np.float32))
        sizes = np.bincount(inside, minlength=number + 1)
        chosen = inside > 0
        np.add.at(self._overlap, bins[chosen], 1.0 / sizes[inside[chosen]])
        np.add.at(self._normal, bins[~chosen], 1)
        self._regions += int(np.count_nonzero(sizes[1:]))

    def aupro(self, fpr_limit: float = 0.3) -> float:
        """As the function `aupro` of all tiles together; NaN without a labelled region or without normal pixels."""
        negatives = int(self._normal.sum())
        if not (self._regions and negatives):
            return float("nan")
        filled = np.flatnonzero((self._normal > 0) | (self._overlap > 0))[::-1]
        overlap = np.concatenate([[0.0], np.cumsum(self._overlap[filled]) / self._regions])
        fpr = np.concatenate([[0.0], np.cumsum(self._normal[filled]) / negatives])
        return _area(fpr, overlap, fpr_limit) / fpr_limit


def _area(x: FloatArray, y: FloatArray, limit: float) -> float:
    """Trapezoidal area from 0 to `limit` <= x[-1]; x ascending, with steps where values repeat."""
    place = int(np.searchsorted(x, limit, side="right"))
    if place == x.size:
        ends_x, ends_y = x, y
    else:
        step = (limit - x[place - 1]) / (x[place] - x[place - 1])
        ends_x = np.append(x[:place], limit)
        ends_y = np.append(y[:place], y[place - 1] + step * (y[place] - y[place - 1]))
    return float(np.sum(np.diff(ends_x) * (ends_y[1:] + ends_y[:-1])) / 2.0)


def _regions(pixels: NDArray[np.generic], label: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Numbers 1.. of the 8-connected regions, 0 elsewhere; tiles of a stack do not touch."""
    if pixels.shape != label.shape or label.ndim not in (2, 3):
        raise InputError(
            f"map {pixels.shape} and labels {label.shape} do not fit; both must be (H, W) or (tiles, H, W)"
        )
    if label.dtype != np.bool_:
        raise InputError(f"labels are {label.dtype}, not boolean; compare them with the anomalous class first")
    touching = np.ones((3, 3), dtype=bool)
    if label.ndim == 3:
        touching = np.zeros((3, 3, 3), dtype=bool)
        touching[1] = True
    numbered, number = ndimage.label(label, structure=touching)
    return numbered, int(number)
