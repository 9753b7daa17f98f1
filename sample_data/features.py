"""What does not belong to the forest of the sample: clearings, fallen trees, tracks, lakes and houses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scenery import (
    BUILDING,
    CLEARING,
    FINE,
    MARGIN,
    TRACK,
    WATER,
    Array,
    Canvas,
    Slices,
    colour_of,
    mix,
    smooth_noise,
)
from scipy import ndimage
from scipy.interpolate import CubicSpline

GRASS = (0.150, 0.172, 0.078)
STRAW = (0.235, 0.220, 0.128)
SOIL = (0.200, 0.158, 0.108)
DIRT = (0.330, 0.290, 0.228)
WOOD = (0.330, 0.280, 0.215)


def blob(canvas: Canvas, at: tuple[float, float], size: tuple[float, float], angle: float) -> tuple[Slices, Array]:
    """A ragged ellipse: its window and the metres inside its border (negative outside), roughly."""
    window = canvas.window(*at, 1.7 * max(size) + 8)
    u, v = canvas.offsets(window, *at, angle)
    bays = smooth_noise(canvas.rng, u.shape, 0.42 * min(size) / FINE)
    nooks = smooth_noise(canvas.rng, u.shape, 0.14 * min(size) / FINE)
    inside = (1 - np.hypot(u / size[0], v / size[1]) + 0.20 * bays + 0.05 * nooks) * min(size)
    return window, inside + 0.5 * canvas.texture["patch"][window] + 0.2 * canvas.texture["tuft"][window]


@dataclass(frozen=True)
class Clearing:
    """Grass with bare soil, stumps, brush piles and wheel marks; `mown` makes it a garden."""

    at: tuple[float, float]
    size: tuple[float, float]
    angle: float = 0.0
    mown: bool = False

    def draw(self, canvas: Canvas) -> None:
        window, inside = blob(canvas, self.at, self.size, self.angle)
        tuft, patch, broad = (canvas.texture[name][window] for name in ("tuft", "patch", "broad"))
        spots = (0.35 if self.mown else 1.0) * (0.45 * patch + 0.5 * broad + 0.25 * tuft)
        rgb = mix(colour_of(GRASS), colour_of(STRAW), 0.35 + 0.4 * spots)
        rgb = mix(rgb, colour_of(SOIL), (spots < -0.55) * 0.8 - self.mown)
        rgb = rgb * (1 + 0.13 * tuft + 0.10 * canvas.texture["grain"][window])
        canvas.paint(window, rgb, 0.5 + inside / 1.5)
        canvas.label[window][inside > 0] = CLEARING
        canvas.treeless[window] |= inside > 0
        rough = 0.02 if self.mown else 0.10
        canvas.height[window] += (inside > 0) * rough * np.maximum(0, 1 + tuft)
        if not self.mown:
            self._skid_trails(canvas, window, inside)
            self._litter(canvas)

    def _skid_trails(self, canvas: Canvas, window: Slices, inside: Array) -> None:
        _, v = canvas.offsets(window, *self.at, self.angle + 0.5)
        lane = np.abs((v + 1.6 * canvas.texture["broad"][window]) % 17 - 8.5)
        wheels = np.exp(-(((lane - 0.9) / 0.35) ** 2)) * (0.45 + 0.3 * canvas.texture["patch"][window])
        canvas.paint(window, colour_of(SOIL), np.where(inside > 1, wheels, 0))

    def _litter(self, canvas: Canvas) -> None:
        area = self.size[0] * self.size[1] * 3.1
        for _ in range(int(area / 28)):
            mound(canvas, self.spot(canvas), canvas.rng.uniform(0.28, 0.55), 0.45, WOOD)
        for _ in range(int(area / 260)):
            mound(canvas, self.spot(canvas), canvas.rng.uniform(1.0, 2.4), 1.1, (0.20, 0.16, 0.115))

    def spot(self, canvas: Canvas) -> tuple[float, float]:
        radius, theta = np.sqrt(canvas.rng.random()) * 0.9, canvas.rng.uniform(0, 6.3)
        u, v = self.size[0] * radius * np.cos(theta), self.size[1] * radius * np.sin(theta)
        c, s = np.cos(self.angle), np.sin(self.angle)
        return self.at[0] + u * c - v * s, self.at[1] + u * s + v * c


def mound(canvas: Canvas, at: tuple[float, float], radius: float, tall: float, rgb: tuple[float, float, float]) -> None:
    """A stump, a brush pile or a root plate: a rough disc on open ground."""
    window = canvas.window(*at, radius + 1)
    if 0 in canvas.label[window].shape:
        return
    u, v = canvas.offsets(window, *at, canvas.rng.uniform(0, 3))
    away = np.hypot(u, v * canvas.rng.uniform(1, 1.5)) / radius + 0.12 * canvas.texture["tuft"][window]
    canvas.paint(window, colour_of(rgb) * (1 + 0.3 * canvas.texture["grain"][window]), (1.1 - away) * 4)
    canvas.height[window] = np.maximum(canvas.height[window], tall * np.clip(1.1 - away, 0, 1) ** 0.5)


@dataclass(frozen=True)
class Windthrow:
    """Trees laid by a storm: trunks in nearly one direction, root plates, torn soil. Coded as clearing."""

    at: tuple[float, float]
    size: tuple[float, float]
    angle: float

    def draw(self, canvas: Canvas) -> None:
        ground = Clearing(self.at, self.size, self.angle, mown=True)
        ground.draw(canvas)
        window, inside = blob(canvas, self.at, self.size, self.angle)
        torn = colour_of(SOIL) * (0.8 + 0.2 * canvas.texture["tuft"][window])
        canvas.paint(window, torn, np.where(inside > -3, 0.45 + 0.3 * canvas.texture["patch"][window], 0))
        for _ in range(int(self.size[0] * self.size[1] / 9)):
            self._trunk(canvas, ground.spot(canvas))

    def _trunk(self, canvas: Canvas, at: tuple[float, float]) -> None:
        long, angle = canvas.rng.uniform(9, 19), self.angle + canvas.rng.normal(0.6, 0.16)
        window = canvas.window(*at, long)
        u, v = canvas.offsets(window, *at, angle)
        along = (u + long / 2) / long
        trunk = (along > 0) & (along < 1) & (np.abs(v) < 0.42 - 0.22 * along)
        tuft = canvas.texture["tuft"][window]
        branches = (along > 0.45) & (along < 1.05) & (np.abs(v) < 1.9 * (1.12 - along)) & (tuft > 0.35)
        on_ground = canvas.treeless[window]
        brown = colour_of((0.20, 0.155, 0.10)) * canvas.rng.uniform(0.8, 1.2)
        canvas.paint(window, brown * (1 + 0.2 * tuft), 0.85 * (branches & on_ground))
        canvas.paint(window, colour_of(WOOD) * canvas.rng.uniform(0.85, 1.25), 0.95 * (trunk & on_ground))
        canvas.height[window] = np.maximum(canvas.height[window], on_ground * (0.7 * trunk + 0.5 * branches))
        foot = (at[0] - np.cos(angle) * long / 2, at[1] - np.sin(angle) * long / 2)
        mound(canvas, foot, canvas.rng.uniform(0.8, 1.5), 1.4, (0.17, 0.125, 0.085))


@dataclass(frozen=True)
class Track:
    """A dirt road through the given points: two ruts, a grassy middle, worn edges."""

    points: tuple[tuple[float, float], ...]
    width: float = 3.4

    def draw(self, canvas: Canvas) -> None:
        away = self._distance(canvas) + 0.16 * canvas.texture["patch"] + 0.06 * canvas.texture["tuft"]
        rows, cols = np.nonzero(away < self.width + 8)
        window = (slice(rows.min(), rows.max() + 1), slice(cols.min(), cols.max() + 1))
        away, half = away[window], self.width / 2
        tuft, grain, patch = (canvas.texture[name][window] for name in ("tuft", "grain", "patch"))
        grass = colour_of(GRASS) * (1 + 0.15 * tuft)
        verge = half + 1.5 + 1.3 * np.clip(canvas.texture["broad"][window], -0.7, 2)
        canvas.paint(window, grass, (verge + 0.6 - away) * 0.9)
        dirt = colour_of(DIRT) * (1 + 0.06 * tuft + 0.05 * grain + 0.07 * patch)
        canvas.paint(window, dirt, (half + 0.1 - away) * 3)
        canvas.paint(window, grass, 0.75 * np.exp(-((away / 0.38) ** 2)) * (0.75 + 0.5 * patch))
        rut = np.exp(-(((away - 0.85) / 0.32) ** 2))
        canvas.paint(window, dirt * 1.18, 0.7 * rut)
        canvas.paint(window, colour_of((0.15, 0.13, 0.10)), 0.8 * (rut > 0.4) * (patch + 0.4 * tuft > 1.75))
        canvas.label[window][away < verge] = TRACK
        canvas.treeless[window] |= away < verge
        canvas.height[window][away < verge] = 0

    def _distance(self, canvas: Canvas) -> Array:
        points = np.array(self.points)
        steps = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
        curve = CubicSpline(steps, points)(np.arange(0, steps[-1], FINE / 4))
        cols, rows = ((curve + MARGIN) / FINE).astype(int).T
        inside = (rows >= 0) & (rows < canvas.shape[0]) & (cols >= 0) & (cols < canvas.shape[1])
        free = np.ones(canvas.shape, bool)
        free[rows[inside], cols[inside]] = False
        return np.asarray(ndimage.distance_transform_edt(free) * FINE, np.float32)


@dataclass(frozen=True)
class Lake:
    """Dark water, paler along a sandy and reedy shore, with a patch of glint."""

    at: tuple[float, float]
    size: tuple[float, float]
    angle: float = 0.0

    def draw(self, canvas: Canvas) -> None:
        window, inside = blob(canvas, self.at, self.size, self.angle)
        tuft, patch = canvas.texture["tuft"][window], canvas.texture["patch"][window]
        bank = mix(colour_of(STRAW) * 0.95, colour_of((0.15, 0.165, 0.075)), 0.5 + 0.6 * patch) * (1 + 0.18 * tuft)
        canvas.paint(window, bank, (inside + 4.5) / 2)
        shallow = colour_of((0.125, 0.130, 0.085)) * (1 + 0.05 * patch)
        water = mix(colour_of((0.030, 0.047, 0.046)), shallow, np.exp(-inside / 3.0))
        canvas.paint(window, water + self._glint(canvas, window), (inside + 0.15) * 3)
        reeds = (np.abs(inside + 0.4) < 1.1) & (patch > 0.1)
        canvas.height[window] = np.where(inside > 0, -0.6, canvas.height[window]) + reeds * np.maximum(0, 0.8 + tuft)
        canvas.label[window][inside > -3.5] = CLEARING
        canvas.label[window][inside > 0] = WATER
        canvas.treeless[window] |= inside > -2.8

    def _glint(self, canvas: Canvas, window: Slices) -> Any:
        u, v = canvas.offsets(window, self.at[0] + 0.25 * self.size[0], self.at[1] - 0.2 * self.size[1], 0.5)
        near = np.exp(-((u / (0.45 * self.size[0])) ** 2) - (v / (0.5 * self.size[1])) ** 2)
        ripple = ndimage.gaussian_filter(canvas.texture["grain"][window], (0.6, 2.2))
        ripple /= ripple.std() + 1e-6
        spark = np.maximum(0, ripple - 1.1) * near
        return 0.002 * ripple + 0.010 * near + 0.05 * spark


@dataclass(frozen=True)
class House:
    """A gabled house: long side, wide side and ridge in metres and radians, roof reflectance."""

    at: tuple[float, float]
    long: float
    wide: float
    angle: float
    roof: tuple[float, float, float] = (0.30, 0.145, 0.10)
    eaves: float = 4.0

    def draw(self, canvas: Canvas) -> None:
        window = canvas.window(*self.at, self.long)
        u, v = canvas.offsets(window, *self.at, self.angle)
        body = (np.abs(u) < self.long / 2) & (np.abs(v) < self.wide / 2)
        tall = self.eaves + 0.75 * (self.wide / 2 - np.abs(v))
        rows = 1 + 0.05 * np.sin(2 * np.pi * v / 0.9) + 0.06 * canvas.texture["grain"][window]
        canvas.paint(window, colour_of(self.roof) * (rows + 0.04 * canvas.texture["patch"][window]), body)
        ridge = body & (np.abs(v) < 0.2)
        canvas.paint(window, colour_of(self.roof) * 0.75, ridge)
        chimney = (np.abs(u - 0.22 * self.long) < 0.5) & (np.abs(v - 0.9) < 0.45)
        canvas.paint(window, colour_of((0.24, 0.20, 0.18)), chimney)
        canvas.height[window] = np.where(body, tall + 1.4 * chimney, canvas.height[window])
        canvas.label[window][body] = BUILDING
        canvas.treeless[window] |= (np.abs(u) < self.long / 2 + 3) & (np.abs(v) < self.wide / 2 + 3)
