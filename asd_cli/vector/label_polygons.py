"""Label polygons: read once from a vector file, burnt window by window onto any grid."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

import geopandas
import numpy as np
import pyogrio
import rasterio.features
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj.exceptions import ProjError
from rasterio.errors import CRSError
from rasterio.warp import transform_bounds

from asd_cli.errors import LabelError, one_line
from asd_cli.raster.grid import Grid
from asd_cli.raster.windows import Window

UNLABELLED = 0
"""Code of pixels outside all polygons."""
UNLABELLED_NAME = "unlabelled"
LABELLED_NAME = "labelled"

VECTOR_SUFFIXES = frozenset((".gpkg", ".geojson", ".json", ".shp", ".parquet", ".geoparquet", ".fgb"))
_PARQUET = frozenset((".parquet", ".geoparquet"))
_SUBPIXEL = 65536.0  # vertices are snapped to 1/65536 px, so that every window burns the same pixels

Box = tuple[float, float, float, float]
"""(left, bottom, right, top)."""
_MARGIN, _STEPS = 1.0, 300  # of the surroundings that polygons are cut to: grid sizes on each side, parts of an edge
_NO_TOUCH = -1e-9
_TURN = 360.0
TURNS = (-_TURN, 0.0, _TURN)
"""Longitudes from each other at which a place may be written: 181 is -179, and 350 is -10."""

_log = logging.getLogger(__name__)


def is_vector(path: str) -> bool:
    """Whether `path` (``FILE`` or ``FILE|layername=NAME``) names a vector file, by its suffix."""
    return PurePosixPath(path.partition("|")[0]).suffix.lower() in VECTOR_SUFFIXES


class LabelPolygons:
    """Polygons of a vector file and the class codes of each, held in memory in the order of the file.

    Codes are 1, 2, ... by class name in alphabetical order; 0 (`UNLABELLED`) lies outside all polygons. Where
    polygons overlap, the later one in the file wins.
    """

    def __init__(self, path: str, geometry: Any, classes: Sequence[str]) -> None:
        """`geometry`: a GeoSeries of polygons; `classes`: the class name of each."""
        self.path = path
        self._geometry = geometry
        found = sorted(set(classes))
        codes = {name: code for code, name in enumerate(found, start=1)}
        self._codes = np.array([codes[name] for name in classes], dtype=np.int32)
        self.names: Mapping[int, str] = {UNLABELLED: UNLABELLED_NAME} | {codes[name]: name for name in found}

    @classmethod
    def load(cls, path: str, field: str | None = None) -> LabelPolygons:
        """Read a GeoPackage, GeoJSON, shapefile, FlatGeobuf or GeoParquet file.

        `field` names the column of classes. Without it the only text column is taken; without any text column
        every polygon is of class 'labelled'. A file of several layers is given as ``FILE|layername=NAME``.

        Raises:
            LabelError: the file cannot be read, holds no polygons, or the column of classes is unknown or
                unclear.
        """
        frame = read_frame(path)
        column = _class_column(frame, path, field)
        classes = _class_names(frame, column)
        geometry, kept = clean_polygons(frame, classes, path)
        return cls(path, geometry, [name for name, keep in zip(classes, kept, strict=True) if keep])

    def on_grid(self, grid: Grid, image: str) -> PolygonReader:
        """Those polygons that touch the grid of `image`, reprojected to its CRS."""
        source_crs = self._geometry.crs
        subset, codes = self._geometry, self._codes
        if grid.crs is None and source_crs is not None:
            raise LabelError(
                f"{image}: has no CRS, so the polygons of {self.path} cannot be placed on it; "
                "assign one (gdal_edit.py -a_srs) or give label rasters"
            )
        try:
            bounds = grid_bounds(grid)
            if source_crs is not None:
                bounds = transform_bounds(grid.crs, source_crs.to_wkt(), *bounds)
            if np.isfinite(bounds).all():
                geographic = grid.is_geographic if source_crs is None else source_crs.is_geographic
                subset, chosen = _near(self._geometry, bounds, TURNS if geographic else (0.0,))
                codes = self._codes[chosen]
            if source_crs is not None and grid.crs is not None:
                subset = subset.to_crs(grid.crs.to_wkt())
                if grid.is_geographic:
                    subset = _unwound(subset, grid_bounds(grid))
        except (CRSError, ProjError) as error:
            raise LabelError(f"{self.path}: cannot be reprojected to the CRS of {image} ({one_line(error)})") from error
        polygons = np.asarray(subset.array)
        lost = int((~shapely.is_empty(polygons) & ~np.isfinite(shapely.bounds(polygons)).all(axis=1)).sum())
        if lost:
            _log.warning("%s: %d polygons cannot be placed on %s and were skipped", self.path, lost, image)
        return PolygonReader(polygons, codes, grid, self.names)


class PolygonReader:
    """Class codes of the pixels of one grid: a pixel belongs to the polygon that covers its centre."""

    def __init__(self, polygons: NDArray[Any], codes: NDArray[np.int32], grid: Grid, names: Mapping[int, str]) -> None:
        """`polygons`: geometries in the CRS of `grid`; `codes`: the class code of each."""
        to_pixels = ~grid.transform
        in_pixels = shapely.transform(polygons, lambda points: _pixel_points(points, to_pixels))
        finite = np.isfinite(shapely.bounds(in_pixels)).all(axis=1)
        self._polygons = in_pixels[finite]
        self._codes = codes[finite]
        self._tree = shapely.STRtree(self._polygons)
        self._names = names

    @property
    def names(self) -> Mapping[int, str]:
        """Class names by code, `UNLABELLED` among them."""
        return self._names

    def read(self, window: Window) -> NDArray[np.int32]:
        """(height, width) int32 class codes; 0 outside all polygons."""
        box = shapely.box(window.col, window.row, window.col_stop, window.row_stop)
        chosen = np.sort(self._tree.query(box))
        if len(chosen) == 0:
            return np.full(window.shape, UNLABELLED, dtype=np.int32)
        shapes = zip(self._polygons[chosen], self._codes[chosen].tolist(), strict=True)
        burnt: NDArray[np.int32] = rasterio.features.rasterize(
            shapes,
            out_shape=window.shape,
            fill=UNLABELLED,
            transform=Affine.translation(window.col, window.row),
            dtype="int32",
        )
        return burnt

    def close(self) -> None:
        """Nothing to close: the polygons are in memory."""


def _boxes(bounds: Sequence[float], margin: float) -> NDArray[Any]:
    """Boxes of bounds, wider by a share of their size on each side; two if the first is beyond the date line."""
    left, bottom, right, top = bounds
    width = right - left + (_TURN if right < left else 0.0)
    aside, above = margin * width, margin * (top - bottom)
    spans = [(left - aside, right + aside)]
    if right < left:
        spans = [(left - aside, 180.0), (-180.0, right + aside)]
    return np.array([shapely.box(west, bottom - above, east, top + above) for west, east in spans])


def _near(geometry: Any, bounds: Sequence[float], turns: Sequence[float]) -> tuple[Any, NDArray[np.intp]]:
    """Polygons that touch the bounds, cut to the surroundings, and their places in `geometry`, in order. Those that do
    so some `turns` away are moved to the bounds."""
    parts, places = [], []
    for turn in turns:
        chosen = np.unique(geometry.sindex.query(_moved(_boxes(bounds, _NO_TOUCH), turn))[-1])
        parts.append(_moved(_cut(geometry.iloc[chosen], _moved(_boxes(bounds, _MARGIN), turn)), -turn))
        places.append(chosen)
    found = np.concatenate(places)
    order = np.argsort(found, kind="stable")
    return geopandas.GeoSeries(np.concatenate(parts)[order], crs=geometry.crs), found[order]


def _moved(shapes: NDArray[Any], by: float) -> NDArray[Any]:
    """Shapes moved to the east."""
    return shapely.transform(shapes, lambda points: points + np.array((by, 0.0))) if by else shapes


def _unwound(geometry: Any, bounds: Box) -> Any:
    """Geographic polygons near the bounds with longitudes that go on beyond 180 as those of the bounds do."""
    west, _, east, _ = bounds
    if (1 + 2 * _MARGIN) * (east - west) >= _TURN:  # the surroundings are the globe: no saying which turn is meant
        return geometry

    def unwind(points: NDArray[Any]) -> NDArray[Any]:
        with np.errstate(invalid="ignore"):  # what is not finite is left out
            turns = np.round((points[:, 0] - (west + east) / 2) / _TURN)
            return np.stack([points[:, 0] - turns * _TURN, points[:, 1]], axis=1)

    return geopandas.GeoSeries(shapely.transform(np.asarray(geometry.array), unwind), crs=geometry.crs)


def _cut(geometry: Any, boxes: NDArray[Any]) -> NDArray[Any]:
    """Polygons cut to what is near: far vertices have no place in many a projection, and long edges bend in it."""
    near = shapely.union_all(boxes)
    polygons = np.array(geometry.array, dtype=object)  # a copy: all rows chosen are the whole's own
    far = ~shapely.contains_properly(near, polygons)
    if far.any():
        step = max(shapely.bounds(boxes)[:, 2:].max(axis=0) - shapely.bounds(boxes)[:, :2].min(axis=0)) / _STEPS
        with np.errstate(over="ignore", invalid="ignore"):
            parts = shapely.intersection(polygons[far], near)
        cut = [_polygons_only(part) or shapely.Polygon() for part in parts]
        polygons[far] = shapely.segmentize(cut, step)
    return polygons


def _pixel_points(points: NDArray[Any], to_pixels: Affine) -> NDArray[Any]:
    """(N, 2) coordinates -> (N, 2) columns and rows, snapped to exact binary fractions."""
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is left out
        snapped: NDArray[Any] = np.round(np.stack(apply_affine(to_pixels, points), axis=1) * _SUBPIXEL) / _SUBPIXEL
    return snapped


def apply_affine(affine: Affine, points: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """(N, 2) points -> their two coordinates after the transform."""
    x, y = points[:, 0], points[:, 1]
    return affine.a * x + affine.b * y + affine.c, affine.d * x + affine.e * y + affine.f


def grid_bounds(grid: Grid) -> Box:
    """Bounds of the grid in its own CRS, whatever its rotation."""
    corners = np.array([(0, 0), (grid.width, 0), (0, grid.height), (grid.width, grid.height)], dtype=np.float64)
    x, y = apply_affine(grid.transform, corners)
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


@contextmanager
def without_warnings() -> Iterator[None]:
    """Without those of pyogrio: of measures that are dropped, of values of several types."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def read_frame(path: str, box: Box | None = None) -> Any:
    """The features of a file, those outside `box` (in its CRS) left out where the format allows."""
    file, _, layer = path.partition("|layername=")
    try:
        if PurePosixPath(file).suffix.lower() in _PARQUET:
            return geopandas.read_parquet(file)
        with without_warnings():
            layers = [str(name) for name, kind in pyogrio.list_layers(file) if kind is not None]
        if not layer and len(layers) > 1:
            raise LabelError(
                f"{file}: has {len(layers)} layers ({', '.join(layers)}); name one: {file}|layername={layers[0]}"
            )
        with without_warnings():
            frame = geopandas.read_file(file, engine="pyogrio", layer=layer or None, bbox=box)
    except LabelError:
        raise
    except Exception as error:  # pyogrio, pyarrow and GDAL each raise trees of their own
        raise LabelError(f"{path}: cannot be read as a vector file ({one_line(error)})") from error
    if not isinstance(frame, geopandas.GeoDataFrame):
        raise LabelError(f"{path}: has no geometry; polygons are needed")
    return frame


