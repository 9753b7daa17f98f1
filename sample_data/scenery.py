"""The canvas of the sample landscape, in pixels of 0.25 m, and the noise that it is made of.

Places are windows of one endless landscape. What is wide (stands, terrain, haze) is a function of position in
that landscape; what is fine (each tree, each tuft) is drawn from the seed of the place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]
Slices = tuple[slice, slice]

FINE = 0.25  # metres a canvas pixel
MARGIN = 32.0  # metres drawn around a place, so that shadows and crowns reach in from outside
NODATA, FOREST, CLEARING, TRACK, WATER, BUILDING, DEAD_TREE = range(7)

LITTER = (0.085, 0.082, 0.050)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> Array:
    """Smooth Gaussian noise (H, W) of unit variance; sigma in pixels."""
    step = max(1, int(sigma / 2))
    small = [size // step + 3 for size in shape]
    rough = rng.standard_normal(small, dtype=np.float32)
    rough = ndimage.gaussian_filter(rough, sigma / step, mode="wrap")
    rough /= rough.std()
    if step > 1:
        rough = ndimage.zoom(rough, step, order=1)
    return np.ascontiguousarray(rough[: shape[0], : shape[1]])


def landscape_field(seed: int, wavelength: float, east: Any, south: Any) -> Any:
    """A smooth random field (mean 0, variance 1) of the whole landscape: 24 plane waves; takes metres."""
    rng = np.random.default_rng([2025, seed])
    angle, phase = rng.uniform(0, 2 * np.pi, (2, 24))
    number = 2 * np.pi / (wavelength * rng.uniform(0.6, 1.8, 24))
    waves = zip(number * np.cos(angle), number * np.sin(angle), phase, strict=True)
    return sum(np.cos(kx * east + ky * south + start) for kx, ky, start in waves) / np.sqrt(12)


def mix(under: Any, over: Any, weight: Any) -> Any:
    """Blend two colours (3, ...) with a weight in [0, 1]."""
    return under + (over - under) * np.clip(weight, 0, 1)


def colour_of(rgb: tuple[float, float, float]) -> Array:
    """One reflectance triple as a (3, 1, 1) array."""
    return np.array(rgb, np.float32).reshape(3, 1, 1)


@dataclass
class Canvas:
    """Height, colour and code in pixels of `FINE` metres with a margin; (x, y) are metres from its inside."""

    east: float
    south: float
    width: float
    length: float
    rng: np.random.Generator
    shape: tuple[int, int] = field(init=False)
    height: Array = field(init=False)
    colour: Array = field(init=False)
    label: NDArray[np.uint8] = field(init=False)
    treeless: NDArray[np.bool_] = field(init=False)
    texture: dict[str, Array] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = (round((self.length + 2 * MARGIN) / FINE), round((self.width + 2 * MARGIN) / FINE))
        self.height = np.zeros(self.shape, np.float32)
        self.label = np.full(self.shape, FOREST, np.uint8)
        self.treeless = np.zeros(self.shape, bool)
        self.texture = {name: smooth_noise(self.rng, self.shape, sigma) for name, sigma in SCALES.items()}
        self.texture["clump"] = clumps(self.rng, self.shape)
        litter = colour_of(LITTER) * (1 + 0.25 * self.texture["tuft"] + 0.25 * self.texture["patch"])
        self.colour = mix(litter, colour_of((0.085, 0.110, 0.045)), 0.5 * self.texture["patch"])

    def window(self, x: float, y: float, reach: float) -> Slices:
        """The canvas pixels within `reach` metres of a point, cut at the edge."""
        row, col, half = (y + MARGIN) / FINE, (x + MARGIN) / FINE, reach / FINE
        rows = slice(max(0, int(row - half)), max(0, min(self.shape[0], int(row + half) + 2)))
        cols = slice(max(0, int(col - half)), max(0, min(self.shape[1], int(col + half) + 2)))
        return rows, cols

    def offsets(self, window: Slices, x: float, y: float, angle: float = 0.0) -> tuple[Array, Array]:
        """Metres (u, v) of each pixel of a window from a point, along and across `angle` (radians)."""
        rows, cols = window
        dx = (np.arange(cols.start, cols.stop, dtype=np.float32) + 0.5) * FINE - MARGIN - x
        dy = (np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5) * FINE - MARGIN - y
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        return dx[None] * c + dy[:, None] * s, dy[:, None] * c - dx[None] * s

    def paint(self, window: Slices, rgb: Any, weight: Any) -> None:
        """Blend a colour into a window."""
        part = (slice(None), *window)
        self.colour[part] = mix(self.colour[part], rgb, weight)


SCALES = {"grain": 0.9, "tuft": 2.4, "patch": 12.0, "broad": 48.0}  # sigma in canvas pixels


def clumps(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Leaf clumps: little domes around random points, (H, W) in [-1, 1], like a cauliflower from above."""
    away = ndimage.distance_transform_edt(rng.random(shape) > 1 / 26).astype(np.float32)
    return np.asarray(np.clip(1 - away * away / 6, -1, 1), np.float32)
