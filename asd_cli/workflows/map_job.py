"""What a map is made of and from: everything that its finished parts need to become files, and what they depend on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from asd_cli.raster.grid import Grid
from asd_cli.raster.windows import Window, write_windows
from asd_cli.workflows.scores import Level

FORMAT = 1


@dataclass(frozen=True)
class PolygonJob:
    """How polygons are drawn, and their file (relative to the folder of the raster)."""

    file: str
    connectivity: Literal[4, 8]
    min_area: float
    simplify: float
    min_score: float | None


@dataclass(frozen=True)
class SideJob:
    """Files beside raster and polygons (relative to the folder of the raster), and what `stac.Origin` gave as JSON."""

    styles: tuple[str, ...] = ()
    stac: str | None = None
    quicklook: str | None = None
    origin: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class MapJob:
    """A map to be made. `side`: of its windows in pixels. `fingerprint`: what the scores depend on, by name."""

    scene: str
    grid: Grid
    side: int
    level: Level
    tags: Mapping[str, str]
    polygons: PolygonJob | None
    beside: SideJob
    fingerprint: Mapping[str, str]

    def windows(self) -> Iterator[Window]:
        """The windows that are its parts, in order."""
        return write_windows(self.grid.height, self.grid.width, self.side)

    def shard(self, number: int, count: int) -> list[Window]:
        """The windows of shard `number` (from 1) of `count`: a range of them, as long as the others' within one."""
        return shard_of(list(self.windows()), number, count)

    def difference(self, other: MapJob) -> str | None:
        """What of the fingerprint is not as in `other`: `the model: was a, is b`; None if nothing."""
        return first_difference(self.fingerprint, other.fingerprint)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "format": FORMAT,
            "fingerprint": dict(self.fingerprint),
            "scene": self.scene,
            "grid": self.grid.to_json(),
            "side": self.side,
            "score": self.level.kind,
            "threshold": float(self.level.threshold),
            "polygons": None if self.polygons is None else vars(self.polygons),
            "beside": vars(self.beside),
            "tags": dict(self.tags),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> MapJob:
        """What `to_json` gave.

        Raises:
            ValueError, KeyError, TypeError: it is something else.
        """
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']}")
        return cls(
            scene=values["scene"],
            grid=Grid.from_json(values["grid"]),
            side=values["side"],
            level=Level(values["score"], np.float32(values["threshold"])),
            tags=values["tags"],
            polygons=None if values["polygons"] is None else PolygonJob(**values["polygons"]),
            beside=SideJob(**{**values["beside"], "styles": tuple(values["beside"]["styles"])}),
            fingerprint=values["fingerprint"],
        )


def shard_of(windows: Sequence[Window], number: int, count: int) -> list[Window]:
    """Those of shard `number` (from 1) of `count`."""
    first, last = (len(windows) * n // count for n in (number - 1, number))
    return list(windows[first:last])


def first_difference(was: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """The first entry that differs: `the model: was a, is b`."""
    for name in dict.fromkeys((*was, *now)):
        if was.get(name) != now.get(name):
            return f"{name}: was {was.get(name, 'not there')}, is {now.get(name, 'not there')}"
    return None
