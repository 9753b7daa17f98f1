"""Polygon files: round trips, empty layers, reproducible bytes, errors."""

from __future__ import annotations

import json
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS

from asd_cli.errors import OutputError
from asd_cli.raster.grid import Grid
from asd_cli.raster.windows import Window
from asd_cli.vector import files
from asd_cli.vector.files import write_polygons
from asd_cli.vector.polygons import COLUMNS, PolygonStream

SUFFIXES = [".gpkg", ".geojson", ".fgb", ".parquet"]
UTM = CRS.from_epsg(32632)


def polygons(*, crs: CRS | None = UTM, density: float = 0.3) -> gpd.GeoDataFrame:
    r = np.random.default_rng(5)
    transform = Affine(10, 0, 500_000, 0, -10, 5_000_000) if crs else Affine.identity()
    stream = PolygonStream(Grid(30, 20, transform, crs, "Area"))
    stream.add(Window(0, 0, 20, 30), r.random((20, 30)) < density, r.random((20, 30), dtype=np.float32))
    return stream.finish()


def read(path: Path) -> gpd.GeoDataFrame:
    if path.suffix == ".parquet":
        return gpd.read_parquet(path)
    return gpd.read_file(path).sort_values("id", ignore_index=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    frame = polygons()
    path = tmp_path / f"out{suffix}"
    write_polygons(frame, path)
    back = read(path)
    assert list(back.columns) == list(COLUMNS)
    for name in COLUMNS[:-1]:
        np.testing.assert_allclose(back[name], frame[name], rtol=1e-14, err_msg=name)
    assert back["touches_edge"].dtype == bool
    assert set(back.geometry.geom_type) == {"MultiPolygon"}
    assert back.geometry.is_valid.all()
    expected = frame.to_crs(4326) if suffix == ".geojson" else frame
    assert back.crs == expected.crs
    exact = 1e-8 if suffix == ".geojson" else 0
    difference = shapely.hausdorff_distance(back.geometry.to_numpy(), expected.geometry.to_numpy())
    assert difference.max() <= exact


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_empty_layer(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write_polygons(polygons(density=0), path)
    if suffix == ".parquet":
        back = gpd.read_parquet(path)
        assert list(back.columns) == list(COLUMNS)
        assert back.crs == UTM.to_wkt()
        return
    info = pyogrio.read_info(path)
    assert len(gpd.read_file(path)) == 0
    if suffix == ".geojson":
        assert json.loads(path.read_text())["features"] == []
        assert info["crs"] == "EPSG:4326"
        return
    assert list(info["fields"]) == list(COLUMNS[:-1])
    assert info["crs"] == "EPSG:32632"
    assert info["geometry_type"] == "MultiPolygon"


def test_layer_name_in_geopackage(tmp_path: Path) -> None:
    path = tmp_path / "a name.gpkg"
    write_polygons(polygons(), path)
    assert pyogrio.list_layers(path).tolist() == [["anomalies", "MultiPolygon"]]
    with closing(sqlite3.connect(path)) as database:
        changed = database.execute("SELECT last_change FROM gpkg_contents").fetchall()
    assert changed == [("2000-01-01T00:00:00.000Z",)]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("density", [0, 0.3])
def test_without_crs(tmp_path: Path, suffix: str, density: float, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / f"out{suffix}"
    with caplog.at_level(logging.WARNING):
        write_polygons(polygons(crs=None, density=density), path)
    assert ("has no CRS" in caplog.text) == (suffix == ".geojson")
    back = gpd.read_parquet(path) if suffix == ".parquet" else gpd.read_file(path)
    if suffix != ".geojson":
        assert back.crs is None
    if density:
        assert back[["area_m2", "lon", "lat"]].isna().all(axis=None)
        assert shapely.area(back.geometry.to_numpy()).sum() == back["pixels"].sum()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_same_frame_same_bytes(tmp_path: Path, suffix: str) -> None:
    frame = polygons()
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    contents = set()
    for name in (".out.1a2b.part", "another name"):
        path = tmp_path / f"{name}{suffix}"
        write_polygons(frame, path)
        contents.add(path.read_bytes())
    assert len(contents) == 1
    assert pyogrio.get_gdal_config_option("OGR_CURRENT_DATE") == before


def test_clock_setting_is_restored(tmp_path: Path) -> None:
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "2011-11-11T11:11:11.000Z"})
    try:
        write_polygons(polygons(), tmp_path / "out.gpkg")
        assert pyogrio.get_gdal_config_option("OGR_CURRENT_DATE") == "2011-11-11T11:11:11.000Z"
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})


