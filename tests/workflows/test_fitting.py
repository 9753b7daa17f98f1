"""Fitting after training: moments tile by tile, odd tiles, calibration from held-out pixels."""

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asd_cli.data.known import KnownTiles
from asd_cli.data.pieces import survey_tiles
from asd_cli.density.gaussian import fit_ledoit_wolf
from asd_cli.density.moments import Moments
from asd_cli.density.normal import NormalPixels
from asd_cli.density.typical import typical_distances
from asd_cli.errors import TrainingError
from asd_cli.methods.base import DescriptorDetector
from asd_cli.options import TileOptions
from asd_cli.raster.windows import Window
from asd_cli.workflows.blind import blind
from asd_cli.workflows.calibrating import calibrate
from asd_cli.workflows.fitting import fit_normal, suspicious_tiles, tile_normals
from asd_cli.workflows.models import Model, load_model
from asd_cli.workflows.tilesets import open_tiles

CPU = torch.device("cpu")


@pytest.fixture
def model(tiny_model: Path) -> Model:
    return load_model(tiny_model)


def nothing(count: int) -> None:
    pass


def tile(values: np.ndarray) -> NormalPixels:
    return NormalPixels.of_tile(Moments.of(values))


def gaussian_parts(count: int, length: int = 5, size: int = 500) -> dict[int, NormalPixels]:
    random = np.random.default_rng(0)
    return {index: tile(random.normal(size=(size, length))) for index in range(count)}


@pytest.fixture
def detector(model: Model) -> DescriptorDetector:
    """Its descriptors have 5 numbers."""
    assert isinstance(model.detector, DescriptorDetector)
    return model.detector


