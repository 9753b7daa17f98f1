"""Runs of anomalous pixels and the connected components that they form. NumPy and SciPy only.

A *sheet* is a bool array (h + 1, W + 2): a margin of one empty column on the left and on the right, the last
pixel row of the strip above on top (empty for the first strip), then the h rows of this strip. All keys of
pixels below are ``row * (W + 2) + column`` with rows of the sheet and columns of the scene.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Runs:
    """Horizontal runs of anomalous pixels, row-major: columns ``start .. stop - 1`` of `row` of the sheet."""

    row: Ints
    start: Ints
    stop: Ints
    span: int

    @classmethod
    def of(cls, sheet: Mask) -> Runs:
        """The runs of a sheet."""
        span = sheet.shape[1]
        changes = np.flatnonzero(sheet[:, 1:] != sheet[:, :-1])
        row, column = np.divmod(changes, span - 1)
        return cls(row[0::2], column[0::2], column[1::2], span)

    def __len__(self) -> int:
        return len(self.row)

    @property
    def length(self) -> Ints:
        """Pixels in each run."""
        return self.stop - self.start

    def at(self, row: Ints, column: Ints) -> Ints:
        """The index of the run that holds each given pixel; the pixels must be anomalous."""
        keys = self.row * self.span + self.start
        return np.asarray(np.searchsorted(keys, row * self.span + column, side="right") - 1, dtype=np.int64)

    def neighbours(self, *, corners: bool) -> tuple[Ints, Ints]:
        """Pairs of runs (upper, lower) in adjoining rows that share a side or, with `corners`, a corner."""
        reach = int(corners)
        below = (self.row + 1) * self.span
        own = self.row * self.span
        first = np.searchsorted(own + self.stop, below + self.start - reach, side="right")
        last = np.searchsorted(own + self.start, below + self.stop + reach, side="left")
        count = last - first
        upper = np.repeat(np.arange(len(self)), count)
        lower = np.arange(len(upper)) - np.repeat(np.cumsum(count) - count - first, count)
        return upper, lower


def join(size: int, upper: NDArray[Any], lower: NDArray[Any]) -> tuple[int, Ints]:
    """Connected components of `size` nodes under edges (upper, lower): their number, each node's label."""
    if size == 0:
        return 0, np.zeros(0, np.int64)
    graph = coo_matrix((np.ones(len(upper), np.int8), (upper, lower)), shape=(size, size))
    number, labels = connected_components(graph, directed=False)
    return int(number), labels.astype(np.int64)


def join_runs(runs: Runs, carried: Ints, *, corners: bool) -> tuple[int, Ints]:
    """Components of the runs of a sheet; those of its top row are joined beforehand where `carried` is equal.

    Args:
        runs: all runs of the sheet; the first ``len(carried)`` lie in its top row.
        carried: what the runs of the top row are known to belong to, from the strips above.
        corners: join runs that touch at a corner only (8-connected pixels).
    """
    _, first, inverse = np.unique(carried, return_index=True, return_inverse=True)
    upper, lower = runs.neighbours(corners=corners)
    known = np.arange(len(carried))
    return join(len(runs), np.concatenate([upper, known]), np.concatenate([lower, first[inverse]]))
