"""What is known of normal pixels: their moments, and how much of the second one lies within tiles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

from asd_cli.density.moments import FloatArray, Moments


@dataclass(frozen=True, eq=False)
class NormalPixels:
    """Descriptors of normal pixels of one or more tiles.

    Attributes:
        moments: of all of them.
        within: (L, L) float64, the sum over tiles of the second moment about the tile's own mean.
        squares: the sum over tiles of the square of how many they are.
    """

    moments: Moments
    within: FloatArray
    squares: float

    @classmethod
    def of_tile(cls, moments: Moments) -> NormalPixels:
        """Those of a single tile."""
        return cls(moments, moments.second, float(moments.count) ** 2)

    @classmethod
    def of_all(cls, length: int, parts: Iterable[NormalPixels]) -> NormalPixels:
        """Those of all parts, whose descriptors have so many numbers."""
        return reduce(cls.merge, parts, cls.of_tile(Moments.empty(length)))

    def merge(self, other: NormalPixels) -> NormalPixels:
        """Those of the tiles of both."""
        moments = self.moments.merge(other.moments)
        return NormalPixels(moments, self.within + other.within, self.squares + other.squares)

    @property
    def tiles(self) -> float:
        """How many tiles with equally many pixels they are worth, 1 or more (Kish's effective size); of one pixel or
        more."""
        return float(self.moments.count) ** 2 / self.squares

    @property
    def between(self) -> FloatArray:
        """(L, L) covariance of the means of the tiles, each counted by its pixels; of one pixel or more."""
        return (self.moments.second - self.within) / self.moments.count
