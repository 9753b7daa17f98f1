"""The trees of the sample landscape: stands of five species with soft borders, planted crown by crown."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scenery import CLEARING, DEAD_TREE, FINE, FOREST, MARGIN, Array, Canvas, colour_of, landscape_field
from scipy import ndimage


@dataclass(frozen=True)
class Species:
    """Crown reflectance; radius (mean, log spread) in metres; height = base + slope * radius; crown form."""

    rgb: tuple[float, float, float]
    radius: tuple[float, float]
    tall: tuple[float, float]
    depth: float  # crown depth seen from above, in radii
    power: float  # 1 = cone, 2 and more = dome
    lumps: float  # metres of leaf clumps
    whorls: float  # star of branches, in radii
    bare: float = 0.0  # share of the crown that shows the ground


SPRUCE = Species((0.062, 0.092, 0.062), (1.85, 0.20), (7.0, 6.0), 2.00, 1.0, 0.22, 0.24)
PINE = Species((0.105, 0.128, 0.080), (2.35, 0.20), (8.0, 4.2), 0.95, 1.9, 0.55, 0.08)
BEECH = Species((0.092, 0.140, 0.054), (4.30, 0.24), (13.0, 2.3), 0.80, 2.3, 0.75, 0.0)
OAK = Species((0.122, 0.146, 0.064), (4.00, 0.26), (11.0, 2.2), 0.75, 2.6, 0.95, 0.0)
BIRCH = Species((0.135, 0.172, 0.082), (2.20, 0.22), (10.0, 3.0), 1.00, 2.0, 0.50, 0.0)
LIVING = (SPRUCE, PINE, BEECH, OAK, BIRCH)
FONDNESS = (0.55, -0.25, 0.30, 0.05, -0.70)  # how common each species is
RED, GREY = (0.180, 0.112, 0.070), (0.222, 0.216, 0.192)


class Tree(NamedTuple):
    """One tree: place and radius in metres, species, colour factor, code in the truth."""

    x: float
    y: float
    radius: float
    tall: float
    species: Species
    tint: Array
    code: int


@dataclass(frozen=True)
class Dieback:
    """A group of sick and dead trees: `count` trees nearest to a point; `red` still holds brown needles."""

    at: tuple[float, float]
    count: int
    red: float = 0.6


def stand_of(canvas: Canvas, x: Any, y: Any) -> NDArray[np.int64]:
    """Index into `LIVING` for trees at (x, y): stands about 120 m across whose borders mix."""
    east, south = canvas.east + x, canvas.south + y
    pull = np.stack([landscape_field(10 + i, 190, east, south) + bias for i, bias in enumerate(FONDNESS)])
    pull += 0.42 * canvas.rng.gumbel(size=pull.shape)
    return np.asarray(np.argmax(pull, axis=0), np.int64)


def planted(canvas: Canvas, dieback: tuple[Dieback, ...]) -> list[Tree]:
    """Places for all trees: main crowns that keep off one another, then smaller ones in the gaps."""
    room = ndimage.distance_transform_edt(~canvas.treeless)[::2, ::2].astype(np.float32) * FINE
    taken = np.zeros(room.shape, bool)
    trees: list[Tree] = []
    for per_m2, scale, spacing in ((0.30, 1.0, 0.80), (0.25, 0.62, 0.72), (0.10, 0.42, 0.70)):
        trees += _sow(canvas, (room, taken), per_m2, scale, spacing)
    for group in dieback:
        _kill(canvas, trees, group)
    return trees


def _sow(
    canvas: Canvas, ground: tuple[Array, NDArray[np.bool_]], per_m2: float, scale: float, spacing: float
) -> list[Tree]:
    room, taken = ground
    rng, cell = canvas.rng, 2 * FINE
    count = int(per_m2 * taken.size * cell * cell)
    x, y = rng.random((2, count)) * (np.array(taken.shape[::-1])[:, None] * cell) - MARGIN
    kinds = stand_of(canvas, x, y)
    age = np.exp(0.16 * landscape_field(30, 130, canvas.east + x, canvas.south + y))
    means, spreads = np.array([kind.radius for kind in LIVING]).T
    radii = scale * age * means[kinds] * np.exp(spreads[kinds] * rng.standard_normal(count))
    radii = np.clip(radii, 0.8, 7.5)
    drift = 0.07 * landscape_field(31, 90, canvas.east + x, canvas.south + y)
    rows, cols = ((y + MARGIN) / cell).astype(int), ((x + MARGIN) / cell).astype(int)
    trees = []
    for i in range(count):
        if room[rows[i], cols[i]] < 0.5 * radii[i] or not _claim(taken, rows[i], cols[i], spacing * radii[i] / cell):
            continue
        kind = LIVING[kinds[i]]
        tall = (kind.tall[0] + kind.tall[1] * radii[i]) * rng.normal(1, 0.07) * (0.75 + 0.25 * scale)
        tall *= 0.68 + 0.32 * min(1.0, room[rows[i], cols[i]] / 8)  # a forest's edge is lower
        tint = np.exp(drift[i] + rng.normal(0, 0.10) + rng.normal(0, (0.05, 0.025, 0.05)))
        trees.append(Tree(x[i], y[i], radii[i], tall, kind, tint.astype(np.float32), FOREST))
    return trees


def _claim(taken: NDArray[np.bool_], row: int, col: int, radius: float) -> bool:
    """Mark a disc as taken unless part of it is."""
    disc = _disc(round(2 * radius))
    reach = disc.shape[0] // 2
    if taken[row, col] or min(row, col, taken.shape[0] - 1 - row, taken.shape[1] - 1 - col) < reach:
        return False
    part = taken[row - reach : row + reach + 1, col - reach : col + reach + 1]
    if (part & disc).any():
        return False
    part |= disc
    return True


@cache
def _disc(diameter: int) -> NDArray[np.bool_]:
    side = np.arange(-(diameter // 2), diameter // 2 + 1)
    return np.asarray(np.hypot(side[:, None], side) <= diameter / 2)


def _kill(canvas: Canvas, trees: list[Tree], group: Dieback) -> None:
    """Replace the trees nearest to a point by dead ones."""
    away = np.hypot(*(np.array([(tree.x, tree.y) for tree in trees]) - group.at).T)
    away *= canvas.rng.uniform(0.7, 1.5, len(trees)) + 9 * (np.array([tree.radius for tree in trees]) < 1.3)
    for i in np.argsort(away)[: group.count]:
        red = canvas.rng.random() < group.red
        tree, rgb = trees[i], RED if red else GREY
        bare = canvas.rng.uniform(0.10, 0.30) if red else canvas.rng.uniform(0.30, 0.48)
        form = replace(tree.species, rgb=rgb, bare=bare, lumps=0.3, whorls=0.13)
        tint = np.exp(canvas.rng.normal(0, 0.12) + canvas.rng.normal(0, (0.04, 0.025, 0.03)))
        radius = min(tree.radius, 4.0)
        trees[i] = tree._replace(species=form, radius=radius, tint=tint.astype(np.float32), code=DEAD_TREE)


def shrubs(canvas: Canvas, per_m2: float = 0.012) -> list[Tree]:
    """Young trees and bushes on open ground; they belong to the clearing that they stand in."""
    rows, cols = np.nonzero(canvas.label[::4, ::4] == CLEARING)
    chosen = canvas.rng.random(rows.size) < per_m2
    trees = []
    for row, col in zip(rows[chosen] * 4, cols[chosen] * 4, strict=True):
        if canvas.height[row, col] < 1:
            radius = canvas.rng.uniform(0.5, 1.4)
            kind = LIVING[canvas.rng.integers(len(LIVING))]
            tint = np.exp(0.1 + canvas.rng.normal(0, 0.1, 3)).astype(np.float32)
            trees.append(Tree(col * FINE - MARGIN, row * FINE - MARGIN, radius, 1.4 * radius, kind, tint, CLEARING))
    return trees


def draw_crown(canvas: Canvas, tree: Tree) -> None:
    """Raise one crown on the canvas where it is the highest thing."""
    form, rng = tree.species, canvas.rng
    window = canvas.window(tree.x, tree.y, 1.3 * tree.radius)
    if 0 in canvas.label[window].shape:
        return
    u, v = canvas.offsets(window, tree.x, tree.y, rng.uniform(0, 6.3))
    theta = np.arctan2(v, u)
    first, second, third = rng.uniform(0, 6.3, 3)
    outline = 1 + 0.09 * np.cos(2 * theta) + 0.07 * np.cos(3 * theta + first) + 0.05 * np.cos(5 * theta + second)
    away = np.hypot(u, v) / (tree.radius * outline)
    star = np.cos(rng.integers(5, 9) * theta + third + 1.5 * away)
    clump, tuft, grain = (canvas.texture[name][window] for name in ("clump", "tuft", "grain"))
    depth = min(form.depth * tree.radius, 0.8 * tree.tall)
    lumps = form.lumps * min(1.0, tree.radius / 2)
    top = tree.tall - depth * away**form.power + lumps * clump + form.whorls * tree.radius * star * away
    edge = away + 0.07 * tuft + 0.35 * form.whorls * star * away
    seen = (edge < 1) & (top > canvas.height[window])
    if form.bare:
        seen &= 0.4 * star + 0.8 * tuft + 1.8 * (0.55 - away) > 4 * (form.bare - 0.45)
    shade = (0.80 + 0.28 * (1 - away)) * (1 + 0.13 * grain + 0.12 * tuft + 0.15 * clump * min(1.0, form.lumps))
    rgb = colour_of(form.rgb) * tree.tint.reshape(3, 1, 1) * shade
    part = canvas.colour[(slice(None), *window)]
    part[:, seen] = rgb[:, seen]
    canvas.height[window][seen] = top[seen]
    canvas.label[window][seen] = tree.code
