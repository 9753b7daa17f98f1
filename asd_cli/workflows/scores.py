"""The three kinds of score, their thresholds and their tags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from asd_cli.density.calibration import Calibration
from asd_cli.errors import InputError
from asd_cli.raster.writer import BandInfo

Kind = Literal["unit", "distance", "far"]
_BANDS = {
    "unit": BandInfo("anomaly score", "0-1, 0.5 at the threshold"),
    "distance": BandInfo("anomaly distance", "Mahalanobis distance"),
    "far": BandInfo("expected false-alarm rate", "share of normal pixels"),
}


@dataclass(frozen=True)
class ScoreScale:
    """From distances to the kind of score that is written, and the threshold of the polygons.

    `distance_threshold`: pixels at or above it are anomalous. `threshold`: the same in units of the score.
    """

    kind: Kind
    calibration: Calibration
    distance_threshold: float
    threshold: float

    @classmethod
    def build(cls, kind: Kind, calibration: Calibration, *, rate: float, threshold: float | None) -> ScoreScale:
        """From `--score`, `--false-alarm-rate` and `--threshold`.

        Raises:
            InputError: the threshold is outside the range of the score.
        """
        if threshold is None:
            distance = calibration.threshold if rate == calibration.false_alarm_rate else calibration.distance(rate)
            return cls(kind, calibration, distance, cls._score_of(kind, calibration, distance))
        low, high = {"unit": (0.0, 1.0), "distance": (0.0, np.inf), "far": (0.0, 1.0)}[kind]
        if not low < threshold < high:
            raise InputError(f"--threshold {threshold}: must be above {low:g} and below {high:g} for --score {kind}")
        if kind == "distance":
            distance = threshold
        elif kind == "unit":
            distance = float(calibration.distance_of_score(np.array([threshold]))[0])
        else:
            distance = calibration.distance(threshold)
        return cls(kind, calibration, distance, threshold)

    @staticmethod
    def _score_of(kind: Kind, calibration: Calibration, distance: float) -> float:
        if kind == "distance":
            return distance
        values = np.array([distance])
        return float((calibration.score if kind == "unit" else calibration.rate)(values)[0])

    @property
    def lower_is_anomalous(self) -> bool:
        """True for false-alarm rates."""
        return self.kind == "far"

    @property
    def band(self) -> BandInfo:
        """Description and unit of the written band."""
        return _BANDS[self.kind]

    def scores(self, distances: NDArray[np.float32]) -> NDArray[np.float32]:
        """Distances -> scores, NaN stays NaN."""
        if self.kind == "distance":
            return distances
        if self.kind == "unit":
            return self.calibration.score(distances)
        return self.calibration.rate(distances).astype(np.float32)
