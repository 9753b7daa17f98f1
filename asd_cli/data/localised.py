"""Localised virtual anomalies: blobs of a normal image that show something else, and where they are.

The paper changes whole images (`augment`); a blob with its surroundings teaches what a boundary to something odd looks
like, and says pixel by pixel what is normal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
_ZOOMS = (0.5, 1.0, 2.0)
_MIDDLE = np.float32(0.5)  # of the range of normal pixels


class Patch(NamedTuple):
    """Another place: (bands, h, w) float32 and which of its pixels are normal (h, w)."""

    image: Image
    normal: Mask


DrawPatch = Callable[[tuple[int, int], np.random.Generator], Patch]
"""Gives a patch of (height, width) from a random place of the training tiles."""


@dataclass(frozen=True)
class LocalAmplitudes:
    """How strong localised virtual anomalies are, on images scaled to [0, 1]; recorded in the model file.

    blobs: most of them in an image. share: least and largest share of the image that each covers. grain: smallest and
    largest size of a blob's features in pixels. contrast: standard deviation of the logarithm of the contrast factor.
    colour: standard deviation of the shift of all bands, and again of each. noise: largest deviation of the noise of a
    constant colour. period: smallest and largest distance in pixels of the stripes of a pattern. relief: standard
    deviation of the difference of its two colours. blended: share of blobs through which the image shines.
    """

    blobs: int = 3
    share: tuple[float, float] = (0.05, 0.3)
    grain: tuple[float, float] = (3.0, 60.0)
    contrast: float = 0.125
    colour: float = 0.045
    noise: float = 0.2
    period: tuple[float, float] = (2.5, 24.0)
    relief: float = 0.3
    blended: float = 0.4

    def as_json(self) -> dict[str, object]:
        """The strengths by name."""
        return asdict(self)


class LocalAnomalies:
    """Fills blobs of an image from another place, scale and direction with strong changes of colour and contrast, with
    the image itself so changed, with a noisy constant colour, or with stripes or a grid; opaque or blended."""

    def __init__(self, amplitudes: LocalAmplitudes) -> None:
        self._a = amplitudes

    def __call__(self, unit: Image, draw: DrawPatch, random: np.random.Generator) -> tuple[Image, Mask]:
        """(bands, H, W) in about [0, 1] -> the same with anomalies, within [-1, 2], and where they are (H, W)."""
        image, changed = unit, np.zeros(unit.shape[1:], bool)
        for _ in range(random.integers(1, self._a.blobs + 1)):
            inside = blob(unit.shape[1:], random, share=self._a.share, grain=self._a.grain)
            filling, usable = self._filling(unit, draw, random)
            inside &= usable
            opacity = random.uniform(0.35, 0.9) if random.random() < self._a.blended else 1.0
            image = np.where(inside, image + np.float32(opacity) * (filling - image), image)
            changed |= inside
        return np.clip(image, -1.0, 2.0, dtype=np.float32), changed

    def _filling(self, unit: Image, draw: DrawPatch, random: np.random.Generator) -> tuple[Image, Mask]:
        """What fills a blob, of the image's shape, and where it can."""
        everywhere = np.ones(unit.shape[1:], bool)
        kind = random.integers(4)
        if kind == 0:
            return self._constant(unit.shape, random), everywhere
        if kind == 1:
            return self._pattern(unit.shape, random), everywhere
        if kind == 2:
            return self._changed(unit, random), everywhere
        patch = _elsewhere(unit.shape[1:], draw, random)
        return self._changed(patch.image, random), patch.normal

    def _changed(self, image: Image, random: np.random.Generator) -> Image:
        """Other order of bands, inverted, other contrast, shifted, noisy: each at random.

        Pixel by pixel, so that none outside the normal class has a say in another.
        """
        bands, a = len(image), self._a
        if random.random() < 0.35:
            image = image[random.permutation(bands)]
        if random.random() < 0.2:
            image = 1.0 - image
        image = (image - _MIDDLE) * np.float32(np.exp(random.normal(0.0, a.contrast))) + _MIDDLE
        if random.random() < 0.8:
            image = image + random.normal(0.0, a.colour, (bands, 1, 1)).astype(np.float32)
        if random.random() < 0.5:
            image = image + np.float32(random.normal(0.0, a.colour))
        if random.random() < 0.3:
            deviation = np.float32(random.uniform(0.05, 0.75) * a.noise)
            image = image + deviation * random.standard_normal(image.shape, dtype=np.float32)
        return image

    def _constant(self, shape: tuple[int, ...], random: np.random.Generator) -> Image:
        """One colour with noise, fine or smooth, of each band or of all."""
        bands, *size = shape
        colour = random.uniform(-0.25, 1.25, (bands, 1, 1)).astype(np.float32)
        grain = random.uniform(1.5, 6.0) if random.random() < 0.5 else 1.0
        layers = bands if random.random() < 0.5 else 1
        noise = np.stack([smooth_noise((size[0], size[1]), grain, random) for _ in range(layers)])
        return colour + np.float32(random.uniform(0.02, 1.0) * self._a.noise) * noise

    def _pattern(self, shape: tuple[int, ...], random: np.random.Generator) -> Image:
        """Stripes or a grid of two colours with a little noise, as much that people build looks from above."""
        bands, *size = shape
        period, angle = float(np.exp(random.uniform(*np.log(self._a.period)))), random.uniform(0.0, np.pi)
        weave = stripes((size[0], size[1]), period, angle, random)
        if random.random() < 0.5:
            weave = weave * stripes((size[0], size[1]), period * random.uniform(1.0, 3.0), angle + np.pi / 2, random)
        ground = random.uniform(-0.25, 1.25, (bands, 1, 1))
        relief = np.full((bands, 1, 1), random.normal(0.0, self._a.relief))
        if random.random() < 0.5:
            relief = relief + random.normal(0.0, self._a.relief, (bands, 1, 1))
        noise = np.float32(random.uniform(0.025, 0.5) * self._a.noise) * random.standard_normal(shape, dtype=np.float32)
        pattern: Image = ground.astype(np.float32) + relief.astype(np.float32) * weave + noise
        return pattern


