"""Grid: where the pixels of a raster lie. Values only; no files are opened here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.errors import CRSError

from asd_cli.raster.windows import Window

_WGS84_AXIS = 6378137.0  # semi-major axis, metres
_WGS84_E2 = 6.69437999014e-3  # first eccentricity squared
_POINT = ("row", "col", "x", "y", "z", "id", "info")


@dataclass(frozen=True)
class Grid:
    """Size and georeference of a raster; `transform` maps (col, row) of pixel corners to CRS coordinates.

    `gcps` is (points, crs) of a raster that has ground control points instead of a transform, `rpc_tags` its
    rational polynomial coefficients; both are kept only to be written out again.
    """

    width: int
    height: int
    transform: Affine
    crs: CRS | None
    area_or_point: str | None = None
    gcps: tuple[tuple[Any, ...], CRS | None] | None = None
    rpc_tags: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_dataset(cls, dataset: Any) -> Grid:
        """Grid of an open rasterio dataset."""
        points, points_crs = dataset.gcps
        return cls(
            width=dataset.width,
            height=dataset.height,
            transform=dataset.transform,
            crs=dataset.crs or None,
            area_or_point=dataset.tags().get("AREA_OR_POINT"),
            gcps=(tuple(points), points_crs) if points else None,
            rpc_tags=tuple(dataset.tags(ns="RPC").items()),
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values, from which `from_json` makes an equal grid."""
        points, points_crs = self.gcps or ((), None)
        return {
            "width": self.width,
            "height": self.height,
            "transform": list(self.transform)[:6],
            "crs": _crs_text(self.crs),
            "area_or_point": self.area_or_point,
            "gcps": [{name: getattr(point, name) for name in _POINT} for point in points],
            "gcps_crs": _crs_text(points_crs),
            "rpcs": dict(self.rpc_tags),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Grid:
        """What `to_json` gave.

        Raises:
            ValueError, KeyError, TypeError: it is something else.
        """
        points = tuple(GroundControlPoint(**point) for point in values["gcps"])
        try:
            crs, points_crs = (CRS.from_wkt(text) if text else None for text in (values["crs"], values["gcps_crs"]))
        except CRSError as error:
            raise ValueError(str(error)) from error
        return cls(
            width=values["width"],
            height=values["height"],
            transform=Affine(*values["transform"]),
            crs=crs,
            area_or_point=values["area_or_point"],
            gcps=(points, points_crs) if points else None,
            rpc_tags=tuple(values["rpcs"].items()),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    @property
    def is_geographic(self) -> bool:
        """Whether coordinates are angles (longitude, latitude)."""
        return self.crs is not None and bool(self.crs.is_geographic)

    @property
    def pixel_size(self) -> tuple[float, float]:
        """(x, y) length of a pixel's sides in CRS units; positive, whatever the rotation."""
        t = self.transform
        return math.hypot(t.a, t.d), math.hypot(t.b, t.e)

    @property
    def pixel_size_m(self) -> float | None:
        """Side in metres of a square as large as a pixel; None where `pixel_area_m2` is."""
        area = self.pixel_area_m2
        return None if area is None else math.sqrt(area)

    @property
    def pixel_area_m2(self) -> float | None:
        """Area of a pixel in square metres: on the map plane if projected, at the scene centre if geographic.

        None without a CRS, without a transform or with one that has no area, or if the CRS has no usable unit.
        """
        if self.crs is None or self.transform.is_identity:
            return None
        try:
            if self.is_geographic:
                square = self._square_unit_at_centre()
            else:
                square = float(self.crs.linear_units_factor[1]) ** 2
        except (CRSError, ValueError, TypeError):
            return None
        area = 0.0 if square is None else float(abs(self.transform.determinant) * square)
        return area if area > 0 else None

    def _square_unit_at_centre(self) -> float | None:
        """Square metres of one squared angular unit at the centre's latitude, on the WGS 84 ellipsoid.

        Radii of curvature in the meridian and the prime vertical: Snyder, Map Projections (1987), eq. 4-18,
        4-20.
        """
        unit = float(self.crs.units_factor[1]) if self.crs is not None else math.radians(1.0)
        latitude = _apply(self.transform, self.width / 2, self.height / 2)[1] * unit
        if abs(latitude) > math.pi / 2:
            return None
        w2 = 1.0 - _WGS84_E2 * math.sin(latitude) ** 2
        meridian = _WGS84_AXIS * (1.0 - _WGS84_E2) / w2**1.5
        parallel = _WGS84_AXIS / math.sqrt(w2) * math.cos(latitude)
        return float(meridian * parallel * unit**2)

    def drawn(self) -> Grid:
        """Grid of polygons: without a geotransform, pixels with y upwards, where GIS programs place such a raster."""
        if not self.transform.is_identity:
            return self
        return replace(self, transform=Affine(1, 0, 0, 0, -1, 0), crs=None)

    def same_as(self, other: Grid, tolerance: float = 0.01) -> bool:
        """Whether pixels coincide: same shape and CRS, and corners no more than `tolerance` pixels apart."""
        if self.shape != other.shape or self.crs != other.crs:
            return False
        if _points(self) != _points(other):
            return False
        if self.transform == other.transform:
            return True
        if self.transform.is_degenerate:
            return False
        back = ~self.transform
        corners = ((x, y) for x in (0, self.width) for y in (0, self.height))
        return all(math.dist(_apply(back, *_apply(other.transform, *c)), c) <= tolerance for c in corners)

    def window_transform(self, window: Window) -> Affine:
        """Transform of a raster that holds `window` only."""
        t = self.transform
        x, y = _apply(t, window.col, window.row)
        return Affine(t.a, t.b, x, t.d, t.e, y)


def _apply(t: Affine, col: float, row: float) -> tuple[float, float]:
    """(x, y) of a point; spelled out because affine 2 knows only ``*`` and affine 3 warns of it."""
    return t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f


def _crs_text(crs: CRS | None) -> str | None:
    return crs.to_wkt(version="WKT2_2019") if crs else None  # WKT 1 cannot say all of it


def _points(grid: Grid) -> list[tuple[float, ...]]:
    """Ground control points as plain numbers, in order."""
    return [] if grid.gcps is None else sorted((p.row, p.col, p.x, p.y) for p in grid.gcps[0])
