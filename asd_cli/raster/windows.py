"""Windows of a scene in whole pixels: pure integer arithmetic, no files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels; it may reach over the edges of a scene (negative row or column)."""

    row: int
    col: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    @property
    def row_stop(self) -> int:
        """First row below the window."""
        return self.row + self.height

    @property
    def col_stop(self) -> int:
        """First column right of the window."""
        return self.col + self.width

    def expand(self, margin: int) -> Window:
        """The window with `margin` pixels more on each of its four sides (fewer if negative)."""
        return Window(self.row - margin, self.col - margin, self.height + 2 * margin, self.width + 2 * margin)

    def round_up(self, multiple: int) -> Window:
        """The window with height and width grown to whole multiples, to the right and downwards."""
        return Window(self.row, self.col, round_up(self.height, multiple), round_up(self.width, multiple))


def round_up(value: int, multiple: int) -> int:
    """Smallest multiple of `multiple` that is at least `value`."""
    return -(-value // multiple) * multiple


def write_windows(height: int, width: int, size: int) -> Iterator[Window]:
    """Windows of `size` x `size` px aligned to the origin, row by row, clipped to the scene; each pixel once."""
    for row in range(0, height, size):
        for col in range(0, width, size):
            yield Window(row, col, min(size, height - row), min(size, width - col))


def reflected_indices(start: int, stop: int, length: int) -> NDArray[np.intp]:
    """Indices in ``[0, length)`` for positions ``start .. stop-1``, mirrored at both ends without repeating the edge.

    Works for any distance beyond the edges and for a length of one.
    """
    positions = np.arange(start, stop)
    if length == 1:
        return np.zeros_like(positions)
    period = 2 * (length - 1)
    positions = np.abs(positions) % period
    return np.where(positions < length, positions, period - positions)
