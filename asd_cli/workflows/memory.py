"""How large windows and GDAL's cache may be, so that a job keeps within what it was given."""

from __future__ import annotations

from dataclasses import dataclass

from asd_cli.raster.context import read_margin
from asd_cli.raster.writer import BLOCK

MIB = 1 << 20
_SIZES = (4 * BLOCK, 3 * BLOCK, 2 * BLOCK, BLOCK)  # larger windows save next to nothing
_CACHE_SHARE, _LEAST_CACHE = 0.25, 32 * MIB
_CHIPS_BEYOND_WORKERS, _MAPS = 3, 4  # see `mapping.map_scene`


@dataclass(frozen=True)
class MemoryPlan:
    """window: side of the write windows in pixels. cache: GDAL's block cache in bytes. expected: all of it in bytes."""

    window: int
    cache: int
    expected: int

    @classmethod
    def of(
        cls, budget: int, *, window: int | None, bands: int, halo: int, holes: bool, workers: int, scene_width: int
    ) -> MemoryPlan:
        """The largest windows that fit `budget` bytes; the smallest there are if none does, or `window` if given.

        Args:
            budget: bytes for pixels on their way from file to file.
            window: side of the windows, where the user chose it.
            bands, halo, holes: of the scene and the model; `holes`: whether pixels may be invalid.
            workers: threads that read.
            scene_width: pixels in a row of the scene.
        """
        cache = max(int(budget * _CACHE_SHARE), _LEAST_CACHE)

        def pixels(side: int) -> int:
            chip = (side + 2 * read_margin(halo, holes=holes)) ** 2 * (4 * bands + 1)
            packed = scene_width * side // 8  # for the polygons
            return (workers + _CHIPS_BEYOND_WORKERS) * chip + _MAPS * 5 * side**2 + packed

        fitting = [side for side in _SIZES if cache + pixels(side) <= budget]
        side = window or (fitting[0] if fitting else _SIZES[-1])
        return cls(side, cache, cache + pixels(side))
