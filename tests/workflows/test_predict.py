from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from numpy.typing import NDArray
from rasterio import features
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rio_cogeo.cogeo import cog_validate
from scipy import ndimage

from asd_cli import __version__
from asd_cli.options import PredictOptions
from asd_cli.raster.gdal import open_raster
from asd_cli.raster.grid import Grid
from asd_cli.raster.scene import Scene
from asd_cli.raster.windows import Window
from asd_cli.workflows.models import load_model
from asd_cli.workflows.predict import PredictReport, predict

Array = NDArray[np.float32]
Texture = Callable[[int, int, int, int], Array]
Make = Callable[..., Path]


def run(scene: Path | str, output: Path, model: Path, **options: Any) -> PredictReport:
    options = {"device": "cpu", "command": "asd predict"} | options
    (report,) = predict(PredictOptions(scenes=(str(scene),), output=str(output), model=model, **options))
    return report


def read(path: Path) -> Array:
    with open_raster(path) as dataset:
        return np.asarray(dataset.read(1))


def as_bytes(values: Array) -> NDArray[np.uint8]:
    return values.clip(1, 255).astype(np.uint8)


def naive(path: Path | str, model_path: Path, **options: Any) -> Array:
    """Distances of a small scene: one window, one call of the detector."""
    import torch

    from asd_cli.raster.context import read_with_halo

    model = load_model(model_path)
    with Scene.open(path, **options) as scene:
        window = Window(0, 0, *scene.grid.shape).round_up(2)
        chip = read_with_halo(scene, window, model.detector.halo)
        height, width = scene.grid.shape
    halo = model.detector.halo
    valid = chip.valid[halo : halo + height, halo : halo + width]
    with torch.inference_mode():
        out = model.detector.eval().distances(torch.from_numpy(chip.pixels.copy())[None])[0].numpy()
    return np.where(valid, out[:height, :width], np.float32(np.nan))


