"""The range of each band in normal pixels: computed once over all tiles, stored in the model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asd_cli.density.sample import PixelSample


@dataclass(frozen=True)
class Scaling:
    """low, high: (bands,) float32, the raw values that become -1 and +1 for the network (0 and 1 for virtual
    anomalies)."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]

    @classmethod
    def robust(cls, sample: PixelSample) -> Scaling:
        """The 0.5 % and 99.5 % quantiles of normal pixels, so that a few odd pixels cannot squeeze the rest."""
        return cls._widened(sample.quantile(0.005), sample.quantile(0.995))

    @classmethod
    def by_maximum(cls, sample: PixelSample) -> Scaling:
        """The paper's ``(x / max - 0.5) / 0.5`` with the largest normal value of each band."""
        return cls._widened(np.zeros(sample.bands), sample.maximum.astype(np.float64))

    @classmethod
    def _widened(cls, low: NDArray[np.float64], high: NDArray[np.float64]) -> Scaling:
        # a constant band has no range of its own
        high = np.where(high > low, high, low + np.maximum(np.abs(low), 1.0))
        return cls(low.astype(np.float32), high.astype(np.float32))

    def to_unit(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """(bands, H, W) raw -> [0, 1], clipped."""
        low, high = self.low[:, None, None], self.high[:, None, None]
        return np.clip((pixels - low) / (high - low), 0.0, 1.0).astype(np.float32)

    def from_unit(self, unit: NDArray[np.float32]) -> NDArray[np.float32]:
        """(bands, H, W) in [0, 1] -> raw."""
        low, high = self.low[:, None, None], self.high[:, None, None]
        return (unit * (high - low) + low).astype(np.float32)
