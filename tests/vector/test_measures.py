"""Polygons with heights and measures (Z, M, ZM) are burnt as their outlines without."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS

from asd_cli.raster.grid import Grid
from asd_cli.raster.windows import Window
from asd_cli.vector.areas import PolygonMarks
from asd_cli.vector.label_polygons import LabelPolygons

Points = list[tuple[float, ...]]
Write = Callable[[Path, list[Points], str], Path]
UTM = CRS.from_epsg(32633)
GRID = Grid(24, 18, Affine(10, 0, 500_000, 0, -10, 5_200_000), UTM)
WHOLE = Window(0, 0, 18, 24)
RINGS: list[Points] = [  # the first reaches beyond the surroundings of the grid and is cut
    [(499_000, 5_199_903), (499_000, 5_205_000), (500_083, 5_205_000), (500_083, 5_199_903), (499_000, 5_199_903)],
    [(500_044, 5_199_852), (500_123, 5_199_961), (500_207, 5_199_874), (500_044, 5_199_852)],
]
HEIGHT, MEASURE = 300.5, float(np.nextafter(7.0, 8.0))


def frame(rings: list[Points]) -> geopandas.GeoDataFrame:
    kinds = ["a", "b"]
    return geopandas.GeoDataFrame({"kind": kinds}, geometry=[shapely.Polygon(ring) for ring in rings], crs="EPSG:32633")


def wkb(ring: Points, dims: str) -> bytes:
    code = {"": 3, "Z": 1003, "M": 2003, "ZM": 3003}[dims]
    more = [{"Z": HEIGHT, "M": MEASURE}[dim] for dim in dims]
    return struct.pack("<BIII", 1, code, 1, len(ring)) + b"".join(
        struct.pack(f"<{2 + len(dims)}d", *point, *more) for point in ring
    )


def geopackage(path: Path, rings: list[Points], dims: str) -> Path:
    frame(rings).to_file(path, layer="labels", SPATIAL_INDEX="NO")
    with sqlite3.connect(path) as db:
        for number, ring in enumerate(rings, start=1):
            blob = b"GP\0\1" + struct.pack("<i", 32633) + wkb(ring, dims)
            db.execute("UPDATE labels SET geom = ? WHERE fid = ?", (blob, number))
        has = {"z": int("Z" in dims), "m": int("M" in dims)}
        db.execute("UPDATE gpkg_geometry_columns SET z = :z, m = :m", has)
    db.close()
    return path


def shapefile(path: Path, rings: list[Points], dims: str) -> Path:
    """PolygonM and PolygonZ; the latter always has room for measures."""
    frame(rings).to_file(path)
    kind, records, places, place = {"": 5, "M": 25}.get(dims, 15), b"", b"", 50
    box = shapely.total_bounds([shapely.Polygon(ring) for ring in rings])
    for number, ring in enumerate(rings, start=1):
        content = struct.pack("<i4d3i", kind, *shapely.Polygon(ring).bounds, 1, len(ring), 0)
        content += b"".join(struct.pack("<2d", *point) for point in ring)
        for value in [HEIGHT] * ("Z" in dims) + [MEASURE] * ("M" in dims):
            content += struct.pack(f"<{2 + len(ring)}d", *[value] * (2 + len(ring)))
        words = len(content) // 2
        records += struct.pack(">2i", number, words) + content
        places += struct.pack(">2i", place, words)
        place += 4 + words
    for suffix, data in ((".shp", records), (".shx", places)):
        header = struct.pack(">7i", 9994, 0, 0, 0, 0, 0, 50 + len(data) // 2)
        header += struct.pack("<2i8d", 1000, kind, *box, HEIGHT, HEIGHT, MEASURE, MEASURE)
        path.with_suffix(suffix).write_bytes(header + data)
    return path


def parquet(path: Path, rings: list[Points], dims: str) -> Path:
    table: Any = frame(rings)
    table.set_geometry(shapely.from_wkb([wkb(ring, dims) for ring in rings]), crs=table.crs).to_parquet(path)
    return path


@pytest.mark.parametrize("dims", ["Z", "M", "ZM"])
@pytest.mark.parametrize(("write", "suffix"), [(geopackage, ".gpkg"), (shapefile, ".shp"), (parquet, ".parquet")])
def test_only_the_outline_counts(tmp_path: Path, write: Write, suffix: str, dims: str) -> None:
    path = write(tmp_path / f"labels{suffix}", RINGS, dims)
    plain = LabelPolygons("plain", frame(RINGS).geometry, ["a", "b"]).on_grid(GRID, "image.tif").read(WHOLE)
    assert set(plain.ravel()) == {0, 1, 2}
    expected = np.zeros(GRID.shape, np.int32)
    cols, rows = np.meshgrid(500_005 + 10 * np.arange(24), 5_199_995 - 10 * np.arange(18))
    for code, ring in enumerate(RINGS, start=1):
        expected[shapely.contains_xy(shapely.Polygon(ring), cols, rows)] = code
    np.testing.assert_array_equal(plain, expected)
    np.testing.assert_array_equal(LabelPolygons.load(str(path)).on_grid(GRID, "image.tif").read(WHOLE), expected)
    np.testing.assert_array_equal(PolygonMarks(str(path), GRID, "image.tif").read(WHOLE), expected > 0)
    if suffix != ".parquet" and "M" in dims:  # the file is what it is meant to be
        with pytest.warns(UserWarning, match="Original type 'Measured "):
            geopandas.list_layers(path)
