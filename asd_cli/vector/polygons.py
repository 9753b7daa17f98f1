"""Polygons of the anomalous regions of a map that arrives window by window, never cut at its seams.

A row of windows is packed (`strips`), a strip of it is cut into runs of anomalous pixels (`runs`), runs are joined to
components with what the strips above left open (`components`), and what closes becomes polygons (`outlines`) with
attributes (`attributes`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import shapely
from numpy.typing import NDArray

from asd_cli.raster.grid import Grid
from asd_cli.raster.windows import Window
from asd_cli.vector.attributes import Floats, ellipsoidal_area, longitude_latitude
from asd_cli.vector.components import Closed, OpenComponents
from asd_cli.vector.outlines import build_polygons
from asd_cli.vector.spool import PolygonSpool
from asd_cli.vector.strips import WindowRow

COLUMNS = (
    "id",
    "area_m2",
    "score_max",
    "score_mean",
    "score_p95",
    "pixels",
    "lon",
    "lat",
    "touches_edge",
    "geometry",
)

_BATCH = 20_000
_EMPTY: dict[str, NDArray[Any]] = {
    "area_m2": np.zeros(0),
    "score_max": np.zeros(0),
    "score_mean": np.zeros(0),
    "score_p95": np.zeros(0),
    "pixels": np.zeros(0, np.int64),
    "lon": np.zeros(0),
    "lat": np.zeros(0),
    "touches_edge": np.zeros(0, np.bool_),
}


class PolygonStream:
    """Connected components of anomalous pixels as MultiPolygons with attributes.

    Windows come in row-major order: rows of windows of one height from top to bottom, each from left to right, every
    pixel once. Memory: one row of windows (a bit a pixel, and the scores of the anomalous ones), the corners of
    components that are still open, and some numbers of each finished polygon. A component larger than all memory for
    its corners cannot be drawn.

    Args:
        grid: grid of the scene. Polygons come in its map coordinates, or in pixels if it has no transform.
        connectivity: 8 joins pixels that touch at a side or a corner, 4 those that touch at a side only. With
            8 the parts that touch at corners only are the parts of one MultiPolygon, so that every geometry
            is valid.
        min_area: drop components smaller than this, in m2 (in pixels when the grid gives no area in m2).
        simplify: tolerance in CRS units (0 = off), topology preserved. The attributes describe the pixels
            themselves.
        min_score: drop components whose `score_max` does not reach this.
        lower_is_anomalous: for false-alarm rates. `score_max` is then the most anomalous, thus the lowest
            score, and `score_p95` the 5th percentile.
        folder: where finished polygons are kept in an unnamed file; None takes the system's temporary folder.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        connectivity: Literal[4, 8] = 8,
        min_area: float = 0.0,
        simplify: float = 0.0,
        min_score: float | None = None,
        lower_is_anomalous: bool = False,
        folder: Path | None = None,
    ) -> None:
        if connectivity not in (4, 8):
            raise ValueError(f"connectivity is 4 or 8, not {connectivity}")
        if not (min_area >= 0 and simplify >= 0):
            raise ValueError(f"min_area and simplify are at least 0, not {min_area} and {simplify}")
        self._grid = grid
        # With an identity transform the coordinates are pixels, whatever CRS the file names.
        located = grid.crs is not None and not grid.transform.is_identity
        self._crs = pyproj.CRS.from_user_input(grid.crs) if located else None
        self._geographic = self._crs is not None and self._crs.is_geographic
        self._pixel_area = None if self._geographic else grid.pixel_area_m2
        self._min_area = min_area
        self._simplify = simplify
        self._min_score = None if min_score is None else np.float32(min_score)
        self._lower = lower_is_anomalous
        # The size in pixels is known early, except where it varies with latitude.
        min_pixels = 0.0 if self._geographic else min_area / (self._pixel_area or 1.0)
        self._open = OpenComponents(
            grid.shape,
            connectivity=connectivity,
            min_pixels=min_pixels * (1 - 1e-9),  # not to lose to rounding a component of just that area
            lower_is_anomalous=lower_is_anomalous,
        )
        self._row = 0  # of the row of windows that is being filled
        self._windows: WindowRow | None = None
        self._last = np.zeros(grid.width, np.bool_)  # the last row of pixels that was looked at
        self._spool = PolygonSpool(folder)

    def add(self, window: Window, anomalous: NDArray[np.bool_], score: NDArray[np.float32]) -> None:
        """Take the next window.

        Args:
            window: its place in the scene.
            anomalous: (h, w) bool, false where invalid.
            score: (h, w) float32, >= 0 where anomalous; anything elsewhere.

        Raises:
            ValueError: the window is not the next one, or an anomalous pixel has a negative score or none.
        """
        row = self._windows or WindowRow(self._grid.width, window.height)
        if (window.row, window.col, window.height) != (self._row, row.filled, row.height):
            raise ValueError(
                f"{window} does not follow: expected row {self._row}, column {row.filled}, height {row.height}"
            )
        if not (anomalous.shape == score.shape == window.shape and window.col_stop <= self._grid.width):
            raise ValueError(f"{window} does not fit {anomalous.shape}, {score.shape} and the scene")
        if window.row_stop > self._grid.height:
            raise ValueError(f"rows {window.row} to {window.row_stop} reach below the scene")
        if not np.all(score[anomalous] >= 0):
            raise ValueError(f"an anomalous pixel of {window} has a negative score or none")
        row.add(anomalous, np.minimum(score, np.finfo(np.float32).max))
        self._windows = row
        if row.filled == self._grid.width:
            self._end_row(row)

    def finish(self) -> gpd.GeoDataFrame:
        """All polygons in one frame; call it once, after the last window. See `batches`.

        Raises:
            ValueError: windows are missing.
        """
        return pd.concat(list(self.batches()), ignore_index=True)

    def batches(self, size: int = _BATCH) -> Iterator[gpd.GeoDataFrame]:
        """The polygons, `size` at a time, in the order of their first pixels (row-major); once, after the last window.

        At least one frame comes, if need be an empty one. Columns: `id` (1 .. N), `area_m2` (null without a CRS; on the
        ellipsoid in a geographic CRS), `score_max`, `score_mean` (exact), `score_p95` (nearest rank, within 0.05 %),
        `pixels`, `lon`, `lat` (centroid in EPSG:4326; null without a CRS), `touches_edge` (of the scene), `geometry`
        (MultiPolygon).

        Raises:
            ValueError: windows are missing.
        """
        if self._windows is not None or self._row != self._grid.height:
            column = 0 if self._windows is None else self._windows.filled
            raise ValueError(f"windows are missing from row {self._row}, column {column} on")
        # an empty row below the scene closes what is open
        self._advance(np.zeros((1, self._grid.width), np.bool_), np.zeros(0, np.float32))
        with self._spool as spool:
            done = 0
            for columns, shapes in spool.batches(_EMPTY, size):
                data = {"id": np.arange(done + 1, done + len(shapes) + 1), **columns}
                done += len(shapes)
                yield gpd.GeoDataFrame(data, geometry=shapes, crs=self._crs)

    def close(self) -> None:
        """Let go of the finished polygons; after `batches` or `finish` there is nothing left to do."""
        self._spool.close()

    def _end_row(self, windows: WindowRow) -> None:
        for anomalous, scores in windows.strips():
            self._advance(anomalous, scores)
        self._windows = None

    def _advance(self, anomalous: NDArray[np.bool_], scores: NDArray[np.float32]) -> None:
        """Go on by the rows of a strip (h, W), with the scores of its anomalous pixels, row-major."""
        sheet = np.zeros((len(anomalous) + 1, self._grid.width + 2), np.bool_)
        sheet[0, 1:-1], sheet[1:, 1:-1] = self._last, anomalous
        closed = self._open.advance(sheet, scores, self._row)
        if closed is not None:
            self._keep(closed, build_polygons(closed.corners, self._grid.shape, self._grid.transform))
        self._last = sheet[-1, 1:-1].copy()
        self._row += len(anomalous)

    def _keep(self, closed: Closed, polygons: NDArray[np.object_]) -> None:
        """Put finished components aside, with their attributes."""
        facts = closed.facts
        area, lon, lat = self._places(polygons, facts.pixels)
        columns = {
            "area_m2": area,
            "score_max": facts.best.astype(np.float64),
            "score_mean": closed.histograms.mean(len(facts.pixels)),
            "score_p95": self._percentile(closed),
            "pixels": facts.pixels,
            "lon": lon,
            "lat": lat,
            "touches_edge": facts.edge,
        }
        large = area >= self._min_area if self._geographic else np.ones(len(polygons), np.bool_)
        kept = large & self._reaching(facts.best)
        rows = {name: values[kept] for name, values in columns.items()}
        self._spool.add(facts.first[kept], rows, simplified(polygons[kept], self._simplify))

    def _reaching(self, best: NDArray[np.float32]) -> NDArray[np.bool_]:
        if self._min_score is None:
            return np.ones(len(best), np.bool_)
        return np.asarray(best <= self._min_score if self._lower else best >= self._min_score)

    def _percentile(self, part: Closed) -> Floats:
        return part.histograms.percentile_95(len(part.facts.pixels), lower_is_anomalous=self._lower)

    def _places(self, polygons: NDArray[np.object_], pixels: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
        """Areas in m2, longitudes and latitudes; NaN where the grid does not tell."""
        unknown = np.full(len(polygons), np.nan)
        if self._crs is None or len(polygons) == 0:
            return unknown, unknown, unknown
        area: Floats = unknown
        if self._geographic:
            area = ellipsoidal_area(polygons, self._crs)
        elif self._pixel_area is not None:
            area = pixels.astype(np.float64) * self._pixel_area
        return area, *longitude_latitude(polygons, self._crs)


def simplified(polygons: NDArray[np.object_], tolerance: float) -> NDArray[np.object_]:
    """MultiPolygons with fewer vertices, at most `tolerance` off; what would turn invalid stays as it is."""
    if tolerance == 0 or len(polygons) == 0:
        return polygons
    fewer = shapely.simplify(polygons, tolerance, preserve_topology=True)
    single = np.flatnonzero(shapely.get_type_id(fewer) == shapely.GeometryType.POLYGON)
    fewer[single] = shapely.multipolygons(fewer[single], indices=np.arange(len(single)))
    usable = shapely.is_valid(fewer) & ~shapely.is_empty(fewer)
    usable &= shapely.get_type_id(fewer) == shapely.GeometryType.MULTIPOLYGON
    return np.where(usable, fewer, polygons)
