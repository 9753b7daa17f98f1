"""The three kinds of score, their thresholds and their tags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from asd_cli.density.calibration import Calibration
from asd_cli.errors import InputError
from asd_cli.options import PredictOptions
from asd_cli.raster.writer import BandInfo

Kind = Literal["unit", "distance", "far"]
_BANDS = {
    "unit": BandInfo("anomaly score", "0-1, 0.5 at the model's threshold"),
    "distance": BandInfo("anomaly distance", "Mahalanobis distance"),
    "far": BandInfo("expected false-alarm rate", "share of normal pixels"),
}


@dataclass(frozen=True)
class Level:
    """A kind of score and a threshold, a float32 number in its units: a pixel is anomalous if its score, as written, is
    at least the threshold (at most, for false-alarm rates)."""

    kind: Kind
    threshold: np.float32

    @property
    def lower_is_anomalous(self) -> bool:
        """True for false-alarm rates."""
        return self.kind == "far"

    @property
    def band(self) -> BandInfo:
        """Description and unit of the written band."""
        return _BANDS[self.kind]

    def anomalous(self, scores: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Scores, as they are written -> whether they are anomalous; NaN is not."""
        return is_anomalous(scores, self.threshold, lower=self.lower_is_anomalous)


@dataclass(frozen=True)
class ScoreScale(Level):
    """A level, and how distances become scores of its kind."""

    calibration: Calibration

    @classmethod
    def build(cls, kind: Kind, calibration: Calibration, *, rate: float, threshold: float | None) -> ScoreScale:
        """From `--score`, `--false-alarm-rate` and `--threshold`.

        Raises:
            InputError: the threshold is outside the range of the score.
        """
        if threshold is not None:
            return cls(kind, checked_threshold("--threshold", threshold, kind), calibration)
        distance = calibration.threshold if rate == calibration.false_alarm_rate else calibration.distance(rate)
        if kind == "distance":
            return cls(kind, _at_least(distance), calibration)
        scores = calibration.score if kind == "unit" else calibration.rate
        return cls(kind, np.float32(scores(np.array([distance]))[0]), calibration)

    @classmethod
    def chosen(cls, options: PredictOptions, calibration: Calibration) -> ScoreScale:
        """See `build`."""
        rate = options.false_alarm_rate or calibration.false_alarm_rate
        return cls.build(options.score, calibration, rate=rate, threshold=options.threshold)

    @property
    def false_alarm_rate(self) -> float:
        """Expected share of normal pixels that are anomalous."""
        if self.kind == "far":
            return float(self.threshold)
        distance = float(self.threshold)
        if self.kind == "unit":
            distance = float(self.calibration.distance_of_score(np.array([distance]))[0])
        return float(self.calibration.rate(np.array([distance]))[0])

    def scores(self, distances: NDArray[np.float32]) -> NDArray[np.float32]:
        """Distances -> scores, NaN stays NaN."""
        if self.kind == "distance":
            return distances
        if self.kind == "unit":
            return self.calibration.score(distances)
        return self.calibration.rate(distances).astype(np.float32)


def is_anomalous(scores: NDArray[np.float32], threshold: np.float32, *, lower: bool) -> NDArray[np.bool_]:
    """Whether scores reach the threshold, downwards if `lower`; NaN does not."""
    with np.errstate(invalid="ignore"):
        return np.asarray(scores <= threshold if lower else scores >= threshold)


def checked_threshold(option: str, value: float, kind: Kind) -> np.float32:
    """A number in units of a score, as `option` gives it, as pixels are compared with it.

    Raises:
        InputError: it is outside the range of the score.
    """
    low, high = {"unit": (0.0, 1.0), "distance": (0.0, np.inf), "far": (0.0, 1.0)}[kind]
    with np.errstate(over="ignore"):
        given = np.float32(value)
    if not low < given < high:
        raise InputError(f"{option} {value}: must be above {low:g} and below {high:g} for --score {kind}")
    return given


def _at_least(value: float) -> np.float32:
    """The smallest float32 that is not below."""
    near = np.float32(value)
    return near if float(near) >= value else np.nextafter(near, np.float32(np.inf))
