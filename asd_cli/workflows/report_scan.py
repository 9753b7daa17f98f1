"""A finished map read once, window by window, for its report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asd_cli.errors import InputError
from asd_cli.raster.gdal import open_raster, reading
from asd_cli.raster.grid import Grid
from asd_cli.raster.overview import Reduction, most_anomalous
from asd_cli.raster.ramp import SCORE_KINDS, ScoreRamp
from asd_cli.raster.scene import Scene
from asd_cli.raster.windows import write_windows

MAP_SIDE = 1400  # cells of the overview map, the longer side at most
_WINDOW = 2048
_BINS = 80
_RAREST = 6  # the histogram of false-alarm rates ends at 10 to minus this


@dataclass(frozen=True)
class Scale:
    """Where scores stand on the axis of the histogram, anomalous ones to the right."""

    kind: str
    end: float

    def places(self, scores: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores (n,) -> places from 0 to 1."""
        values = scores.astype(np.float64)
        if self.kind == "far":
            values = -np.log10(np.maximum(values, 10.0**-_RAREST))
        return np.asarray((values / self.end).clip(0, 1))

    def ticks(self) -> list[tuple[float, str]]:
        """Places and labels."""
        steps = np.linspace(0, self.end, _RAREST + 1 if self.kind == "far" else 6)
        labels = [f"{10.0**-step:.6g}" if self.kind == "far" else f"{step:.3g}" for step in steps]
        return [(float(step / self.end), label) for step, label in zip(steps, labels, strict=True)]


@dataclass(frozen=True)
class Scan:
    """What one pass over a map tells: pixels counted, histogram, and the most anomalous score of each cell (h, w)."""

    grid: Grid
    tags: Mapping[str, str]
    ramp: ScoreRamp
    reduction: Reduction
    cells: NDArray[np.float32]
    scale: Scale
    counts: NDArray[np.int64]
    valid: int
    anomalous: int

    @property
    def pixels(self) -> int:
        """All pixels of the map."""
        return self.grid.width * self.grid.height

    @property
    def false_alarm_rate(self) -> float | None:
        """Expected share of normal pixels above the threshold; None where the map does not tell."""
        return _number(self.tags.get("ASD_FALSE_ALARM_RATE", ""))


def scan_map(path: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> Scan:
    """Read a score map; memory does not grow with it.

    Raises:
        RasterError: the file cannot be read.
        InputError: it is no score map of `asd predict`.
    """
    with Scene.open(path, bands=[1]) as scene:
        grid = scene.grid
        tags, maximum = _tags(path)
        ramp = _ramp(path, tags)
        scale = Scale(ramp.kind, _axis_end(ramp, maximum))
        reduction = Reduction.to(grid.shape, MAP_SIDE)
        cells = np.full(reduction.cells, np.nan, np.float32)
        counts = np.zeros(_BINS, np.int64)
        valid = anomalous = done = 0
        best = np.fmin if ramp.lower_is_anomalous else np.fmax
        for window in write_windows(grid.height, grid.width, _WINDOW):
            chip = scene.read(window)
            scores = np.where(chip.valid, chip.pixels[0], np.float32(np.nan))
            known = scores[chip.valid]
            valid += known.size
            anomalous += int(np.count_nonzero(ramp.anomalous(known)))
            counts += np.bincount((scale.places(known) * (_BINS - 1e-6)).astype(np.int64), minlength=_BINS)
            rows, cols, found = most_anomalous(scores, window, reduction.factor, lower=ramp.lower_is_anomalous)
            cells[rows, cols] = best(cells[rows, cols], found)
            done += window.height * window.width
            progress(done, grid.height * grid.width)
    return Scan(grid, tags, ramp, reduction, cells, scale, counts, valid, anomalous)


def _tags(path: Path) -> tuple[dict[str, str], str]:
    """The map's tags, and its largest score as noted, "" where it is not."""
    with reading(path), open_raster(path) as dataset:
        return dataset.tags(), dataset.tags(1).get("STATISTICS_MAXIMUM", "")


def _ramp(path: Path, tags: Mapping[str, str]) -> ScoreRamp:
    kind, threshold = tags.get("ASD_SCORE"), _number(tags.get("ASD_THRESHOLD", ""))
    if kind not in SCORE_KINDS or threshold is None or not 0 < threshold < (math.inf if kind == "distance" else 1):
        raise InputError(
            f"{path}: is no score map of asd (tags ASD_SCORE and ASD_THRESHOLD are missing or odd); "
            "give a raster that asd predict wrote"
        )
    return ScoreRamp(kind, threshold)


def _axis_end(ramp: ScoreRamp, maximum: str) -> float:
    if ramp.kind == "distance":
        return max(4 * ramp.threshold, _number(maximum) or 0.0)
    return float(_RAREST) if ramp.lower_is_anomalous else 1.0


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