@pytest.fixture(scope="module")
def big_scene(make_scene: Make, make_texture: Texture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1101 x 555 px float32, odd, with holes of nodata and NaN; much of it empty, to be quick."""
    values = make_texture(11, 3, 555, 1101)
    y, x = np.mgrid[:555, :1101]
    for row, col, radius in ((100, 500, 30), (515, 520, 20), (300, 1020, 9), (512, 1024, 3)):
        values[:, np.hypot(y - row, x - col) < radius] = -1
    values[1, 200:210, 470:600] = np.nan
    values[2, (y + x) % 97 == 0] = -1
    values[:, :, :380] = -1  # whole blocks without a pixel
    values[:, 150:400, 640:1000] = -1
    return make_scene(tmp_path_factory.mktemp("big") / "big.tif", values, nodata=-1)


def test_the_map_is_the_same_for_every_window(big_scene: Path, random_model: Path, tmp_path: Path) -> None:
    reports = [run(big_scene, tmp_path / f"{w}.tif", random_model, window=w) for w in (1, 1024, 4096)]
    maps = [read(report.raster) for report in reports]
    assert maps[0].tobytes() == maps[1].tobytes() == maps[2].tobytes()
    assert (tmp_path / "1.tif").read_bytes() == (tmp_path / "4096.tif").read_bytes()
    assert (tmp_path / "1.gpkg").read_bytes() == (tmp_path / "1024.gpkg").read_bytes()
    assert (tmp_path / "1.gpkg").read_bytes() == (tmp_path / "4096.gpkg").read_bytes()
    with open_raster(big_scene) as dataset:
        pixels = dataset.read()
    valid = (np.isfinite(pixels) & (pixels != -1)).all(0)
    np.testing.assert_array_equal(np.isnan(maps[0]), ~valid)
    assert reports[0].valid_pixels == valid.sum()
    part = tmp_path / "part.tif"  # the upper middle of the scene, scored in one piece
    model = load_model(random_model)
    box = (slice(0, 260), slice(380, 640))
    with open_raster(big_scene) as dataset:
        profile = dataset.profile | {"width": 260, "height": 260}
    with rasterio.open(part, "w", **profile) as dataset:
        dataset.write(pixels[:, *box])
    expected = model.calibration.score(naive(part, random_model))
    inner = slice(0, 260 - 48), slice(48, 260 - 48)  # beyond, the scene goes on where the part is mirrored
    np.testing.assert_allclose(maps[0][box][inner], expected[inner], rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize(
    "options", [{"threads": 1}, {"threads": 5}, {"workers": 3}, {"max_memory": 64}, {"max_memory": 4000, "workers": 2}]
)
def test_the_map_does_not_depend_on_threads_or_memory(
    big_scene: Path, random_model: Path, tmp_path: Path, options: dict[str, int]
) -> None:
    run(big_scene, tmp_path / "a.tif", random_model)
    before = torch.get_num_threads()
    report = run(big_scene, tmp_path / "b.tif", random_model, **options)
    assert torch.get_num_threads() == before
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    assert (tmp_path / "a.gpkg").read_bytes() == (tmp_path / "b.gpkg").read_bytes()
    expected = {"read", "compute", "score", "write", "polygons", "finish raster", "finish polygons", "side files"}
    assert set(report.stages) == expected
    assert all(seconds >= 0 for seconds in report.stages.values())


def test_a_trained_model_end_to_end(tiny_model: Path, make_scene: Make, make_texture: Texture, tmp_path: Path) -> None:
    values = make_texture(21, 3, 150, 171)
    values[:, 60:80, 90:110] = 30 + 0.1 * values[:, 60:80, 90:110]  # a lake
    scene = make_scene(tmp_path / "scene.tif", as_bytes(values))
    report = run(scene, tmp_path / "map.tif", tiny_model, false_alarm_rate=0.01)
    expected = load_model(tiny_model).calibration.score(naive(scene, tiny_model))
    np.testing.assert_allclose(read(report.raster), expected, rtol=1e-5, atol=5e-6)
    check_polygons(report)


ROTATED = Affine(0.4, 0.3, 400_000, 0.3, -0.4, 5_600_000)
GRIDS: dict[str, dict[str, Any]] = {
    "north-up": {},
    "rotated": {"transform": ROTATED},
    "south-up": {"transform": Affine(0.5, 0, 400_000, 0, 0.5, 5_600_000)},
    "geographic": {"crs": "EPSG:4326", "transform": Affine(5e-6, 0, 9, 0, -5e-6, 50)},
    "no-crs": {"crs": None},
    "nothing": {"crs": None, "transform": None},
}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("point", [True, False])
def test_the_map_lies_on_the_scene(
    random_model: Path, make_scene: Make, make_texture: Texture, tmp_path: Path, name: str, point: bool
) -> None:
    options = {k: v for k, v in GRIDS[name].items()}
    scene = make_scene(tmp_path / "scene.tif", as_bytes(make_texture(31, 3, 90, 107)), **options)
    if point:
        with open_raster(scene, "r+") as dataset:
            dataset.update_tags(AREA_OR_POINT="Point")
    report = run(scene, tmp_path / "map.tif", random_model)
    with open_raster(scene) as before, open_raster(report.raster) as after:
        assert after.transform == before.transform
        assert after.crs == before.crs
        assert Grid.from_dataset(after).same_as(Grid.from_dataset(before))
        if before.crs:
            assert after.tags().get("AREA_OR_POINT") == ("Point" if point else "Area")
    check_polygons(report)


def test_ground_control_points_are_kept(
    random_model: Path, make_scene: Make, make_texture: Texture, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corners = [(0, 0, 9.0, 50.0), (0, 106, 9.1, 50.0), (89, 0, 9.0, 49.9), (89, 106, 9.1, 49.9)]
    points = [GroundControlPoint(r, c, x, y, 0) for r, c, x, y in corners]
    scene = make_scene(
        tmp_path / "s.tif", as_bytes(make_texture(1, 3, 90, 107)), transform=None, gcps=points, crs="EPSG:4326"
    )
    report = run(scene, tmp_path / "map.tif", random_model)
    with open_raster(report.raster) as dataset:
        found, crs = dataset.gcps
    assert [(p.row, p.col, p.x, p.y) for p in found] == corners
    assert crs == CRS.from_epsg(4326)
    assert "no CRS" not in caplog.text
    check_polygons(report)


def check_polygons(report: PredictReport) -> gpd.GeoDataFrame:
    """The polygons are the components of score >= threshold in the written raster; they are returned."""
    assert report.polygons is not None
    with open_raster(report.raster) as dataset:
        scores, transform, tags = dataset.read(1), dataset.transform, dataset.tags()
        crs, has_points = dataset.crs, bool(dataset.gcps[0])
    threshold = float(tags["ASD_THRESHOLD"])
    assert threshold == report.threshold
    with np.errstate(invalid="ignore"):
        mask = scores <= threshold if report.score == "far" else scores >= threshold
    frame = gpd.read_file(report.polygons)
    assert len(frame) == report.polygon_count == ndimage.label(mask, np.ones((3, 3)))[1]
    assert report.anomalous_pixels == mask.sum() == frame["pixels"].sum()
    assert len(frame) > 0
    assert frame["id"].tolist() == list(range(1, len(frame) + 1))
    if has_points or crs is None or transform.is_identity:
        assert frame.crs is None
        if transform.is_identity:  # GIS programs place such a raster below y = 0
            transform = Affine(1, 0, 0, 0, -1, 0)
    else:
        assert frame.crs == crs.to_wkt()
    drawn = features.rasterize(
        [(shape, i) for i, shape in enumerate(frame.geometry, start=1)], mask.shape, transform=transform, dtype="int32"
    )
    np.testing.assert_array_equal(drawn > 0, mask)
    best = ndimage.minimum if report.score == "far" else ndimage.maximum
    np.testing.assert_allclose(frame["score_max"], best(scores, drawn, frame["id"]), rtol=1e-6)
    return frame


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("kind", ["unit", "distance", "far"])
@pytest.mark.parametrize("given", ["default", "rate", "threshold"])
def test_scores_thresholds_and_tags(
    random_model: Path, make_scene: Make, make_texture: Texture, tmp_path: Path, kind: str, given: str
) -> None:
    model = load_model(random_model)
    scene = make_scene(tmp_path / "my scene.tif", as_bytes(make_texture(41, 3, 120, 130)))
    numbers = {"unit": 0.45, "distance": 3.3, "far": 0.07}
    options: dict[str, Any] = {
        "default": {"false_alarm_rate": 0.1},
        "rate": {"false_alarm_rate": 0.05},
        "threshold": {"threshold": numbers[kind]},
    }[given]
    report = run(scene, tmp_path / "map.tif", random_model, score=kind, command="asd predict 'a b'", **options)
    distances = naive(scene, random_model)
    expected = {
        "unit": model.calibration.score,
        "distance": lambda d: d,
        "far": model.calibration.rate,
    }[kind](distances)
    scores = read(report.raster)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=2e-5)  # distances are about 2
    if given == "threshold":
        assert report.threshold == np.float32(numbers[kind])
    elif (kind, given) == ("unit", "default"):
        assert report.threshold == 0.5
    check_polygons(report)
    with open_raster(report.raster) as dataset:
        tags, band = dataset.tags(), dataset.tags(1)
        assert (
            dataset.descriptions[0]
            == {
                "unit": "anomaly score",
                "distance": "anomaly distance",
                "far": "expected false-alarm rate",
            }[kind]
        )
        assert dataset.units[0]
        assert dataset.dtypes == ("float32",)
        assert math.isnan(dataset.nodata)
    assert float(band["STATISTICS_MEAN"]) == pytest.approx(np.nanmean(scores, dtype=np.float64), rel=1e-9)
    assert float(band["STATISTICS_MAXIMUM"]) == pytest.approx(np.nanmax(scores), rel=1e-9)
    rate = {"default": 0.1, "rate": 0.05, "threshold": float(model.calibration.rate(3.3))}
    if (kind, given) != ("unit", "threshold"):
        wanted = 0.07 if (kind, given) == ("far", "threshold") else rate[given]
        assert float(tags["ASD_FALSE_ALARM_RATE"]) == pytest.approx(wanted, rel=1e-3)
    found = {k: v for k, v in tags.items() if k.startswith(("ASD_", "TIFFTAG_S")) and "RATE" not in k}
    assert found.pop("ASD_TORCH_VERSION")
    assert found == {
        "TIFFTAG_SOFTWARE": f"asd {__version__}",
        "ASD_VERSION": __version__,
        "ASD_SCENE": "my scene.tif",
        "ASD_MODEL": "random.safetensors",
        "ASD_MODEL_SHA256": model.sha256,
        "ASD_METHOD": "asd",
        "ASD_NORMAL": "forest",
        "ASD_SCORE": kind,
        "ASD_THRESHOLD": repr(report.threshold),
        "ASD_COMMAND": "asd predict 'a b'",
    }
    assert cog_validate(report.raster, quiet=True) == (True, [], [])


def test_the_kinds_of_score_draw_the_same_polygons(
    random_model: Path, make_scene: Make, make_texture: Texture, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path / "scene.tif", as_bytes(make_texture(42, 3, 120, 130)))
    shapes = [
        gpd.read_file(run(scene, tmp_path / f"{kind}.tif", random_model, score=kind, false_alarm_rate=0.02).polygons)
        for kind in ("unit", "distance", "far")
    ]
    for other in shapes[1:]:
        assert shapes[0].geometry.geom_equals(other.geometry).all()


def holed(make_texture: Texture) -> tuple[Array, NDArray[np.bool_]]:
    values = make_texture(51, 3, 100, 119).clip(1, 250).round()
    hole = np.zeros((100, 119), bool)
    hole[20:33, 40:41] = hole[50:70, 50:75] = hole[99, :] = hole[0, 118] = hole[80, 7] = True
    return values, hole


def alpha_band(make_scene: Make, path: Path, values: Array, hole: NDArray[np.bool_]) -> None:
    alpha = np.where(hole, 0, 255)[None]
    pixels = np.concatenate([values, alpha]).astype(np.uint8)
    make_scene(path, pixels, photometric="RGB", alpha="YES")


def mask_file(make_scene: Make, path: Path, values: Array, hole: NDArray[np.bool_]) -> None:
    make_scene(path, values.astype(np.uint8))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), open_raster(path, "r+") as dataset:
        dataset.write_mask(~hole)
    assert path.with_name(path.name + ".msk").exists()


def inner_mask(make_scene: Make, path: Path, values: Array, hole: NDArray[np.bool_]) -> None:
    make_scene(path, values.astype(np.uint8))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), open_raster(path, "r+") as dataset:
        dataset.write_mask(~hole)


def nodata(make_scene: Make, path: Path, values: Array, hole: NDArray[np.bool_]) -> None:
    values[1, hole] = 255
    make_scene(path, values.astype(np.uint8), nodata=255)


def not_finite(value: float) -> Callable[..., None]:
    def write(make_scene: Make, path: Path, values: Array, hole: NDArray[np.bool_]) -> None:
        values[2, hole] = value
        make_scene(path, values)

    return write


@pytest.mark.parametrize(
    "write",
    [alpha_band, mask_file, inner_mask, nodata, not_finite(math.nan), not_finite(math.inf), not_finite(-math.inf)],
)
def test_invalid_pixels_and_only_those_are_nan(
    random_model: Path,
    make_scene: Make,
    make_texture: Texture,
    tmp_path: Path,
    write: Callable[..., None],
) -> None:
    values, hole = holed(make_texture)
    plain = values.copy()
    write(make_scene, tmp_path / "scene.tif", values, hole)
    report = run(tmp_path / "scene.tif", tmp_path / "map.tif", random_model)
    scores = read(report.raster)
    np.testing.assert_array_equal(np.isnan(scores), hole)
    assert report.valid_pixels == (~hole).sum()
    check_polygons(report)
    # Far from holes nothing changes; the values in the holes never show.
    whole = read(run(make_scene(tmp_path / "whole.tif", plain), tmp_path / "w.tif", random_model).raster)
    far = ndimage.distance_transform_cdt(~hole, "chessboard") > 16
    np.testing.assert_allclose(scores[far], whole[far], rtol=1e-5, atol=1e-5)


def test_nodata_of_the_users_own(random_model: Path, make_scene: Make, make_texture: Texture, tmp_path: Path) -> None:
    values, hole = holed(make_texture)
    values[:, hole] = 251
    scene = make_scene(tmp_path / "scene.tif", values.astype(np.uint8))
    assert not np.isnan(read(run(scene, tmp_path / "a.tif", random_model).raster)).any()
    np.testing.assert_array_equal(np.isnan(read(run(scene, tmp_path / "b.tif", random_model, nodata=251).raster)), hole)


def test_a_scene_without_a_valid_pixel(random_model: Path, make_scene: Make, tmp_path: Path) -> None:
    scene = make_scene(tmp_path / "scene.tif", np.zeros((3, 40, 50), np.uint8), nodata=0)
    report = run(scene, tmp_path / "map.tif", random_model)
    assert np.isnan(read(report.raster)).all()
    assert (report.valid_pixels, report.polygon_count, report.anomalous_share) == (0, 0, 0.0)
    assert len(gpd.read_file(report.polygons)) == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (17, 5)])
def test_scenes_smaller_than_a_patch(
    random_model: Path, make_scene: Make, make_texture: Texture, tmp_path: Path, size: tuple[int, int]
) -> None:
    scene = make_scene(tmp_path / "scene.tif", as_bytes(make_texture(61, 3, *size)))
    scores = read(run(scene, tmp_path / "map.tif", random_model).raster)
    assert scores.shape == size
    assert np.isfinite(scores).all()


def test_nothing_anomalous_is_an_empty_layer(
    random_model: Path, make_scene: Make, make_texture: Texture, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path / "scene.tif", as_bytes(make_texture(62, 3, 40, 50)))
    report = run(scene, tmp_path / "map.tif", random_model, score="distance", threshold=1e6)
    assert (report.polygon_count, report.anomalous_pixels) == (0, 0)
    frame = gpd.read_file(report.polygons)
    assert len(frame) == 0
    assert frame.crs == CRS.from_epsg(25832).to_wkt()
    assert "0.000% of 2000 valid pixels anomalous, 0 polygons" in report.summary()


def test_min_area_and_connectivity_reach_the_polygons(
    random_model: Path, make_scene: Make, make_texture: Texture, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path / "scene.tif", as_bytes(make_texture(63, 3, 80, 90)))
    every = gpd.read_file(run(scene, tmp_path / "a.tif", random_model, false_alarm_rate=0.3).polygons)
    sides = gpd.read_file(run(scene, tmp_path / "b.tif", random_model, false_alarm_rate=0.3, connectivity=4).polygons)
    large = gpd.read_file(run(scene, tmp_path / "c.tif", random_model, false_alarm_rate=0.3, min_area=2.0).polygons)
    assert len(sides) > len(every) > len(large) == (every["area_m2"] >= 2.0).sum() > 0
    assert large["area_m2"].min() >= 2.0