def blob(
    shape: tuple[int, ...], random: np.random.Generator, *, share: tuple[float, float], grain: tuple[float, float]
) -> Mask:
    """(H, W) bool: thresholded smooth noise that covers a random `share`, with features of a random `grain` px."""
    size = float(np.exp(random.uniform(*np.log(grain))))
    noise = smooth_noise((shape[0], shape[1]), size, random)
    inside: Mask = noise > np.quantile(noise, 1.0 - random.uniform(*share))
    return inside


def stripes(shape: tuple[int, int], period: float, angle: float, random: np.random.Generator) -> Image:
    """(H, W) float32 in [0, 1]: parallel stripes every `period` px across `angle` (radians), of a random width and
    place, their edges a random part of a pixel or two wide."""
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    across = (rows * np.cos(angle) + cols * np.sin(angle)) / period + random.random()
    from_middle = np.abs(across % 1.0 - 0.5) * period
    reach, softness = random.uniform(0.075, 0.425) * period, random.uniform(0.3, 2.0)
    found: Image = np.clip(0.5 + (reach - from_middle) / softness, 0.0, 1.0).astype(np.float32)
    return found


def smooth_noise(shape: tuple[int, int], grain: float, random: np.random.Generator) -> Image:
    """(H, W) float32 of mean 0 and deviation about 1: normal noise on a grid of `grain` px, linear in between."""
    if grain <= 1.0:
        return random.standard_normal(shape, dtype=np.float32)
    cells = [int(np.ceil(n / grain)) + 2 for n in shape]
    coarse = random.standard_normal(cells, dtype=np.float32)
    weights = [_linear(n, cells_, grain, random) for n, cells_ in zip(shape, cells, strict=True)]
    noise = weights[0] @ coarse @ weights[1].T
    smooth: Image = ((noise - noise.mean()) / (noise.std() + np.float32(1e-6))).astype(np.float32)
    return smooth


def _linear(length: int, cells: int, grain: float, random: np.random.Generator) -> NDArray[np.float32]:
    """(length, cells): weights of linear interpolation at every pixel, from a random start within a cell."""
    places = random.random() + np.arange(length) / grain
    return np.maximum(0.0, 1.0 - np.abs(places[:, None] - np.arange(cells))).astype(np.float32)


def _elsewhere(shape: tuple[int, ...], draw: DrawPatch, random: np.random.Generator) -> Patch:
    """A patch of `shape` at another scale and in another direction."""
    zoom = float(random.choice(_ZOOMS))
    turns, mirror = int(random.integers(4)), random.random() < 0.5
    height, width = shape if turns % 2 == 0 else shape[::-1]
    image, normal = draw((int(np.ceil(height / zoom)), int(np.ceil(width / zoom))), random)
    if zoom > 1:
        image = image.repeat(2, axis=1).repeat(2, axis=2)
        normal = normal.repeat(2, axis=0).repeat(2, axis=1)
    elif zoom < 1:
        image = image.reshape(len(image), height, 2, width, 2).mean(axis=(2, 4))
        normal = np.logical_and.reduce([normal[i::2, j::2] for i in (0, 1) for j in (0, 1)])
    image, normal = image[:, :height, :width], normal[:height, :width]
    image, normal = np.rot90(image, turns, (1, 2)), np.rot90(normal, turns)
    return Patch(image[..., ::-1], normal[..., ::-1]) if mirror else Patch(image, normal)
