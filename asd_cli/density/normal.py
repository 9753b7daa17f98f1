"""What is kept of normal pixels, tile by tile and of several together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asd_cli.density.moments import Moments


class NormalPixels(NamedTuple):
    """Moments of their descriptors, and some of these, a uniform sample: rows (k, L) float32."""

    moments: Moments
    rows: NDArray[np.float32]

    @classmethod
    def empty(cls, length: int) -> NormalPixels:
        """Of no pixels, whose descriptors have so many numbers."""
        return cls(Moments.empty(length), np.empty((0, length), np.float32))


def pooled(parts: Sequence[NormalPixels], kept: int, *, least: float = 0.0) -> NormalPixels:
    """All parts (one at least) together: their moments, and at most `kept` of their rows, from each by its share of
    the pixels, or `least` if that is more."""
    total = parts[0].moments
    for part in parts[1:]:
        total = total.merge(part.moments)
    counts = np.array([part.moments.count for part in parts], np.float64)
    shares = _shares(np.maximum(counts, least * counts.sum() * (counts > 0)), min(kept, int(counts.sum())))
    chosen = [_spread(part.rows, share) for part, share in zip(parts, shares, strict=True)]
    return NormalPixels(total, np.concatenate(chosen))


def _spread(rows: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """At most `count` of the rows, from all over them: they may lie tile by tile."""
    count = min(count, len(rows))
    return rows[(np.arange(count) * len(rows)) // max(count, 1)]


def _shares(weights: NDArray[np.float64], kept: int) -> list[int]:
    """`kept` shared out by weights, boundaries rounded so that the sum stays."""
    ends = np.concatenate([[0.0], np.cumsum(weights)])
    places = np.round(ends * (kept / max(float(ends[-1]), 1.0))).astype(int)
    return [int(share) for share in np.diff(places)]
