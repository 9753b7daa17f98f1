"""The range of each band in normal pixels: computed once over all tiles, stored in the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from asd_cli.density.sample import PixelSample

_CONSTANT = 1e-6  # range of a band, relative to its values, that is no more than rounding
_LEAST = 1e-30  # range whose reciprocal float32 still knows
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Scaling:
    """low, high: (bands,) float32, the raw values that become -1 and +1 for the network (0 and 1 for virtual
    anomalies)."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]

    @classmethod
    def of(cls, kind: Literal["robust", "maximum"], sample: PixelSample) -> Scaling:
        """`robust` or `by_maximum`."""
        return cls.robust(sample) if kind == "robust" else cls.by_maximum(sample)

    @classmethod
    def robust(cls, sample: PixelSample) -> Scaling:
        """The 0.5 % and 99.5 % quantiles of normal pixels, so that a few odd pixels cannot squeeze the rest.

        A band whose quantiles coincide takes its least and largest value.
        """
        low, high = sample.quantile(0.005), sample.quantile(0.995)
        alike = high <= low
        low, high = np.where(alike, sample.minimum, low), np.where(alike, sample.maximum, high)
        return cls._widened(low, high)

    @classmethod
    def by_maximum(cls, sample: PixelSample) -> Scaling:
        """The paper's ``(x / max - 0.5) / 0.5`` with the largest normal value of each band.

        A band without a value above 0 takes its least and largest value.
        """
        low = np.where(sample.maximum > 0, np.float32(0), sample.minimum)
        return cls._widened(low, sample.maximum)

    @classmethod
    def _widened(cls, low: NDArray[np.floating], high: NDArray[np.floating]) -> Scaling:
        """As float32; a band that is constant, as far as float32 can tell, has no range of its own."""
        low, high = low.astype(np.float32), high.astype(np.float32)
        start, stop = low.astype(np.float64), high.astype(np.float64)
        size = np.maximum(np.abs(start), np.abs(stop))
        constant = stop - start <= np.maximum(_CONSTANT * size, _LEAST)
        stop = np.where(constant, np.minimum(start + np.maximum(size, 1.0), _LARGEST), stop)
        return cls(low, stop.astype(np.float32))

    def to_unit(self, pixels: NDArray[np.float32], *, margin: float = 0.0) -> NDArray[np.float32]:
        """(bands, H, W) raw -> [0, 1], clipped; with a margin -> [-margin, 1 + margin]."""
        low, high = self.low[:, None, None].astype(np.float64), self.high[:, None, None].astype(np.float64)
        away = margin * (high - low)
        # clipped first: far outside a narrow range the quotient would overflow
        return ((np.clip(pixels, low - away, high + away) - low) / (high - low)).astype(np.float32)

    def from_unit(self, unit: NDArray[np.float32]) -> NDArray[np.float32]:
        """(bands, H, W) in [0, 1] -> raw."""
        low, high = self.low[:, None, None], self.high[:, None, None]
        return (unit * (high - low) + low).astype(np.float32)
