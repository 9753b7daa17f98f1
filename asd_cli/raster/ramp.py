"""The colours of anomaly scores, the same in styles, quicklooks and reports."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]

COLOURS: tuple[Colour, ...] = ((255, 222, 74), (255, 166, 43), (240, 92, 44), (196, 28, 78), (104, 8, 92))
"""RGB from the threshold (yellow) to far beyond it (purple)."""
_BELOW: tuple[Colour, Colour] = ((244, 244, 240), (190, 192, 188))  # from ordinary to nearly anomalous
_UNIT_SPAN = 0.6  # of the way to 1: at the threshold 0.5 this is a distance of 4 thresholds, as below
_FAR_SPAN = 1000.0  # the last colour is for rates this many times below the threshold
_DISTANCE_SPAN = 3.0  # and for distances this many thresholds above it
SCORE_KINDS = ("unit", "distance", "far")


@dataclass(frozen=True)
class ScoreRamp:
    """Colours of scores of a kind (unit, distance, far); what is not anomalous has none, or is grey.

    `threshold` is a float32 number as written, > 0 (below 1 for unit and far); for `far` low scores are anomalous.
    """

    kind: str
    threshold: float

    @property
    def lower_is_anomalous(self) -> bool:
        """True for false-alarm rates."""
        return self.kind == "far"

    def stops(self) -> list[tuple[float, Colour]]:
        """Scores with their colours, from the threshold on: ascending, for `far` descending."""
        steps = np.linspace(0, 1, len(COLOURS))
        return [(self._value(float(step)), colour) for step, colour in zip(steps, COLOURS, strict=True)]

    def _value(self, fraction: float) -> float:
        if self.kind == "unit":
            return self.threshold + _UNIT_SPAN * (1 - self.threshold) * fraction
        if self.kind == "distance":
            return self.threshold * (1 + _DISTANCE_SPAN * fraction)
        return float(self.threshold * _FAR_SPAN**-fraction)

    def anomalous(self, scores: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Scores as written -> whether they are anomalous; NaN is not."""
        limit = np.float32(self.threshold)
        with np.errstate(invalid="ignore"):
            return np.asarray(scores <= limit if self.lower_is_anomalous else scores >= limit)

    def rgba(self, scores: NDArray[np.float32], *, below: bool) -> NDArray[np.uint8]:
        """Scores (H, W) -> (4, H, W) uint8; NaN is transparent, and what is not anomalous grey if `below`, else too."""
        picture = np.zeros((4, *scores.shape), np.uint8)
        anomalous = self.anomalous(scores)
        ordinary = ~np.isnan(scores) & ~anomalous
        _paint(picture, anomalous, self._fractions(scores[anomalous]), COLOURS)
        if below:
            _paint(picture, ordinary, self._nearness(scores[ordinary]), _BELOW)
        return picture

    def _fractions(self, scores: NDArray[np.float32]) -> NDArray[np.float64]:
        """Inverse of `_value` for anomalous scores, at most 1."""
        values = scores.astype(np.float64)
        if self.kind == "unit":
            return (values - self.threshold) / (_UNIT_SPAN * (1 - self.threshold))
        if self.kind == "distance":
            return (values / self.threshold - 1) / _DISTANCE_SPAN
        floor = self.threshold / _FAR_SPAN
        return np.asarray(np.log(self.threshold / np.maximum(values, floor)) / np.log(_FAR_SPAN))

    def _nearness(self, scores: NDArray[np.float32]) -> NDArray[np.float64]:
        """How near ordinary scores are to the threshold, 0 to 1."""
        values = scores.astype(np.float64)
        if self.lower_is_anomalous:
            return np.asarray(np.log(np.maximum(values, self.threshold)) / np.log(self.threshold))
        return values / self.threshold


def _paint(
    picture: NDArray[np.uint8], where: NDArray[np.bool_], fractions: NDArray[np.float64], colours: tuple[Colour, ...]
) -> None:
    """Give the pixels `where` the colours at `fractions` (clipped to 0 to 1), opaque."""
    places = np.linspace(0, 1, len(colours))
    for band, values in enumerate(zip(*colours, strict=True)):
        picture[band, where] = np.interp(fractions, places, values).round().astype(np.uint8)
    picture[3, where] = 255
