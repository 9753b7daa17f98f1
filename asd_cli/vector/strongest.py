"""The most anomalous polygons of a file, however many it holds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow.parquet
import pyogrio
import shapely
from numpy.typing import NDArray

from asd_cli.errors import InputError, one_line
from asd_cli.options import POLYGON_SUFFIXES
from asd_cli.raster.grid import Grid
from asd_cli.vector.files import POLYGON_FAILURES

_SCORE = "score_max"


@dataclass(frozen=True)
class Strongest:
    """The `frame` of the strongest polygons, strongest first, and how many the file holds in all."""

    frame: gpd.GeoDataFrame
    total: int


def read_strongest(path: Path, most: int, *, lower_is_anomalous: bool) -> Strongest:
    """At most `most` polygons that `asd predict` wrote, by `score_max`.

    Memory: the scores of all polygons, and the chosen ones.

    Raises:
        InputError: the file cannot be read, or has no `score_max`.
    """
    suffix = path.suffix.lower()
    if suffix not in POLYGON_SUFFIXES:
        raise InputError(f"{path}: is no polygon file that asd predict writes; give {', '.join(POLYGON_SUFFIXES)}")
    with _reading(path):
        if suffix == ".parquet":
            return _from_parquet(path, most, ascending=lower_is_anomalous)
        layer = str(pyogrio.list_layers(path)[0][0])
        facts = pyogrio.read_info(path, layer=layer, force_feature_count=True)
        if _SCORE not in facts["fields"]:
            if facts["features"] == 0:  # GeoJSON without features has no fields
                return Strongest(gpd.GeoDataFrame(geometry=[], crs=facts["crs"]), 0)
            raise _no_scores(path)
        order = "ASC" if lower_is_anomalous else "DESC"
        name = layer.replace('"', '""')
        tie = ", id" if "id" in facts["fields"] else ""
        query = f'SELECT * FROM "{name}" ORDER BY {_SCORE} {order}{tie} LIMIT {most}'
        frame = pyogrio.read_dataframe(path, sql=query)
        return Strongest(frame, int(facts["features"]))


def _from_parquet(path: Path, most: int, *, ascending: bool) -> Strongest:
    with pyarrow.parquet.ParquetFile(path) as file:
        if _SCORE not in file.schema_arrow.names:
            raise _no_scores(path)
        scores = file.read([_SCORE]).column(0).to_pandas()
    chosen = scores.sort_values(ascending=ascending, kind="stable").index[:most]
    if len(chosen) == 0:
        return Strongest(gpd.read_parquet(path), 0)
    limit = scores[chosen].iloc[-1]
    kept = gpd.read_parquet(path, filters=[(_SCORE, "<=" if ascending else ">=", limit)])
    return Strongest(kept.sort_values(_SCORE, ascending=ascending, kind="stable").head(most), len(scores))


def _no_scores(path: Path) -> InputError:
    return InputError(f"{path}: has no column {_SCORE}; give polygons that asd predict wrote")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (*POLYGON_FAILURES, ValueError) as error:
        raise InputError(
            f"{path}: the polygons cannot be read ({one_line(error)}); see what ogrinfo says of it"
        ) from error


def in_pixels(frame: gpd.GeoDataFrame, grid: Grid) -> NDArray[Any]:
    """Geometries in pixels of the grid: column and row from its upper left corner.

    Without a CRS on either side coordinates are taken as they are.
    """
    if grid.crs is not None and frame.crs is not None:
        frame = frame.to_crs(grid.crs.to_wkt())
    back = ~grid.drawn().transform
    moved = frame.geometry.affine_transform([back.a, back.b, back.d, back.e, back.c, back.f])
    return np.asarray(moved.to_numpy())


def svg_path(geometry: Any, scale: float = 1.0, origin: tuple[float, float] = (0.0, 0.0)) -> str:
    """Rings of a polygon, made simpler by at most half a unit after scaling, as the ``d`` of an SVG path."""
    moved = shapely.transform(geometry, lambda xy: (xy - origin) * scale)
    simple = shapely.simplify(moved, 0.5, preserve_topology=False)
    if simple.is_empty:  # smaller than half a unit
        simple = shapely.box(*moved.bounds)
    text = []
    for part in shapely.get_parts(simple):
        for ring in (part.exterior, *part.interiors):
            points = [f"{x:.1f} {y:.1f}" for x, y in shapely.get_coordinates(ring)[:-1]]
            text.append(f"M{'L'.join(points)}Z")
    return "".join(text)
