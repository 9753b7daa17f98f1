"""Virtual anomalies: an image after noise, band shuffling, brightness, contrast and solarisation (AAAI 2023, Sec. 3.2).

Built with Albumentations; noise and shuffling are transforms of our own on its base class, because its own stop at
128 bands.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asd_cli.data.amplitudes import Amplitudes

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # importing it must not look for updates online

import albumentations as A


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
    """Callable that turns an image in [0, 1] into a virtual anomaly; the same seed gives the same anomaly.

    Which transforms take part does not depend on the pixels, and at least one does: noise where none is drawn.
    """

    def __init__(self, amplitudes: Amplitudes) -> None:
        self._probability = amplitudes.probability
        b, c, s = amplitudes.brightness, amplitudes.contrast, amplitudes.solarize
        transforms = (
            BandNoise(amplitudes.noise, p=1.0),
            BandShuffle(p=1.0),
            A.RandomBrightnessContrast(brightness_limit=(-b, b), contrast_limit=(0.0, 0.0), p=1.0),
            A.RandomBrightnessContrast(brightness_limit=(0.0, 0.0), contrast_limit=(-c, c), p=1.0),
            A.Solarize(threshold_range=(s, s), p=1.0),
        )
        self._steps = [A.Compose([transform]) for transform in transforms]

    def __call__(self, unit: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
        """(bands, H, W) float32 in [0, 1] -> the same shape and range."""
        random = np.random.default_rng(seed)
        chosen = random.random(len(self._steps)) < self._probability
        chosen[0] |= not chosen.any()
        seeds = random.integers(2**31, size=len(self._steps))
        image = np.ascontiguousarray(np.moveaxis(unit, 0, -1))
        changed = image
        for index in np.flatnonzero(chosen):
            step = self._steps[index]
            step.set_random_seed(int(seeds[index]))
            # the library drops or keeps the axis of a single band as it likes
            changed = step(image=changed)["image"].reshape(image.shape)
        return np.ascontiguousarray(np.moveaxis(changed, -1, 0), dtype=np.float32)
