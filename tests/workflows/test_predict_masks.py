"""`--mask`, `--area` and `--min-score`: what becomes of the map and its polygons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
from numpy.typing import NDArray

from asd_cli.errors import InputError, RasterError
from asd_cli.options import PredictOptions
from asd_cli.raster.gdal import open_raster
from asd_cli.workflows.predict import PredictReport, predict

Make = Callable[..., Path]
SHAPE = 600, 1100
Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def scene(make_scene: Make, make_texture: Callable[..., Array], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mostly nodata, to be quick."""
    values = make_texture(7, 3, *SHAPE).clip(1, 255).astype(np.uint8)
    values[:, :, 200:420] = 0
    values[:, 250:] = 0
    return make_scene(tmp_path_factory.mktemp("masks") / "my scene.tif", values, nodata=0)


@pytest.fixture(scope="module")
def clouds(scene: Path) -> Path:
    """Polygons over a seam of windows and at the scene's edge, in degrees."""
    x, y = 400_000 + 0.5 * 512, 5_600_000 - 0.5 * 60
    shapes = [shapely.Point(x, y).buffer(20), shapely.Point(400_000, 5_600_000).buffer(15)]
    path = scene.with_name("clouds.geojson")
    gpd.GeoDataFrame(geometry=shapes, crs="EPSG:25832").to_crs(4326).to_file(path)
    return path


def run(scene: Path, output: Path, model: Path, **options: Any) -> PredictReport:
    (report,) = predict(PredictOptions(scenes=(str(scene),), output=str(output), model=model, device="cpu", **options))
    return report


def read(path: Path) -> tuple[Array, dict[str, str]]:
    with open_raster(path) as dataset:
        return np.asarray(dataset.read(1)), dataset.tags()


def inside(scene: Path, polygons: Path) -> NDArray[np.bool_]:
    import rasterio.features

    with open_raster(scene) as dataset:
        shapes = gpd.read_file(polygons).to_crs(dataset.crs).geometry
        return rasterio.features.rasterize(shapes, dataset.shape, transform=dataset.transform).astype(bool)


def test_a_mask_is_as_nodata_for_every_window(
    scene: Path, clouds: Path, random_model: Path, make_scene: Make, tmp_path: Path
) -> None:
    marked = inside(scene, clouds)
    with open_raster(scene) as dataset:
        holed = make_scene(tmp_path / "holed.tif", np.where(marked, 0, dataset.read()).astype(np.uint8), nodata=0)
    expected, _ = read(run(holed, tmp_path / "expected.tif", random_model).raster)
    raster = make_scene(scene.with_name("my scene_clouds.tif"), marked[None].astype(np.uint8))
    maps = {}
    for number, (mask, window) in enumerate(
        [(clouds, 512), (clouds, 2048), (raster, 512), (f"{scene.parent}/{{name}}_clouds.tif", 1024)]
    ):
        report = run(scene, tmp_path / f"{number}.tif", random_model, mask=str(mask), window=window, workers=2)
        values, tags = read(report.raster)
        np.testing.assert_array_equal(values, expected)
        assert tags["ASD_MASK"] == (clouds.name if number < 2 else raster.name)
        assert "ASD_AREA" not in tags
        maps[number] = report
    assert (tmp_path / "0.tif").read_bytes() == (tmp_path / "1.tif").read_bytes()
    assert (tmp_path / "0.gpkg").read_bytes() == (tmp_path / "3.gpkg").read_bytes()
    assert maps[0].valid_pixels == np.count_nonzero(~np.isnan(expected))


def test_an_area_cuts_the_map_and_changes_no_score(
    scene: Path, clouds: Path, random_model: Path, tmp_path: Path
) -> None:
    whole, tags = read(run(scene, tmp_path / "whole.tif", random_model, write_polygons=False).raster)
    assert not {"ASD_MASK", "ASD_AREA", "ASD_MIN_SCORE"} & set(tags)
    expected = np.where(inside(scene, clouds), whole, np.float32(np.nan))
    for window in (512, 2048):
        report = run(scene, tmp_path / f"{window}.tif", random_model, area=str(clouds), window=window)
        values, tags = read(report.raster)
        np.testing.assert_array_equal(values, expected)
        assert tags["ASD_AREA"] == "clouds.geojson"
        assert report.valid_pixels == np.count_nonzero(~np.isnan(expected))


