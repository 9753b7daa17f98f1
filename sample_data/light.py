"""Sun, sky, lens and sensor: turns the canvas of the sample landscape into an 8-bit orthophoto."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scenery import FINE, MARGIN, WATER, Array, Canvas, colour_of, landscape_field
from scipy import ndimage

AZIMUTH, ELEVATION = np.radians(143.0), np.radians(54.0)
SUN = colour_of((1.00, 0.955, 0.86))
SKY = colour_of((0.220, 0.242, 0.272))
HAZE = colour_of((7.0, 9.0, 13.0))


def render(canvas: Canvas) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The photo (3, H, W) in 1..255 and the codes (H, W), in pixels of 2 * `FINE` metres, margin cut off."""
    sunlit = _direct(canvas.height) * _in_sun(canvas.height) * _terrain(canvas)
    light = SUN * sunlit + SKY * _open_sky(canvas.height)
    radiance = canvas.colour * light * _drift(canvas)
    seen = np.stack([ndimage.gaussian_filter(band, 0.75) for band in radiance])
    photo = _expose(_shrink(seen), canvas.rng)
    return photo, _codes(canvas.label)


def _inner(plane: Any) -> Any:
    edge = round(MARGIN / FINE)
    return plane[..., edge:-edge, edge:-edge]


def _direct(height: Array) -> Array:
    """Cosine of the sun's angle to the surface, softened as leaves do; 0..1.3 (1 = flat ground)."""
    south, east = np.gradient(ndimage.gaussian_filter(height, 0.8), FINE)
    steep = np.hypot(south, east)
    limit = 1 / np.sqrt(1 + (steep / 1.3) ** 2)  # a crown's rim is no cliff: light passes through it
    east, south = east * limit, south * limit
    toward = -east * np.sin(AZIMUTH) + south * np.cos(AZIMUTH)
    cosine = (toward * np.cos(ELEVATION) + np.sin(ELEVATION)) / np.sqrt(1 + east**2 + south**2)
    return np.asarray(np.clip(0.14 + 0.86 * cosine / np.sin(ELEVATION), 0.05, 1.3), np.float32)


def _in_sun(height: Array) -> Array:
    """Share of the sun that gets past what stands toward it: 0.1 (through leaves) to 1, with soft edges."""
    above = np.full(height.shape, -9, np.float32)
    reach = (float(height.max()) + 1) / np.tan(ELEVATION) / FINE
    for k in [*range(1, 24), *range(24, int(reach), 2)]:
        cols, rows = round(k * np.sin(AZIMUTH)), round(-k * np.cos(AZIMUTH))
        ray = np.float32(np.hypot(cols, rows) * FINE * np.tan(ELEVATION))
        rise = height[rows:, cols:] - ray
        here = above[: rise.shape[0], : rise.shape[1]]
        np.maximum(here, rise - height[: rise.shape[0], : rise.shape[1]], out=here)
    return np.asarray(0.10 + 0.90 / (1 + np.exp(np.clip(above / 0.4, -20, 20))), np.float32)


def _open_sky(height: Array) -> Array:
    """Share of the sky seen, 0.3..1: less in gaps below the canopy."""
    near = ndimage.gaussian_filter(height, 5) - height
    wide = ndimage.zoom(ndimage.gaussian_filter(height[::4, ::4], 4), 4, order=1)
    wide = wide[: height.shape[0], : height.shape[1]]
    buried = 0.6 * np.maximum(near, 0) + 0.5 * np.maximum(wide - height, 0)
    return np.asarray(0.3 + 0.7 * np.exp(-buried / 7), np.float32)


def _coarse(canvas: Canvas) -> tuple[Any, Any]:
    rows, cols = (np.arange(-(-size // 16) + 2) * 16 * FINE - MARGIN for size in canvas.shape)
    return canvas.east + cols[None, :], canvas.south + rows[:, None]


def _stretch(plane: NDArray[np.float64], canvas: Canvas) -> Array:
    fine = ndimage.zoom(plane.astype(np.float32), 16, order=1)
    return np.asarray(fine[: canvas.shape[0], : canvas.shape[1]])


def _terrain(canvas: Canvas) -> Array:
    """Brightness of gentle hills against flat ground; water is flat."""
    east, south = _coarse(canvas)
    hills = 9 * landscape_field(1, 420, east, south) + 2.2 * landscape_field(2, 110, east, south)
    slope_s, slope_e = np.gradient(hills, 16 * FINE)
    toward = -slope_e * np.sin(AZIMUTH) + slope_s * np.cos(AZIMUTH)
    factor = _stretch(np.clip(1 + toward / np.tan(ELEVATION), 0.7, 1.3), canvas)
    return np.where(canvas.label == WATER, np.float32(1), factor)


def _drift(canvas: Canvas) -> Array:
    """Slow change of brightness and hue over the flight, (3, H, W) around 1."""
    east, south = _coarse(canvas)
    both = landscape_field(3, 700, east, south)
    bands = [1 + 0.035 * both + 0.015 * landscape_field(4 + i, 600, east, south) for i in range(3)]
    return np.stack([_stretch(band, canvas) for band in bands])


def _shrink(planes: Array) -> Array:
    inner = _inner(planes)
    bands, rows, cols = inner.shape
    return np.asarray(inner.reshape(bands, rows // 2, 2, cols // 2, 2).mean(axis=(2, 4)), np.float32)


def _expose(radiance: Array, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Camera curve, haze and noise (shot and read-out)."""
    level = 255 * np.clip(1.75 * radiance, 0, 1.2) ** (1 / 1.75)
    level = HAZE + level * (1 - HAZE / 255)
    level += rng.standard_normal(level.shape, dtype=np.float32) * (0.9 + 0.006 * level)
    return np.asarray(np.clip(np.rint(level), 1, 255), np.uint8)


def _codes(label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The commonest code of each 2 x 2 block (the smaller on a tie)."""
    inner = _inner(label)
    rows, cols = inner.shape
    votes = [(inner == code).reshape(rows // 2, 2, cols // 2, 2).sum(axis=(1, 3)) for code in range(7)]
    return np.asarray(np.argmax(np.stack(votes), axis=0), np.uint8)