def test_the_size_of_the_pieces_makes_no_difference(model: Model, tiny_tiles: Path) -> None:
    tiles = open_tiles(TileOptions(tiles=(str(tiny_tiles),), normal=("forest",)))
    found = []
    for crop in (1024, 34):
        survey = survey_tiles(tiles, crop=crop, halo=16, holdout=0.2, seed=0)
        assert isinstance(model.detector, DescriptorDetector)
        parts = tile_normals(model.detector, tiles, survey.training, CPU, nothing)
        assert sorted(parts) == sorted({piece.tile for piece in survey.training})
        found.append(reduce(NormalPixels.merge, parts.values()).moments)
    assert found[0].count == found[1].count
    np.testing.assert_allclose(found[0].mean, found[1].mean, rtol=1e-5)
    np.testing.assert_allclose(found[0].covariance, found[1].covariance, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_pixels_to_fit(model: Model, count: int) -> None:
    with pytest.raises(
        TrainingError, match=rf"{count} normal pixel\(s\) to fit the Gaussian on; at least 2 are needed"
    ):
        fit_normal(model.detector, tile(np.ones((count, 5))))


def test_descriptors_that_are_not_finite(model: Model) -> None:
    with np.errstate(invalid="ignore"):
        normal = tile(np.array([[1, 2, 3, 4, np.nan]] * 9))
    with pytest.raises(TrainingError, match="the descriptors are not finite; check the tiles for odd values"):
        fit_normal(model.detector, normal)


def test_what_makes_a_gaussian_shaky(detector: DescriptorDetector, caplog: pytest.LogCaptureFixture) -> None:
    values = np.random.default_rng(0).normal(size=(749, 5))
    fit_normal(detector, tile(np.concatenate([values, values[:1]])))
    assert not caplog.records
    fit_normal(detector, tile(values))
    assert "the Gaussian of 5 numbers rests on 749 pixels only; 750 or more are advisable" in caplog.text
    values[:, 4] = values[:, 3]
    fit_normal(detector, tile(np.concatenate([values, values])))
    assert "the covariance of the descriptors has rank 4 of 5" in caplog.text


def test_an_odd_tile_is_found_among_many_and_its_ratio_is_the_mean_square(detector: DescriptorDetector) -> None:
    parts = gaussian_parts(6)
    odd = np.random.default_rng(1).normal(4, 1, (300, 5))
    parts[9] = tile(odd)
    found = suspicious_tiles(detector, parts)
    assert list(found) == [9]
    rest = fit_ledoit_wolf(reduce(NormalPixels.merge, [parts[i] for i in range(6)]).moments)
    assert found[9] == pytest.approx(float((rest.distance(odd) ** 2).mean()) / 5, rel=1e-9)


def test_like_tiles_pass_and_a_single_one_tells_nothing(detector: DescriptorDetector) -> None:
    assert suspicious_tiles(detector, gaussian_parts(5)) == {}
    assert suspicious_tiles(detector, gaussian_parts(1)) == {}


def test_a_tile_is_compared_with_what_the_model_knew(detector: DescriptorDetector) -> None:
    known = reduce(NormalPixels.merge, gaussian_parts(4).values())
    odd = {0: tile(np.random.default_rng(1).normal(9, 1, (300, 5)))}
    assert list(suspicious_tiles(detector, odd, known)) == [0]
    assert suspicious_tiles(detector, gaussian_parts(1), known) == {}


def test_a_covariance_without_rank_tells_nothing_of_tiles(detector: DescriptorDetector) -> None:
    flat = {index: tile(np.tile([1.0, 2.0, 3.0, 4.0, 5.0], (50, 1))) for index in range(4)}
    assert suspicious_tiles(detector, flat) == {}


def test_calibration_comes_from_held_out_normal_pixels(model: Model, tiny_tiles: Path) -> None:
    tiles = open_tiles(TileOptions(tiles=(str(tiny_tiles),), normal=("forest",)))
    survey = survey_tiles(tiles, crop=48, halo=16, holdout=0.5, seed=0)
    steps: list[int] = []
    calibration, figures = calibrate(
        model.detector,
        tiles,
        blind(model.detector, survey, {}, KnownTiles.none()),
        CPU,
        rate=0.01,
        seed=0,
        advance=steps.append,
    )
    assert sum(steps) == len(survey.held_out)
    normal, other = [], []
    for index in sorted({piece.tile for piece in survey.held_out}):
        with tiles.open(index) as tile:
            chip = tile.scene.read(tile_window(tile).expand(16))
            codes = tile.read_codes(tile_window(tile))
        with torch.no_grad():
            distances = model.detector.eval().distances(torch.from_numpy(chip.pixels)[None])[0].numpy()
        normal.append(distances[codes == 1])
        other.append(distances[codes == 2])
    mine = typical_distances(normal, 0.01)
    assert figures.pixels == calibration.count == sum(map(len, normal))
    assert figures.median == pytest.approx(float(np.median(mine)), rel=1e-5)
    assert figures.threshold == calibration.threshold == pytest.approx(np.quantile(mine, 0.99), rel=0.02)
    assert figures.false_alarm_rate == 0.01
    assert figures.false_alarm_check == pytest.approx(0.01, abs=0.01)
    assert figures.auc == pytest.approx(naive_auc(mine, np.concatenate(other)), abs=1e-3)
    assert "auc" not in figures.for_header()
    assert "AUC against other classes" in figures.summary()


def tile_window(tile: Any) -> Any:
    return Window(0, 0, *tile.grid.shape)


def naive_auc(normal: Any, anomalous: Any) -> float:
    order = np.sort(normal)
    below = np.searchsorted(order, anomalous, "left") + np.searchsorted(order, anomalous, "right")
    return float(below.mean() / 2 / len(normal))


def test_one_held_out_piece_cannot_be_cross_checked(
    model: Model, make_tiles: Callable[..., Path], make_texture: Callable[..., Any], tmp_path: Path
) -> None:
    images = [make_texture(seed, 3, 24, 24).clip(0, 255).astype(np.uint8) for seed in range(2)]
    tiles = open_tiles(TileOptions(tiles=(str(make_tiles(tmp_path / "tiles", images)),)))
    survey = survey_tiles(tiles, crop=64, halo=16, holdout=0.2, seed=0)
    held_out = blind(model.detector, survey, {}, KnownTiles.none())
    _, figures = calibrate(model.detector, tiles, held_out, CPU, rate=0.01, seed=0, advance=nothing)
    assert figures.false_alarm_check is None
    assert figures.auc is None
    assert "cross-checked" not in figures.summary()
