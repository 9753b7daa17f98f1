"""Distances of the typical one of several tiles: how odd normal pixels look differs more between tiles than within."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from asd_cli.density.moments import FloatArray

_BEYOND = 3  # pixels beyond the threshold that a tile needs to say where it is
_ENOUGH = 3000  # pixels of a tile that need no others, however rare: the tail is fitted to what is typical
_SHARE = 0.5  # of the mean number of pixels of a tile, below which one is joined with others
_LEAST = 1e-6  # distance, relative to the farthest, below which one counts as this
_ODDEST = 3.0  # times as far or near as the median tile counts as this


def typical_distances(tiles: Sequence[NDArray[np.floating]], rate: float) -> FloatArray:
    """Distances (n,) >= 0 of the pixels of each tile -> those of the typical tile (m,), in ascending order.

    Each of its quantiles is `typical` of the tiles' (Vincent 1912; Ratcliff 1979), so that one odd tile moves it
    little, while all pixels together would have hardly any but that tile's beyond the quantile of a small `rate`. Tiles
    too small to have three pixels beyond that (or 3000 in all), or half as many as the mean of all, are joined first; m
    is the number of pixels of the smallest that is left. A single tile is its own type.
    """
    if not tiles:
        return np.zeros(0)
    groups = [np.sort(group.astype(np.float64)) for group in joined(tiles, rate)]
    floor = _LEAST * max(float(group[-1]) for group in groups)
    if len(groups) == 1 or floor == 0.0:
        return groups[0]
    count = min(map(len, groups))
    places = (np.arange(count) + 0.5) / count
    quantiles = [np.interp(places, (np.arange(len(group)) + 0.5) / len(group), group) for group in groups]
    return typical(np.maximum(quantiles, floor))


def typical(values: FloatArray) -> FloatArray:
    """Values (tiles, ...) > 0 -> (...): their geometric mean, where none counts as more than three times the median, or
    less than a third of it. Of an even number of tiles it is the larger one of the middle: a quiet tile, such as water
    among forest, must not make the others look odd.
    """
    logs = np.log(values)
    middle, far = np.sort(logs, axis=0)[len(logs) // 2], np.log(_ODDEST)
    return np.asarray(np.exp(np.clip(logs, middle - far, middle + far).mean(axis=0)))


def joined(tiles: Sequence[NDArray[np.floating]], rate: float) -> list[NDArray[np.floating]]:
    """Tiles with enough pixels (n, ...) to tell the quantile of a small `rate` of them; those with fewer joined, in
    their order, until they have as many."""
    least = max(min(_BEYOND / rate, _ENOUGH), _SHARE * sum(map(len, tiles)) / len(tiles))
    groups = [tile for tile in tiles if len(tile) >= least]
    waiting: list[NDArray[np.floating]] = []
    for tile in (tile for tile in tiles if len(tile) < least):
        waiting.append(tile)
        if sum(map(len, waiting)) >= least:
            groups.append(np.concatenate(waiting))
            waiting = []
    if waiting:
        smallest = min(range(len(groups)), key=lambda place: len(groups[place]), default=None)
        others = [] if smallest is None else [groups.pop(smallest)]
        groups.append(np.concatenate([*others, *waiting]))
    return groups
