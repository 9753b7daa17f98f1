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


def pooled(parts: Sequence[NormalPixels], kept: int) -> NormalPixels:
    """All parts (one at least) together: their moments, and at most `kept` of their rows, from each by its share of
    the pixels."""
    total = parts[0].moments
    for part in parts[1:]:
        total = total.merge(part.moments)
    shares = _shares([part.moments.count for part in parts], kept)
    chosen = [_spread(part.rows, share) for part, share in zip(parts, shares, strict=True)]
    return NormalPixels(total, np.concatenate(chosen))


def added(earlier: NormalPixels, new: NormalPixels, kept: int, *, least: float) -> NormalPixels:
    """Both together: at most `kept` of their rows, from either by its share of the pixels, but no less than `least`;
    what one does not have comes from the other."""
    moments = earlier.moments.merge(new.moments)
    share = min(max(new.moments.count / max(moments.count, 1), least), 1 - least)
    of_new = min(round(share * kept), len(new.rows))
    of_earlier = min(kept - of_new, len(earlier.rows))
    rows = _spread(earlier.rows, of_earlier), _spread(new.rows, kept - of_earlier)
    return NormalPixels(moments, np.concatenate(rows))


def _spread(rows: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """At most `count` of the rows, from all over them: they may lie tile by tile."""
    count = min(count, len(rows))
    return rows[(np.arange(count) * len(rows)) // max(count, 1)]


def _shares(counts: Sequence[int], kept: int) -> list[int]:
    """`kept` shared out by counts, boundaries rounded so that the sum stays."""
    ends = np.cumsum([0, *counts], dtype=np.float64)
    places = np.round(ends * (min(kept, ends[-1]) / max(ends[-1], 1.0))).astype(int)
    return [int(share) for share in np.diff(places)]
