"""Virtual anomalies: an image after noise, band shuffling, brightness, contrast and solarisation (AAAI 2023, Sec. 3.2).

Built with Albumentations; noise and shuffling are transforms of our own on its base class, because its own stop at
128 bands.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # importing it must not look for updates online

import albumentations as A


@dataclass(frozen=True)
class Amplitudes:
    """Strengths of the transforms, on images scaled to [0, 1]; recorded in the model file.

    noise: largest standard deviation; brightness, contrast: largest relative change; solarize: threshold above which
    values are inverted; probability: that a transform takes part (the paper applies all in turn: 1).
    """

    noise: float = 0.2
    brightness: float = 0.3
    contrast: float = 0.5
    solarize: float = 0.6
    probability: float = 0.5

    def as_json(self) -> dict[str, float]:
        """The strengths by name."""
        return asdict(self)


PAPER_AMPLITUDES = Amplitudes(noise=0.2, brightness=0.2, contrast=0.2, solarize=0.6, probability=1.0)
"""All five in turn. Solarize threshold 0.2 on [-1, 1], as published, is 0.6 here. The published noise (variance
10-50, clipped) is
close to pure noise; a standard deviation of at most 0.2 keeps the image."""


class BandNoise(A.ImageOnlyTransform):  # type: ignore[misc]
    """Adds Gaussian noise of a random standard deviation up to `limit`; any number of bands; clips to [0, 1]."""

    def __init__(self, limit: float, p: float) -> None:
        super().__init__(p=p)
        self.limit = limit

    def apply(self, img: NDArray[np.float32], **params: Any) -> NDArray[np.float32]:
        """(H, W, bands) -> the same with noise."""
        deviation = self.random_generator.uniform(0.1, 1.0) * self.limit
        noise = self.random_generator.standard_normal(img.shape, dtype=np.float32)
        noisy: NDArray[np.float32] = np.clip(img + np.float32(deviation) * noise, 0.0, 1.0)
        return noisy


class BandShuffle(A.ImageOnlyTransform):  # type: ignore[misc]
    """Puts the bands in random order; any number of bands."""

    def apply(self, img: NDArray[np.float32], **params: Any) -> NDArray[np.float32]:
        """(H, W, bands) -> the same bands, reordered."""
        return np.ascontiguousarray(img[..., self.random_generator.permutation(img.shape[-1])])


class VirtualAnomalies:
    """Callable that turns an image in [0, 1] into a virtual anomaly; the same seed gives the same anomaly."""

    def __init__(self, amplitudes: Amplitudes) -> None:
        p = amplitudes.probability
        b, c, s = amplitudes.brightness, amplitudes.contrast, amplitudes.solarize
        self._compose = A.Compose(
            [
                BandNoise(amplitudes.noise, p=p),
                BandShuffle(p=p),
                A.RandomBrightnessContrast(brightness_limit=(-b, b), contrast_limit=(0.0, 0.0), p=p),
                A.RandomBrightnessContrast(brightness_limit=(0.0, 0.0), contrast_limit=(-c, c), p=p),
                A.Solarize(threshold_range=(s, s), p=p),
            ]
        )

    def __call__(self, unit: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
        """(bands, H, W) float32 in [0, 1] -> the same shape and range."""
        self._compose.set_random_seed(seed)
        image = np.ascontiguousarray(np.moveaxis(unit, 0, -1))
        changed: NDArray[np.float32] = self._compose(image=image)["image"]
        changed = changed.reshape(image.shape).astype(np.float32, copy=False)
        return np.ascontiguousarray(np.moveaxis(changed, -1, 0))
