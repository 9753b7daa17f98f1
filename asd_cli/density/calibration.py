"""From distances to false-alarm rates and scores, measured on held-out normal pixels."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from asd_cli.density.moments import FloatArray
from asd_cli.errors import InputError, ModelFileError

_LOG = logging.getLogger(__name__)

_TAIL_KNOTS = 192
_BULK_KNOTS = 60
_LAST_RANK = 20
_TAIL_SHARE = 0.02
_TAIL_VALUES = 50
_MAX_SHAPE = 0.5
_FEW = 100
_PART = 1 << 14
_SMALLEST_RATE = float(np.finfo(np.float64).tiny)
_BELOW_ONE = np.nextafter(np.float32(1.0), np.float32(0.0))
_BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0.0))


@dataclass(frozen=True, eq=False)
class Calibration:
    """Expected false-alarm rate of a distance: the share of normal pixels that lie at it or beyond, of those that it is
    fitted to (of several tiles, `typical_distances`).

    Between the knots the logarithm of the rate is linear in the distance; beyond the last knot it follows a
    generalised Pareto tail (Pickands 1975) that starts at that knot.

    Attributes:
        knots: (K,) float64 distances, strictly increasing from 0.
        log_rates: (K,) float64 natural logarithms of the rate at the knots, strictly decreasing from 0.
        tail_scale: scale > 0 of the tail, in units of distance.
        tail_shape: shape in [0, 0.5] of the tail; 0 = exponential.
        false_alarm_rate: rate in (0, 1) at which the score is 0.5.
        count: number of held-out normal pixels behind the fit.
    """

    knots: FloatArray
    log_rates: FloatArray
    tail_scale: float
    tail_shape: float
    false_alarm_rate: float
    count: int

    def __post_init__(self) -> None:
        _check_rate(self.false_alarm_rate, below_one=True)

    @classmethod
    def fit(cls, distances: NDArray[np.floating], false_alarm_rate: float = 0.001) -> Calibration:
        """Calibrate on distances (n,) >= 0 of held-out normal pixels; memory about 16 bytes a value.

        The tail is fitted by probability-weighted moments (Hosking and Wallis 1987) to the largest 2 %, at
        least 50 values. Logs a warning when NaN or Inf had to be left out, and below 100 values.

        Raises:
            InputError: no finite distance, a negative one, or a rate outside (0, 1).
        """
        _check_rate(false_alarm_rate, below_one=True)
        ordered = _ordered(distances)
        knots, log_rates = _knots(ordered)
        scale, shape = _tail(ordered, float(knots[-1]))
        return cls(knots, log_rates, scale, shape, float(false_alarm_rate), int(ordered.size))

    def rate(self, distance: ArrayLike) -> FloatArray:
        """Distance (any shape) -> share in (0, 1] of normal pixels at it or beyond, float64; NaN stays."""
        away = np.maximum(np.asarray(distance, dtype=np.float64), 0.0)
        logs = np.asarray(np.interp(away, self.knots, self.log_rates))
        beyond = away > self.knots[-1]
        if beyond.any():
            steps = (away[beyond] - self.knots[-1]) / self.tail_scale
            if self.tail_shape > 0.0:
                steps = np.log1p(self.tail_shape * steps) / self.tail_shape
            logs[beyond] = self.log_rates[-1] - steps
        return np.maximum(np.exp(logs), _SMALLEST_RATE)

    def distance(self, rate: float) -> float:
        """Inverse of `rate`: the distance that the share `rate` in (0, 1] of normal pixels reaches.

        Raises:
            InputError: `rate` is outside (0, 1].
        """
        _check_rate(rate, below_one=False)
        log_rate = math.log(rate)
        if log_rate >= self.log_rates[-1]:
            return float(np.interp(-log_rate, -self.log_rates, self.knots))
        steps = float(self.log_rates[-1]) - log_rate
        if self.tail_shape > 0.0:
            steps = math.expm1(self.tail_shape * steps) / self.tail_shape
        return float(self.knots[-1]) + self.tail_scale * steps

    @cached_property
    def threshold(self) -> float:
        """Distance > 0 at the calibration's own false-alarm rate, where the score is 0.5."""
        return self.distance(self.false_alarm_rate)

    def score(self, distance: ArrayLike) -> NDArray[np.float32]:
        """Distance (any shape) -> distance / (distance + threshold), float32 in [0, 1); NaN stays NaN.

        Increases with the distance as far as float32 can tell; score >= 0.5 just where distance >= threshold.
        """
        given = np.asarray(distance)
        flat = given.reshape(-1)
        scores = np.empty(flat.size, np.float32)
        for start in range(0, flat.size, _PART):  # parts that the cache holds: three times as fast
            part = slice(start, start + _PART)
            scores[part] = self._score(np.maximum(flat[part].astype(np.float64), 0.0))
        return scores.reshape(given.shape)

    def _score(self, away: FloatArray) -> NDArray[np.float32]:
        # Written with the ratio, so that an infinite distance gives 1 rather than NaN.
        with np.errstate(divide="ignore", over="ignore"):
            exact = 1.0 / (1.0 + self.threshold / away)
        ceiling = np.where(away < self.threshold, _BELOW_HALF, _BELOW_ONE)
        return np.asarray(np.minimum(exact.astype(np.float32), ceiling))

    def distance_of_score(self, score: ArrayLike) -> FloatArray:
        """Inverse of `score`: score in [0, 1] -> distance, float64 (inf at 1).

        Raises:
            InputError: a score is outside [0, 1].
        """
        given = np.asarray(score, dtype=np.float64)
        outside = (given < 0.0) | (given > 1.0)
        if outside.any():
            raise InputError(f"score {given[outside].flat[0]:g} is outside 0 to 1; scores run from 0 to below 1")
        with np.errstate(divide="ignore"):
            return np.asarray(self.threshold * given / (1.0 - given))

    def to_arrays(self) -> dict[str, FloatArray]:
        """The calibration as named float64 arrays; `from_arrays` gives back exactly the same."""
        return {
            "knots": self.knots.copy(),
            "log_rates": self.log_rates.copy(),
            "tail": np.array([self.tail_scale, self.tail_shape]),
            "false_alarm_rate": np.array([self.false_alarm_rate]),
            "count": np.array([float(self.count)]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Calibration:
        """Rebuild a calibration from `to_arrays`.

        Raises:
            ModelFileError: an array is missing, has another shape or holds values that no calibration has.
        """
        knots, log_rates = _array(arrays, "knots", None), _array(arrays, "log_rates", None)
        scale, shape = (float(value) for value in _array(arrays, "tail", 2))
        false_alarm_rate = float(_array(arrays, "false_alarm_rate", 1)[0])
        count = int(_array(arrays, "count", 1)[0])
        if knots.shape != log_rates.shape:
            raise _damaged(f"{knots.size} knots but {log_rates.size} rates")
        if knots[0] != 0.0 or log_rates[0] != 0.0:
            raise _damaged("the knots do not start at distance 0 and rate 1")
        if (np.diff(knots) <= 0.0).any() or (np.diff(log_rates) >= 0.0).any():
            raise _damaged("the knots are not in order")
        if scale <= 0.0 or not 0.0 <= shape <= _MAX_SHAPE:
            raise _damaged(f"tail scale {scale:g} or shape {shape:g} is out of range")
        if not 0.0 < false_alarm_rate < 1.0:
            raise _damaged(f"false-alarm rate {false_alarm_rate:g} is outside 0 to 1")
        return cls(knots, log_rates, scale, shape, false_alarm_rate, count)


def _array(arrays: Mapping[str, NDArray[Any]], name: str, size: int | None) -> FloatArray:
    """One array of a stored calibration: a finite vector, of `size` values where that is given."""
    if name not in arrays:
        raise _damaged(f"'{name}' is missing")
    values = np.array(arrays[name], dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or (size is not None and values.size != size):
        raise _damaged(f"'{name}' has shape {values.shape} instead of ({size or 'K'},)")
    if not np.isfinite(values).all():
        raise _damaged(f"'{name}' is not finite")
    return values


def _damaged(what: str) -> ModelFileError:
    return ModelFileError(f"calibration: {what}; the model file is damaged, fit it again")


def _check_rate(rate: float, *, below_one: bool) -> None:
    if not (0.0 < rate < 1.0 or (rate == 1.0 and not below_one)):
        raise InputError(f"false-alarm rate {rate:g} is outside 0 to 1; give a small share such as 0.001")


def _ordered(distances: NDArray[np.floating]) -> FloatArray:
    """Finite distances in ascending order."""
    given = np.asarray(distances).reshape(-1)
    values = given[np.isfinite(given)].astype(np.float64)
    if values.size < given.size:
        dropped = given.size - values.size
        _LOG.warning("calibration: %d of %d distances are not finite and left out", dropped, given.size)
    if values.size == 0:
        raise InputError(
            f"calibration: none of {given.size} distances can be used; give held-out tiles with valid normal pixels"
        )
    values.sort()
    if values[0] < 0.0:
        raise InputError(f"calibration: distance {values[0]:g} is negative; distances must be 0 or more")
    if values.size < _FEW:
        _LOG.warning(
            "calibration: only %d held-out normal pixels; rates below %.2g are guesses; give more tiles",
            values.size,
            1.0 / values.size,
        )
    return values


def _knots(ordered: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Distances and log-rates at ranks that are log-spaced from both ends, the upper one down to rank 20."""
    count = ordered.size
    last = min(_LAST_RANK, max(1, count // 5))
    upper = np.geomspace(count, last, _TAIL_KNOTS)
    lower = count + 1 - np.geomspace(1, max(1, count // 2), _BULK_KNOTS)
    ranks = np.unique(np.rint(np.concatenate([upper, lower])).astype(np.int64))
    knots = np.unique(ordered[count - ranks])
    reaching = count - np.searchsorted(ordered, knots, side="left")
    # Half a pixel less keeps the rate at the smallest distance below 1, so that it falls strictly from 0 on.
    log_rates = np.log((reaching - 0.5) / count)
    if knots[0] == 0.0:
        log_rates[0] = 0.0
        return knots, log_rates
    return np.concatenate([[0.0], knots]), np.concatenate([[0.0], log_rates])


def _tail(ordered: FloatArray, start: float) -> tuple[float, float]:
    """Scale and shape of the generalised Pareto tail from `start` on."""
    count = ordered.size
    size = min(max(_TAIL_VALUES, math.ceil(_TAIL_SHARE * count)), max(count // 2, 1))
    origin = float(ordered[max(count - size - 1, 0)])
    excess = ordered[count - size :] - origin
    mean = float(excess.mean())
    # Weights 1 - (i - 0.35) / n: the plotting position that Hosking and Wallis recommend.
    weights = 1.0 - (np.arange(1, size + 1) - 0.35) / size
    weighted = float(np.mean(weights * excess))
    shape = 0.0
    if mean > 2.0 * weighted:
        shape = min(max(2.0 - mean / (mean - 2.0 * weighted), 0.0), _MAX_SHAPE)
    # Excesses over a later start follow the same shape with a larger scale.
    scale = mean * (1.0 - shape) + shape * max(start - origin, 0.0)
    largest = float(ordered[-1])
    floor = 1e-6 * largest if largest > 0.0 else 1e-6
    return max(scale, floor), shape
