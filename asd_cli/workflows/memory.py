"""How large windows and GDAL's cache may be, so that a job keeps within what it was given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from asd_cli.raster.context import read_margin
from asd_cli.raster.writer import BLOCK

MIB = 1 << 20
_SIZES = (4 * BLOCK, 3 * BLOCK, 2 * BLOCK, BLOCK)  # larger windows save next to nothing
_CACHE_SHARE, _LEAST_CACHE, _MOST_CACHE = 0.25, 32 * MIB, 1024 * MIB
_CHIPS_BEYOND_WORKERS, _MAPS = 2, 3  # and those ahead; see `mapping.map_scene`
_CHIPS_A_WORKER = 2  # what was read, and what becomes of it while holes are filled
_THREAD = 12 * MIB  # what a computing thread keeps between blocks


class Computing(Protocol):
    """What of a mapper takes memory: its halo in pixels, the threads that compute, and windows that wait for them."""

    halo: int
    callers: int
    ahead: int


@dataclass(frozen=True)
class MemoryPlan:
    """window: side of the write windows in pixels. workers: threads that read. cache: GDAL's block cache in bytes.
    expected: all of it in bytes."""

    window: int
    workers: int
    cache: int
    expected: int

    @classmethod
    def of(
        cls,
        budget: int,
        *,
        window: int | None,
        bands: int,
        mapper: Computing,
        holes: bool,
        workers: Sequence[int],
        scene_width: int,
    ) -> MemoryPlan:
        """The largest windows that fit `budget` bytes; the smallest there are if none does, or `window` if given.

        Of several numbers of `workers` the first is taken with which any fits, else the last.

        Args:
            budget: bytes for pixels on their way from file to file.
            window: side of the windows, where the user chose it.
            bands, holes: of the scene; `holes`: whether its pixels may be invalid.
            mapper: what computes.
            workers: numbers of threads that may read.
            scene_width: pixels in a row of the scene.
        """
        cache = min(max(int(budget * _CACHE_SHARE), _LEAST_CACHE), _MOST_CACHE)

        def expected(side: int, readers: int) -> int:
            chip = (side + 2 * read_margin(mapper.halo, holes=holes)) ** 2 * (4 * bands + 1)
            row = scene_width * side * 33 // 8  # scores, and bits of what is anomalous, for the polygons
            chips = readers * _CHIPS_A_WORKER + _CHIPS_BEYOND_WORKERS + mapper.ahead
            return cache + chips * chip + (_MAPS + mapper.ahead) * 5 * side**2 + row + mapper.callers * _THREAD

        choices = [(window or side, readers) for readers in workers for side in _SIZES]
        fitting = [choice for choice in choices if expected(*choice) <= budget]
        side, readers = fitting[0] if fitting else choices[-1]
        return cls(side, readers, cache, expected(side, readers))