def _class_column(frame: Any, path: str, field: str | None) -> str | None:
    """Name of the column that holds the classes; None: there is none, all polygons are alike."""
    columns = [str(name) for name in frame.columns if name != frame.geometry.name]
    listed = ", ".join(columns) or "none"
    if field is not None:
        match = [name for name in columns if name.lower() == field.lower()]
        if field in columns or len(match) == 1:
            return field if field in columns else match[0]
        raise LabelError(f"--label-field {field}: {path} has no such field; fields: {listed}")
    text = [name for name in columns if frame[name].dtype.kind == "O" and frame[name].notna().any()]
    if len(text) > 1:
        raise LabelError(f"{path}: several fields may name the class; add --label-field with one of: {listed}")
    if not text and columns:
        _log.warning(
            "%s: no text field, so every polygon is of class '%s'; --label-field names another of: %s",
            path,
            LABELLED_NAME,
            listed,
        )
    return text[0] if text else None


def _class_names(frame: Any, column: str | None) -> list[str]:
    """The class name of each feature; '' where it has none."""
    if column is None:
        return [LABELLED_NAME] * len(frame)
    return [_class_name(value) for value in frame[column].tolist()]


def _class_name(value: Any) -> str:
    if value is None or value != value:  # noqa: PLR0124 (NaN differs from itself)
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def clean_polygons(frame: Any, classes: Sequence[str], path: str) -> tuple[Any, list[bool]]:
    """The usable polygons, 2-D and valid, and for each feature whether it was kept."""
    geometry = frame.geometry
    named = np.array([bool(name) for name in classes], dtype=bool)
    polygons = shapely.force_2d(np.asarray(geometry.array, dtype=object))
    present = ~(shapely.is_missing(polygons) | shapely.is_empty(polygons))
    broken = present & ~shapely.is_valid(polygons)
    if broken.any():
        polygons[broken] = shapely.make_valid(polygons[broken], method="structure", keep_collapsed=False)
        _log.warning("%s: %d invalid polygons were repaired", path, int(broken.sum()))
    polygons = np.array([_polygons_only(shape) for shape in polygons], dtype=object)
    areal = present & ~shapely.is_missing(polygons)
    kept = areal & named
    skipped = {"no class": int((areal & ~named).sum()), "no area": int((present & ~areal).sum())}
    for reason, count in skipped.items():
        if count:
            _log.warning("%s: %d features with %s were skipped", path, count, reason)
    if not kept.any():
        raise LabelError(f"{path}: holds no polygons with a class; label polygons are needed")
    return geopandas.GeoSeries(polygons[kept], crs=geometry.crs), kept.tolist()


def _polygons_only(shape: Any) -> Any:
    """The polygons within a geometry as one geometry; None when it has none."""
    if shape is None or shape.geom_type in ("Polygon", "MultiPolygon"):
        return shape
    parts = [part for each in getattr(shape, "geoms", ()) if (part := _polygons_only(each)) is not None]
    return shapely.union_all(parts) if parts else None
