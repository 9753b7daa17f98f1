"""Rasters of every make go through `predict`: the map lies on the scene, and is NaN just where it is invalid."""

from __future__ import annotations

import os
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import scenes
from affine import Affine
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from rasterio import features
from rasterio.errors import NotGeoreferencedWarning
from scipy import ndimage

from asd_cli.errors import OutputError
from asd_cli.options import PredictOptions
from asd_cli.workflows.predict import PredictReport, predict

ENDINGS: Counter[str] = Counter()
OFF_EARTH = ("far off", "vast", "pole", "beyond the pole", "geocentric", "polar")


@pytest.fixture(scope="module")
def models(make_model: Callable[..., Path]) -> dict[int, Path]:
    return {bands: make_model(bands) for bands in range(1, 6)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rasters")


@pytest.fixture(scope="module", autouse=True)
def tally() -> Iterator[None]:
    """How the rasters ended, where ASD_TALLY names a file to add it to."""
    yield
    if "ASD_TALLY" in os.environ:
        with Path(os.environ["ASD_TALLY"]).open("a") as file:
            file.writelines(f"raster\t{count}\t{ending}\n" for ending, count in ENDINGS.most_common())


@settings(
    max_examples=max(settings.default.max_examples // 2, 1),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    drawn=scenes.scenes(),
    suffix=st.sampled_from([".gpkg", ".gpkg", ".geojson", ".fgb", ".parquet"]),
    connectivity=st.sampled_from([4, 8]),
    score=st.sampled_from(["unit", "distance", "far"]),
)
def test_rasters(
    models: dict[int, Path], folder: Path, drawn: scenes.Drawn, suffix: str, connectivity: Any, score: Any
) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    scene = scenes.write(folder / "scene.tif", drawn)
    assume(scenes.is_kept(scene, drawn))
    options = PredictOptions(
        scenes=(str(scene),),
        output=str(folder / "map.tif"),
        model=models[drawn.bands],
        polygons=suffix,
        connectivity=connectivity,
        score=score,
        device="cpu",
        threads=1,
    )
    try:
        (report,) = predict(options)
    except OutputError as error:
        assert suffix == ".geojson"
        assert drawn.place in OFF_EARTH
        assert str(error).endswith("; choose .gpkg: GeoJSON holds longitudes and latitudes")  # noqa: PT017
        ENDINGS["refused: GeoJSON of places that are not on Earth"] += 1
        return
    scores = check_map(scene, report, drawn)
    check_polygons(report, scores, drawn, connectivity)
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith("scene.tif")) == sorted(
        ["map.qml", "map.tif", f"map{suffix}"]
    )
    ENDINGS[
        "mapped: " + ("all pixels valid" if drawn.valid.all() else "some" if drawn.valid.any() else "none valid")
    ] += 1


def check_map(scene: Path, report: PredictReport, drawn: scenes.Drawn) -> Any:
    """Geometry and validity; the scores."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(scene) as before, rasterio.open(report.raster) as after:
            assert after.shape == before.shape
            assert after.transform == before.transform
            assert after.crs == before.crs
            assert [p.asdict() for p in strip(after.gcps[0])] == [p.asdict() for p in strip(before.gcps[0])]
            assert after.gcps[1] == before.gcps[1]
            assert after.tags(ns="RPC") == before.tags(ns="RPC")
            if before.crs:
                assert after.tags().get("AREA_OR_POINT") == before.tags().get("AREA_OR_POINT")
            assert np.isnan(after.nodata)
            scores = after.read(1)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(scores), ~drawn.valid)
    found = scores[drawn.valid]
    assert (found >= 0).all()
    assert np.isfinite(found).all()
    assert (found <= {"unit": 1, "far": 1, "distance": np.inf}[report.score]).all()
    assert report.valid_pixels == drawn.valid.sum()
    if drawn.valid.all() and drawn.content in ("constant", "zero") and drawn.nodata in (None, "beyond"):
        assert np.ptp(found) <= 1e-4 * np.abs(found).max()
    return scores


def strip(points: Any) -> Any:
    for point in points:
        point.id = point.info = ""
    return points


def check_polygons(report: PredictReport, scores: Any, drawn: scenes.Drawn, connectivity: int) -> None:
    """The polygons are the components of the anomalous pixels, and cover just these."""
    with np.errstate(invalid="ignore"):
        mask = scores <= report.threshold if report.score == "far" else scores >= report.threshold
    assert report.polygons is not None
    frame = (
        gpd.read_parquet(report.polygons) if report.polygons.suffix == ".parquet" else gpd.read_file(report.polygons)
    )
    around = np.ones((3, 3)) if connectivity == 8 else None
    assert len(frame) == report.polygon_count == ndimage.label(mask, around)[1]
    assert report.anomalous_pixels == mask.sum()
    if not len(frame):
        return
    assert frame.geometry.is_valid.all()
    assert frame["pixels"].sum() == mask.sum()
    _, transform = scenes.PLACES[drawn.place]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(report.raster) as dataset:
            located = dataset.crs is not None and not dataset.transform.is_identity
    if report.polygons.suffix == ".geojson":
        return
    assert (frame.crs is not None) == located
    drawn_on = transform or Affine(1, 0, 0, 0, -1, 0)
    burnt = features.rasterize(frame.geometry, mask.shape, transform=drawn_on)
    np.testing.assert_array_equal(burnt > 0, mask)
