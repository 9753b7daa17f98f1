"""Distances of the typical one of several tiles: how odd normal pixels look differs more between tiles than within."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from asd_cli.density.moments import FloatArray

_BEYOND = 10  # pixels beyond the threshold that a tile needs to say where it is
_SHARE = 0.5  # of the mean number of pixels of a tile, below which one is joined with others
_LEAST = 1e-6  # distance, relative to the farthest, below which one counts as this


def typical_distances(tiles: Sequence[NDArray[np.floating]], rate: float) -> FloatArray:
    """Distances (n,) >= 0 of the pixels of each tile -> those of the typical tile (m,), in ascending order.

    Each of its quantiles is the geometric mean of the tiles' (Vincent 1912; Ratcliff 1979), so that one odd tile moves
    it little, while all pixels together would have hardly any but that tile's beyond the quantile of a small `rate`.
    Tiles too small to have ten pixels beyond that, or half as many as the mean of all, are joined first; m is the
    number of pixels of the smallest that is left. A single tile is its own type.
    """
    if not tiles:
        return np.zeros(0)
    groups = joined(tiles, rate)
    count = min(len(group) for group in groups)
    floor = _LEAST * max(float(group.max()) for group in groups)
    if len(groups) == 1 or floor == 0.0:
        return np.sort(groups[0].astype(np.float64))
    logs = np.zeros(count)
    places = (np.arange(count) + 0.5) / count
    for group in groups:
        ordered = np.sort(group.astype(np.float64))
        logs += np.log(np.maximum(np.interp(places, (np.arange(len(ordered)) + 0.5) / len(ordered), ordered), floor))
    return np.asarray(np.exp(logs / len(groups)))


def joined(tiles: Sequence[NDArray[np.floating]], rate: float) -> list[NDArray[np.floating]]:
    """Tiles with enough pixels (n, ...) to tell the quantile of a small `rate` of them; those with fewer joined, in
    their order, until they have as many."""
    least = max(_BEYOND / rate, _SHARE * sum(map(len, tiles)) / len(tiles))
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
