"""Polygon files: GeoPackage, GeoJSON, FlatGeobuf and GeoParquet, byte-reproducible."""

from __future__ import annotations

import logging
import sqlite3
import warnings
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd
import pyarrow
import pyogrio
import pyproj

from asd_cli.errors import OutputError, one_line

LAYER = "anomalies"
_DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON", ".fgb": "FlatGeobuf", ".parquet": "Parquet"}
_ODD = frozenset("!;\t\r\n")  # pyogrio takes such a path for an archive's or a URL and cuts it
_CLOCK = "OGR_CURRENT_DATE"
POLYGON_FAILURES = (
    OSError,
    pyarrow.ArrowException,
    pyogrio.errors.DataSourceError,
    pyogrio.errors.DataLayerError,
    pyogrio.errors.CRSError,
    pyogrio.errors.FeatureError,
    pyogrio.errors.FieldError,
    pyogrio.errors.GeometryError,
    sqlite3.Error,
)
"""What reading and writing polygon files raises."""
_GPKG_CHECKS = (
    "PRAGMA quick_check",
    f"SELECT count(*) FROM {LAYER}",
    f"SELECT count(*) FROM rtree_{LAYER}_geom",  # the spatial index, which comes last
)
_log = logging.getLogger(__name__)


def check_polygon_suffix(path: Path) -> str:
    """The lower-case suffix of a polygon file, to be called before any work.

    Raises:
        OutputError: it is none of .gpkg, .geojson, .fgb, .parquet.
    """
    suffix = path.suffix.lower()
    if suffix not in _DRIVERS:
        raise OutputError(f"{path}: polygons cannot be written as '{path.suffix}'; use {', '.join(_DRIVERS)}")
    return suffix


def write_polygons(
    frames: gpd.GeoDataFrame | Iterable[gpd.GeoDataFrame], path: Path, *, target: Path | None = None
) -> int:
    """Write frames of MultiPolygons in the format of the suffix: .gpkg, .geojson, .fgb or .parquet; their number.

    A GeoPackage is written frame by frame; for the other formats all frames are in memory at once.

    `target` is the name for messages, where `path` is a temporary one.

    The layer is called `anomalies`. GeoJSON is in EPSG:4326 (RFC 7946), cut at the antimeridian; being
    without a schema, an empty one has no fields. FlatGeobuf stores features in the order of its spatial
    index: sort by `id`. A frame without a CRS gives a file without one. Equal frames give equal bytes.

    Raises:
        OutputError: another suffix, or the file cannot be written.
    """
    suffix, name = check_polygon_suffix(path), target or path
    parts = iter([frames] if isinstance(frames, gpd.GeoDataFrame) else frames)
    frame = next(parts)
    if suffix != ".gpkg" or _ODD.intersection(str(path)):
        frame, parts = pd.concat([frame, *parts], ignore_index=True), iter(())
    if suffix == ".geojson" and not _has_longitude(frame.crs):
        _log.warning(
            "%s: the scene has %s, but readers take GeoJSON for longitude and latitude; "
            "these are plain coordinates. Choose .gpkg to avoid this.",
            name,
            "no CRS" if frame.crs is None else "a local CRS",
        )
        frame = frame.set_crs(None, allow_override=True)
    count = len(frame)
    try:
        if suffix == ".parquet":
            frame.to_parquet(path, index=False)
        else:
            _write_with_gdal(frame, path, _DRIVERS[suffix])
        for part in parts:
            count += len(part)
            _write_with_gdal(part, path, _DRIVERS[suffix], append=True)
        _check_written(path, suffix, count)
    except POLYGON_FAILURES as error:
        reason = one_line(error).replace(str(path), str(name))
        on_earth = suffix == ".geojson" and isinstance(error, pyogrio.errors.FeatureError)
        remedy = "choose .gpkg: GeoJSON holds longitudes and latitudes" if on_earth else "check the folder and the disk"
        raise OutputError(f"{name}: the polygons cannot be written ({reason}); {remedy}") from error

    return count


def _has_longitude(crs: Any) -> bool:
    """Whether a CRS (or None) has longitude and latitude; local and engineering ones have not."""
    try:
        return crs is not None and pyproj.Transformer.from_crs(crs, "EPSG:4326") is not None
    except pyproj.exceptions.ProjError:
        return False


def _check_written(path: Path, suffix: str, count: int) -> None:
    """GDAL may close a file on a full disk without an error: see that all is there.

    Raises:
        OSError: it is not.
    """
    if suffix == ".gpkg":
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            found = [database.execute(query).fetchone()[0] for query in _GPKG_CHECKS]
        intact = found == ["ok", count, count]
    elif suffix == ".geojson":
        info = pyogrio.read_info(BytesIO(path.read_bytes()), force_feature_count=True)
        intact = info["features"] == count
    else:  # their writers raise
        intact = True
    if not intact:
        raise OSError("what was written reads back incomplete")


def _write_with_gdal(frame: gpd.GeoDataFrame, path: Path, driver: str, *, append: bool = False) -> None:
    options = {"COORDINATE_PRECISION": "9"} if driver == "GeoJSON" else {}
    if driver == "GeoJSON" and frame.crs is not None:
        options["RFC7946"] = "YES"  # GDAL then transforms to EPSG:4326, winds rings and cuts at the antimeridian
    with _fixed_clock(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="'crs' was not provided", category=UserWarning)
        memory = BytesIO()
        pyogrio.write_dataframe(
            frame,
            memory if _ODD.intersection(str(path)) else path,
            layer=LAYER,
            driver=driver,
            geometry_type="MultiPolygon",
            layer_options=options,
            append=append,
        )
    if memory.getvalue():
        path.write_bytes(memory.getvalue())


@contextmanager
def _fixed_clock() -> Iterator[None]:
    """GeoPackage notes the time of writing; a constant one makes equal contents equal bytes."""
    before = pyogrio.get_gdal_config_option(_CLOCK)
    pyogrio.set_gdal_config_options({_CLOCK: "2000-01-01T00:00:00.000Z"})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({_CLOCK: before})