def test_geojson_follows_rfc_7946(tmp_path: Path) -> None:
    frame = polygons()
    write_polygons(frame, tmp_path / "out.geojson")
    content = json.loads((tmp_path / "out.geojson").read_text())
    assert "crs" not in content
    first: dict[str, Any] = content["features"][0]
    assert first["properties"]["id"] == 1
    assert list(first["properties"]) == list(COLUMNS[:-1])
    for feature in content["features"]:
        for part in shapely.geometry.shape(feature["geometry"]).geoms:
            assert part.exterior.is_ccw
            assert not any(hole.is_ccw for hole in part.interiors)


def test_upper_case_suffix(tmp_path: Path) -> None:
    write_polygons(polygons(), tmp_path / "OUT.GPKG")
    assert len(gpd.read_file(tmp_path / "OUT.GPKG")) == len(polygons())


def test_unknown_suffix_names_the_four(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot be written as '\.shp'; use \.gpkg, \.geojson, \.fgb, \.parquet"):
        write_polygons(polygons(), tmp_path / "out.shp")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_failure_to_write(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(OutputError, match="the polygons cannot be written") as caught:
        write_polygons(polygons(), tmp_path / "missing" / f"out{suffix}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_that_look_like_urls_or_archives(tmp_path: Path, suffix: str) -> None:
    plain, folder = tmp_path / f"plain{suffix}", tmp_path / "a.zip!b;c?d#e"
    folder.mkdir()
    odd = folder / f"50%!x;y{suffix}"
    for path in (plain, odd):
        write_polygons(polygons(), path)
    assert list(folder.iterdir()) == [odd]
    assert odd.read_bytes() == plain.read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_messages_name_the_target(tmp_path: Path, suffix: str) -> None:
    staged, target = tmp_path / "missing" / f".out.part{suffix}", tmp_path / f"out{suffix}"
    with pytest.raises(OutputError) as caught:
        write_polygons(polygons(), staged, target=target)
    assert str(caught.value).startswith(f"{target}: the polygons cannot be written (")
    assert str(staged) not in str(caught.value)


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.97])
def test_a_file_that_was_cut_off_is_noticed(
    suffix: str, share: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original = files._write_with_gdal

    def cut(frame: gpd.GeoDataFrame, path: Path, driver: str, **options: Any) -> None:
        original(frame, path, driver, **options)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    monkeypatch.setattr(files, "_write_with_gdal", cut)
    shapes = [shapely.MultiPolygon([shapely.box(i, 0, i + 0.5, 1)]) for i in range(3000)]
    frame = gpd.GeoDataFrame({"id": range(3000)}, geometry=shapes, crs="EPSG:4326")
    with pytest.raises(OutputError, match=r"the polygons cannot be written \(.*\); check the folder and the disk"):
        write_polygons(frame, tmp_path / f"a{suffix}")


def test_a_missing_spatial_index_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    original = pyogrio.write_dataframe
    options = {"SPATIAL_INDEX": "NO"}
    monkeypatch.setattr(pyogrio, "write_dataframe", lambda *a, **k: original(*a, **{**k, "layer_options": options}))
    frame = gpd.GeoDataFrame({"id": [1]}, geometry=[shapely.MultiPolygon([shapely.box(0, 0, 1, 1)])], crs="EPSG:4326")
    with pytest.raises(OutputError, match="no such table: rtree_anomalies_geom"):
        write_polygons(frame, tmp_path / "a.gpkg")
