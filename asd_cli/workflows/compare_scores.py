"""What a comparison gathers while tiles are scored: overlap by region, speed, and small maps to look at."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asd_cli.data.tiles import TileSet
from asd_cli.metrics.overlap import OverlapHistogram
from asd_cli.raster.windows import Window
from asd_cli.vector.labels import IGNORED
from asd_cli.workflows.evaluate import Scored

PREVIEW_PX = 1024
"""Longest side in pixels of the maps that are kept."""
Floats = NDArray[np.float32]


def preview_file(folder: Path) -> Path:
    """Where a run keeps its maps."""
    return folder / "maps.npz"


def thinned(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """(..., H, W) -> every n-th row and column, so that no side is longer than `PREVIEW_PX`."""
    step = -(-max(values.shape[-2:]) // PREVIEW_PX)
    return values[..., ::step, ::step]


class ScoreWatch:
    """Watches an evaluation window by window; memory: one tile, and small maps of the tiles that are `shown`."""

    def __init__(self, tiles: TileSet, shown: Collection[int]) -> None:
        self._tiles, self._shown = tiles, set(shown)
        self._overlap = OverlapHistogram()
        self._place = -1
        self._scores = np.empty((0, 0), np.float32)
        self._known = self._anomalous = np.empty((0, 0), np.bool_)
        self._previews: dict[int, Floats] = {}
        self.pixels = 0
        self.seconds = 0.0

    def __call__(self, place: int, window: Window, scored: Scored, seconds: float) -> None:
        """See `Watch`."""
        self.pixels += window.height * window.width
        self.seconds += seconds
        if place != self._place:
            self._finish_tile()
            self._begin_tile(place)
        part = np.s_[window.row : window.row_stop, window.col : window.col_stop]
        self._scores[part] = scored.scores
        self._anomalous[part] = self._tiles.anomalous_class(scored.codes) != IGNORED
        self._known[part] = scored.normal | self._anomalous[part]

    def _begin_tile(self, place: int) -> None:
        shape = (self._tiles.grids[place].height, self._tiles.grids[place].width)
        self._place = place
        self._scores = np.full(shape, np.nan, np.float32)
        self._known, self._anomalous = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)

    def _finish_tile(self) -> None:
        if self._place < 0:
            return
        self._overlap.add(np.where(self._known, self._scores, np.float32(np.nan)), self._anomalous)
        if self._place in self._shown:
            self._previews[self._place] = thinned(self._scores).astype(np.float32)
        self._place = -1

    def region_overlap(self) -> float:
        """Area under mean region overlap over false-alarm rate up to 0.3, in [0, 1]; NaN without a region."""
        self._finish_tile()
        return self._overlap.aupro()

    def previews(self) -> dict[int, Floats]:
        """Distances (h, w) of the tiles that are shown, thinned, by place."""
        self._finish_tile()
        return self._previews
