"""`asd polygons`: the polygons of a map are those that `asd predict` draws, to the byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray

from asd_cli.errors import AsdError
from asd_cli.options import PolygonsOptions, PredictOptions
from asd_cli.workflows.polygons import PolygonsReport, draw_polygons
from asd_cli.workflows.predict import PredictReport, predict

Make = Callable[..., Path]
Texture = Callable[[int, int, int, int], NDArray[np.float32]]


@pytest.fixture(scope="module")
def scene(make_scene: Make, make_texture: Texture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = make_texture(3, 3, 120, 1100).clip(1, 255).astype(np.uint8)
    values[:, 30:, 100:1000] = 0
    return make_scene(tmp_path_factory.mktemp("polygons") / "scene.tif", values, nodata=0)


def score(scene: Path, model: Path, output: Path, **options: Any) -> PredictReport:
    (report,) = predict(PredictOptions(scenes=(str(scene),), output=str(output), model=model, device="cpu", **options))
    return report


def draw(map_path: Path, output: Path, **options: Any) -> PolygonsReport:
    return draw_polygons(PolygonsOptions(map=str(map_path), output=output, **options))


@pytest.mark.parametrize("kind", ["unit", "distance", "far"])
def test_the_same_threshold_gives_the_same_bytes(scene: Path, random_model: Path, tmp_path: Path, kind: str) -> None:
    made = score(scene, random_model, tmp_path / "a.tif", score=kind)
    report = draw(made.raster, tmp_path / "again.gpkg")
    assert (tmp_path / "again.gpkg").read_bytes() == (tmp_path / "a.gpkg").read_bytes()
    assert (report.score, report.threshold) == (kind, made.threshold)
    assert (report.valid_pixels, report.anomalous_pixels) == (made.valid_pixels, made.anomalous_pixels)
    assert report.polygon_count == made.polygon_count
    options: dict[str, Any] = {"min_area": 2.0, "simplify": 0.3, "connectivity": 4, "false_alarm_rate": 0.03}
    made = score(scene, random_model, tmp_path / "b.tif", score=kind, **options)
    assert made.polygon_count
    model = None if kind == "far" else random_model
    report = draw(tmp_path / "a.tif", tmp_path / "rate.gpkg", model=model, **options)
    assert report.threshold == made.threshold
    assert (tmp_path / "rate.gpkg").read_bytes() == (tmp_path / "b.gpkg").read_bytes()
    del options["false_alarm_rate"]
    draw(tmp_path / "a.tif", tmp_path / "threshold.gpkg", threshold=made.threshold, **options)
    assert (tmp_path / "threshold.gpkg").read_bytes() == (tmp_path / "b.gpkg").read_bytes()
    least = float(gpd.read_file(tmp_path / "b.gpkg")["score_max"].median())
    score(scene, random_model, tmp_path / "c.tif", score=kind, min_score=least)
    report = draw(tmp_path / "a.tif", tmp_path / "least.gpkg", min_score=least)
    assert (tmp_path / "least.gpkg").read_bytes() == (tmp_path / "c.gpkg").read_bytes()
    assert report.polygon_count > 0


@pytest.mark.parametrize(
    "georeference",
    [
        {"crs": None, "transform": Affine.identity()},
        {"crs": None},
        {"crs": "EPSG:4326", "transform": Affine(1e-5, 0, 9, 0, -1e-5, 50)},
    ],
)
def test_other_georeferences(
    scene: Path,
    random_model: Path,
    make_scene: Make,
    make_texture: Texture,
    tmp_path: Path,
    georeference: dict[str, Any],
) -> None:
    path = make_scene(tmp_path / "scene.tif", make_texture(3, 3, 70, 90), **georeference)
    score(path, random_model, tmp_path / "a.tif")
    draw(tmp_path / "a.tif", tmp_path / "again.gpkg")
    assert (tmp_path / "again.gpkg").read_bytes() == (tmp_path / "a.gpkg").read_bytes()


def test_maps_of_other_programs(make_scene: Make, tmp_path: Path) -> None:
    values = np.zeros((1, 40, 50), np.float32)
    values[0, 10:20, 5:9], values[0, 30:, 30:], values[0, :5] = 7.5, 3, -9999
    path = make_scene(tmp_path / "other.tif", values, nodata=-9999)
    seen: list[tuple[int, int]] = []
    options = PolygonsOptions(map=str(path), output=tmp_path / "a.geojson", threshold=3)
    report = draw_polygons(options, progress=lambda *state: seen.append(state))
    assert (report.score, report.polygon_count, report.anomalous_pixels, report.valid_pixels) == (None, 2, 240, 1750)
    assert gpd.read_file(tmp_path / "a.geojson")["score_max"].tolist() == [7.5, 3]
    assert seen == [(2000, 2000)]
    with pytest.raises(
        AsdError, match=r"other\.tif: is no map of asd predict \(it has no tag ASD_SCORE\), so its thre"
    ):
        draw(path, tmp_path / "b.gpkg")
    with pytest.raises(AsdError, match=r"--threshold nan: is no number"):
        draw(path, tmp_path / "b.gpkg", threshold=float("nan"))
    negative = make_scene(tmp_path / "negative.tif", values - 1, nodata=-10000)
    with pytest.raises(AsdError, match=r"negative\.tif: holds -1 where it is anomalous; scores are 0 or more"):
        draw(negative, tmp_path / "b.gpkg", threshold=-2)
    assert not (tmp_path / "b.gpkg").exists()


def test_what_cannot_be_drawn(
    scene: Path, random_model: Path, make_model: Make, make_scene: Make, tmp_path: Path
) -> None:
    made = score(scene, random_model, tmp_path / "a.tif", write_polygons=False).raster
    target = tmp_path / "a.gpkg"
    odd = make_scene(tmp_path / "odd.tif", np.zeros((1, 9, 9), np.float32))
    import rasterio

    with rasterio.open(odd, "r+") as dataset:
        dataset.update_tags(ASD_SCORE="unit", ASD_THRESHOLD="many")
    other = make_model(3, normal=["water"])
    for path, options, text in (
        (scene, {}, "scene.tif: has 3 bands; a map of scores has one"),
        (tmp_path / "gone.tif", {}, "gone.tif: no such file"),
        (odd, {}, "odd.tif: its tag ASD_THRESHOLD=many makes no sense; give a --threshold"),
        (made, {"threshold": 1.0}, "--threshold 1.0: must be above 0 and below 1 for --score unit"),
        (made, {"min_score": 2.0}, "--min-score 2.0: must be above 0 and below 1 for --score unit"),
        (made, {"threshold": 0.5, "false_alarm_rate": 0.1}, "--threshold and --false-alarm-rate exclude each other"),
        (made, {"false_alarm_rate": 0.1}, "only the model of .*a.tif can tell; add -m random.safetensors, or give a"),
        (made, {"false_alarm_rate": 0.1, "model": other}, "random.safetensors: is not the model of .*a.tif"),
        (made, {"output": tmp_path / "a.txt"}, "polygons cannot be written as '.txt'"),
    ):
        given: dict[str, Any] = {"output": target, **options}
        with pytest.raises(AsdError, match=text):
            draw(path, **given)
    target.touch()
    with pytest.raises(AsdError, match="exists already"):
        draw(made, target)
    assert draw(made, target, overwrite=True).polygon_count
