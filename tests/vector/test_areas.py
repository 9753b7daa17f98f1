"""Polygons as masks: every format and CRS, only those near the scene, empty layers."""

from __future__ import annotations

import logging
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio.features
import shapely
from affine import Affine
from rasterio.crs import CRS

from asd_cli.errors import InputError
from asd_cli.raster.grid import Grid
from asd_cli.raster.windows import Window
from asd_cli.vector.areas import PolygonMarks

GRID = Grid(300, 200, Affine(0.5, 0, 400_000, 0, -0.5, 5_600_000), CRS.from_epsg(25832))
INSIDE = [shapely.Point(400_040, 5_599_950).buffer(20), shapely.box(400_130, 5_599_850, 400_300, 5_599_920)]
FAR = [shapely.Point(500_000, 5_000_000).buffer(500)]
EXPECTED = rasterio.features.rasterize(INSIDE, GRID.shape, transform=GRID.transform).astype(bool)


def frame(shapes: list[shapely.Geometry]) -> gpd.GeoDataFrame:
    texts = [str(i) for i in range(len(shapes))]
    return gpd.GeoDataFrame({"a": texts, "b": texts}, geometry=shapes, crs="EPSG:25832")


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp", ".fgb", ".parquet"])
@pytest.mark.parametrize("crs", ["EPSG:25832", "EPSG:4326", "EPSG:3035"])
def test_formats_and_crs(tmp_path: Path, suffix: str, crs: str) -> None:
    path = tmp_path / f"areas{suffix}"
    areas = frame(FAR + INSIDE).to_crs("EPSG:4326" if suffix == ".geojson" else crs)
    if suffix == ".parquet":
        areas.to_parquet(path)
    else:
        areas.to_file(path)
    marks = PolygonMarks(str(path), GRID, "scene.tif")
    found = marks.read(Window(0, 0, *GRID.shape))
    assert np.mean(found != EXPECTED) < 1e-4  # a straight line is curved in another CRS
    np.testing.assert_array_equal(marks.read(Window(90, 60, 80, 200)), found[90:170, 60:260])
    assert not marks.empty


def test_only_what_is_near_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "areas.gpkg"
    frame(FAR * 50 + INSIDE).to_file(path)
    with caplog.at_level(logging.DEBUG, "asd_cli"):
        PolygonMarks(str(path), GRID, "scene.tif")
    assert "2 features within scene.tif" in caplog.text


def test_nothing_near_marks_nothing(tmp_path: Path) -> None:
    for name, shapes in (("far", FAR), ("none", [])):
        path = tmp_path / f"{name}.gpkg"
        frame(shapes).to_file(path, geometry_type="Polygon")
        marks = PolygonMarks(str(path), GRID, "scene.tif")
        assert marks.empty
        assert not marks.read(Window(0, 0, *GRID.shape)).any()


def test_a_layer_without_crs_has_the_coordinates_of_the_scene(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "areas.shp"
    frame(INSIDE).to_file(path)
    path.with_suffix(".prj").unlink()
    marks = PolygonMarks(str(path), GRID, "scene.tif")
    np.testing.assert_array_equal(marks.read(Window(0, 0, *GRID.shape)), EXPECTED)
    assert "has no CRS; its coordinates are taken as those of scene.tif" in caplog.text


def test_what_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "areas.gpkg"
    frame(INSIDE).to_file(path, layer="one")
    with pytest.raises(InputError, match=r"areas\.gpkg: polygons cannot be placed on scene\.tif, which has no georef"):
        PolygonMarks(str(path), Grid(30, 20, Affine.identity(), None), "scene.tif")
    frame(INSIDE).to_file(path, layer="two")
    with pytest.raises(InputError, match=r"areas\.gpkg: has 2 layers \(one, two\); name one: .*\|layername=one"):
        PolygonMarks(str(path), GRID, "scene.tif")
    assert PolygonMarks(f"{path}|layername=two", GRID, "scene.tif").read(Window(0, 0, *GRID.shape)).any()
    (tmp_path / "bad.geojson").write_text("{")
    with pytest.raises(InputError, match=r"bad\.geojson: cannot be read as a vector file"):
        PolygonMarks(str(tmp_path / "bad.geojson"), GRID, "scene.tif")
    gpd.GeoDataFrame(geometry=[shapely.Point(400_040, 5_599_950)], crs="EPSG:25832").to_file(tmp_path / "points.gpkg")
    with pytest.raises(InputError, match=r"points\.gpkg: holds no polygons"):
        PolygonMarks(str(tmp_path / "points.gpkg"), GRID, "scene.tif")
