"""Mergeable central moments of descriptors: one pass, constant memory, float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_CHUNK = 1 << 16


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over descriptors, with y = descriptor - mean; all that Ledoit-Wolf shrinkage needs.

    Attributes:
        count: number of descriptors.
        mean: (L,) float64.
        second: (L, L) float64, sum of y y^T.
        third: (L,) float64, sum of |y|^2 y.
        fourth: sum of |y|^4.
    """

    count: int
    mean: FloatArray
    second: FloatArray
    third: FloatArray
    fourth: float

    @classmethod
    def empty(cls, length: int) -> Moments:
        """Moments of no descriptors; the neutral element of `merge`."""
        return cls(0, np.zeros(length), np.zeros((length, length)), np.zeros(length), 0.0)

    @classmethod
    def of(cls, values: NDArray[np.floating]) -> Moments:
        """Moments of (n, L) descriptors; memory beyond `values` is one chunk of 65,536 rows."""
        if values.ndim != 2:
            raise ValueError(f"descriptors must be (n, L), got shape {values.shape}")
        total = cls.empty(values.shape[1])
        for start in range(0, len(values), _CHUNK):
            total = total.merge(cls._of_chunk(values[start : start + _CHUNK].astype(np.float64)))
        return total

    @classmethod
    def _of_chunk(cls, values: FloatArray) -> Moments:
        mean = values.mean(axis=0)
        centred = values - mean
        # A second pass removes the rounding of the mean, which matters under a large offset.
        correction = centred.mean(axis=0)
        centred -= correction
        squares = np.einsum("ij,ij->i", centred, centred)
        return cls(len(values), mean + correction, centred.T @ centred, squares @ centred, float(squares @ squares))

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets together; associative and commutative up to rounding."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"descriptor lengths differ: {len(self.mean)} and {len(other.mean)}")
        if other.count == 0:
            return self
        if self.count == 0:
            return other
        count = self.count + other.count
        gap = other.mean - self.mean
        # Shifts come from the gap, never from differences of means, which would lose digits.
        left = self._moved(gap * (other.count / count))
        right = other._moved(gap * (-self.count / count))
        return Moments(
            count,
            left.mean if self.count >= other.count else right.mean,
            left.second + right.second,
            left.third + right.third,
            left.fourth + right.fourth,
        )

    def _moved(self, shift: FloatArray) -> Moments:
        """The same sums about mean + shift, by expanding (y - shift) with sum y = 0."""
        size = float(shift @ shift)
        trace = float(np.trace(self.second))
        along = self.second @ shift
        return Moments(
            self.count,
            self.mean + shift,
            self.second + self.count * np.outer(shift, shift),
            self.third - trace * shift - 2.0 * along - self.count * size * shift,
            self.fourth
            + 4.0 * float(shift @ along)
            + self.count * size * size
            - 4.0 * float(shift @ self.third)
            + 2.0 * size * trace,
        )

    @property
    def covariance(self) -> FloatArray:
        """(L, L) second / count: the maximum-likelihood covariance (NaN when empty)."""
        if self.count == 0:
            return np.full_like(self.second, np.nan)
        return self.second / self.count