def test_what_lies_outside_is_not_computed(
    scene: Path, clouds: Path, random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asd_cli.nn.engines import OnnxEngine

    calls = []
    compute = OnnxEngine.__call__
    monkeypatch.setattr(OnnxEngine, "__call__", lambda self, blocks: calls.append(1) or compute(self, blocks))
    run(scene, tmp_path / "a.tif", random_model, write_polygons=False, threads=1)
    everything = len(calls)
    calls.clear()
    run(scene, tmp_path / "b.tif", random_model, write_polygons=False, threads=1, area=str(clouds))
    assert 0 < len(calls) <= 5 < everything


def damage(path: Path, *blocks: tuple[int, int]) -> None:
    """Spoil blocks of a file, given by column and row."""
    with open_raster(path) as dataset:
        offsets = [int(dataset.get_tag_item(f"BLOCK_OFFSET_{col}_{row}", "TIFF", bidx=1)) for col, row in blocks]
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            file.write(b"\xff" * 16)


def test_damage_counts_where_a_score_depends_on_it(
    make_scene: Make, make_texture: Callable[..., Array], random_model: Path, tmp_path: Path
) -> None:
    """Whatever is read besides, which depends on the windows."""
    values = make_texture(7, 3, 256, 1100).clip(1, 255).astype(np.uint8)
    blocks = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate"}
    scene = make_scene(tmp_path / "in" / "scene.tif", values, **blocks)
    marks = np.zeros((1, 256, 1100), np.uint8)
    marks[:, 30:60, 40:250] = 1
    area, clouds = (
        make_scene(tmp_path / "in" / "area.tif", marks),
        make_scene(tmp_path / "in" / "clouds.tif", 1 - marks),
    )
    whole, _ = read(run(scene, tmp_path / "whole.tif", random_model, area=str(area)).raster)
    damage(scene, (4, 0), (8, 1))  # far from the area, the first in the same window of 512 px
    for window in (512, 2048):
        report = run(scene, tmp_path / f"far {window}.tif", random_model, area=str(area), window=window)
        found, tags = read(report.raster)
        np.testing.assert_array_equal(found, whole)
        assert ("ASD_BAD_BLOCKS" in tags, report.bad_block_count) == (False, 0)
    with pytest.raises(RasterError, match="cannot be read at cols 512-639, rows 0-127"):
        run(scene, tmp_path / "all.tif", random_model)
    damage(scene, (1, 0), (2, 0))  # within the area, and six pixels beside it
    with pytest.raises(RasterError, match="cannot be read at cols 128-255, rows 0-127"):
        run(scene, tmp_path / "near.tif", random_model, area=str(area))
    for chosen in ({"area": str(area)}, {"mask": str(clouds)}):
        options = {**chosen, "on_bad_block": "mask"}
        reports = [
            run(scene, tmp_path / f"{next(iter(chosen))} {window}.tif", random_model, window=window, **options)
            for window in (512, 2048)
        ]
        assert [[(block["col"], block["row"]) for block in report.bad_blocks] for report in reports] == [
            [(128, 0), (256, 0)],
            [(128, 0), (256, 0)],
        ]
        (first, tags), (second, others) = (read(report.raster) for report in reports)
        np.testing.assert_array_equal(first, second)
        assert tags["ASD_BAD_BLOCKS"] == others["ASD_BAD_BLOCKS"]
        np.testing.assert_array_equal(np.isnan(first), (marks[0] == 0) | (np.arange(1100) >= 128))


def test_min_score(scene: Path, random_model: Path, tmp_path: Path) -> None:
    for kind, least in (("unit", 0.62), ("far", 0.02)):
        run(scene, tmp_path / f"{kind}_all.tif", random_model, score=kind)
        report = run(scene, tmp_path / f"{kind}.tif", random_model, score=kind, min_score=least)
        everything = gpd.read_file(tmp_path / f"{kind}_all.gpkg").drop(columns="id")
        best = everything["score_max"]
        reach = best <= np.float32(least) if kind == "far" else best >= np.float32(least)
        assert 0 < reach.sum() < len(everything)
        found = gpd.read_file(tmp_path / f"{kind}.gpkg")
        assert found["id"].tolist() == list(range(1, len(found) + 1))
        assert found.drop(columns="id").equals(everything[reach].reset_index(drop=True))
        assert report.polygon_count == len(found)
        values, tags = read(report.raster)
        assert tags["ASD_MIN_SCORE"] == f"{least:g}"
        np.testing.assert_array_equal(values, read(tmp_path / f"{kind}_all.tif")[0])  # of the polygons only


def test_masks_are_checked_before_any_work(
    scene: Path, random_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = sorted(tmp_path.iterdir())
    for options, text in (
        ({"mask": "gone.gpkg"}, "gone.gpkg: cannot be read as a vector file"),
        ({"area": "gone.tif"}, "gone.tif: cannot be opened as a raster mask"),
        ({"mask": ""}, "the name is empty"),
        ({"mask": str(scene)}, "has 3 bands of uint8; a mask has one band"),
        ({"min_score": 1.5}, "--min-score 1.5: must be above 0 and below 1 for --score unit"),
    ):
        with pytest.raises(InputError, match=text.replace(".", r"\.")):
            run(scene, tmp_path / "a.tif", random_model, **options)  # type: ignore[arg-type]
    far = tmp_path / "far.gpkg"
    gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs="EPSG:25832").to_file(far)
    with pytest.raises(InputError, match=r"far\.gpkg: is among the files that are read"):
        run(scene, tmp_path / "a.tif", random_model, area=str(far), polygons=str(far), overwrite=True)
    assert sorted(tmp_path.iterdir()) == [*before, far]
    assert run(scene, tmp_path / "a.tif", random_model, area=str(far)).valid_pixels == 0
    assert "none of its polygons is near" in caplog.text
