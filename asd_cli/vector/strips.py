"""One row of windows of a map, packed: a bit a pixel, and the scores of the anomalous ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Scores = NDArray[np.float32]
_STRIP_PIXELS = 1 << 22  # as much as is unpacked at once


class WindowRow:
    """Windows of one height side by side, added from left to right and read back in strips of whole rows."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.filled = 0
        self._parts: list[tuple[int, NDArray[np.uint8], NDArray[np.int64], Scores]] = []

    def add(self, anomalous: Mask, score: Scores) -> None:
        """The next window: (height, w) each; the score counts where anomalous."""
        ends = np.concatenate([[0], np.cumsum(np.count_nonzero(anomalous, axis=1))])
        self._parts.append((self.filled, np.packbits(anomalous, axis=1), ends, score[anomalous]))
        self.filled += anomalous.shape[1]

    def strips(self) -> Iterator[tuple[Mask, Scores]]:
        """From top to bottom: (h, width) bool, and the scores of its anomalous pixels, row-major."""
        rows = max(1, _STRIP_PIXELS // self.width)
        for top in range(0, self.height, rows):
            yield self._strip(top, min(top + rows, self.height))

    def _strip(self, top: int, bottom: int) -> tuple[Mask, Scores]:
        mask = np.zeros((bottom - top, self.width), np.bool_)
        lines, scores = [], []
        stops = [start for start, *_ in self._parts[1:]] + [self.width]
        for (start, packed, ends, values), stop in zip(self._parts, stops, strict=True):
            mask[:, start:stop] = np.unpackbits(packed[top:bottom], axis=1, count=stop - start)
            lines.append(np.repeat(np.arange(bottom - top, dtype=np.uint32), np.diff(ends[top : bottom + 1])))
            scores.append(values[ends[top] : ends[bottom]])
        # windows come from left to right: a stable sort by line is row-major order
        order = np.argsort(np.concatenate(lines), kind="stable")
        return mask, np.concatenate(scores)[order]
