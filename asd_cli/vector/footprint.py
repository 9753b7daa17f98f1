"""Where on Earth a raster lies: its outline in longitude and latitude."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from shapely.geometry import mapping
from shapely.geometry.polygon import orient

from asd_cli.raster.grid import Grid

_POINTS_A_SIDE = 21  # straight edges of the raster are curves on the globe
_DECIMALS = 7  # 1 cm


@dataclass(frozen=True)
class Footprint:
    """GeoJSON geometry in WGS 84, cut at the antimeridian, and (west, south, east, north), west > east across it."""

    geometry: dict[str, Any]
    bbox: tuple[float, float, float, float]


def footprint(grid: Grid) -> Footprint | None:
    """Outline of a raster; None where it has no place on Earth: no CRS or transform, or one that leads nowhere."""
    if grid.crs is None or grid.transform.is_identity:
        return None
    try:
        crs = pyproj.CRS.from_user_input(grid.crs)
        transformer = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
        lon, lat = transformer.transform(*_outline(grid))
    except pyproj.exceptions.ProjError:
        return None
    if not (np.isfinite(lon).all() and np.isfinite(lat).all() and np.abs(lat).max() <= 90):
        return None
    lon = np.unwrap(lon, period=360)
    if abs(lon[-1] - lon[0]) > 180:  # once around the globe: a pole lies inside
        return _around_pole(lon, lat)
    lon = lon - 360 * np.floor((lon.min() + 180) / 360)  # the west in [-180, 180)
    return _cut(shapely.Polygon(np.column_stack([lon, lat])))


def _outline(grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Map coordinates of points along the four edges, closed."""
    steps = np.linspace(0, 1, _POINTS_A_SIDE)
    corners = np.array([(0, 0), (0, grid.height), (grid.width, grid.height), (grid.width, 0), (0, 0)], float)
    sides = [a + (b - a) * step for a, b in pairwise(corners) for step in steps[:-1]]
    col, row = np.array([*sides, corners[-1]]).T
    t = grid.transform
    return t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f


def _around_pole(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> Footprint:
    """The cap between an outline around a pole and the pole: a belt from -180 to 180 degrees."""
    pole = 90.0 if lat.mean() > 0 else -90.0
    inner = np.unique((lon[:-1] + 180) % 360 - 180)
    edge = np.concatenate([[-180.0], inner[inner > -180], [180.0]])
    belt = shapely.Polygon(
        [(-180, pole), *zip(edge, np.interp(edge, lon[:-1], lat[:-1], period=360), strict=True), (180, pole)]
    )
    south, north = (float(lat.min()), 90.0) if pole > 0 else (-90.0, float(lat.max()))
    return Footprint(_geojson([belt]), (-180.0, round(south, _DECIMALS), 180.0, round(north, _DECIMALS)))


def _cut(outline: shapely.Polygon) -> Footprint | None:
    """An outline whose longitudes begin in [-180, 180) and may pass 180."""
    parts = _polygons(shapely.make_valid(outline))
    if not parts:
        return None
    west, south, east, north = (round(float(edge), _DECIMALS) for edge in shapely.MultiPolygon(parts).bounds)
    if east - west >= 360:
        west, east = -180.0, 180.0
        parts = [shapely.box(west, south, east, north)]
    if east > 180:
        inside = shapely.intersection(parts, shapely.box(-180, -90, 180, 90))
        beyond = shapely.intersection(parts, shapely.box(180, -90, 540, 90))
        parts = _polygons(inside) + _polygons(shapely.transform(beyond, lambda xy: xy - [360.0, 0.0]))
        east = round(east - 360, _DECIMALS)
    return Footprint(_geojson(parts), (west, south, east, north))


def _polygons(shapes: Any) -> list[shapely.Polygon]:
    return [part for part in shapely.get_parts(shapes) if part.geom_type == "Polygon" and part.area > 0]


def _geojson(parts: list[shapely.Polygon]) -> dict[str, Any]:
    rounded = [shapely.transform(orient(part), lambda xy: np.round(xy, _DECIMALS) + 0.0) for part in parts]  # no -0.0
    rings = [_lists(mapping(part)["coordinates"]) for part in rounded]
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": rings[0]}
    return {"type": "MultiPolygon", "coordinates": rings}


def _lists(value: Any) -> Any:
    return [_lists(part) for part in value] if isinstance(value, (list, tuple)) else float(value)
