"""`asd fit-gaussian`: the fit against scikit-learn on the collected descriptors, updating, and what it warns of."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

from asd_cli.density.gaussian import fit_ledoit_wolf
from asd_cli.density.moments import Moments
from asd_cli.errors import InputError, LabelError, OutputError, RasterError, TrainingError
from asd_cli.model_file import read_model, write_model
from asd_cli.options import FitGaussianOptions, TileOptions
from asd_cli.raster.windows import Window
from asd_cli.workflows import fitting
from asd_cli.workflows.fit_gaussian import fit_gaussian
from asd_cli.workflows.models import load_model
from asd_cli.workflows.tilesets import open_tiles

Collected = list[NDArray[np.float32]]


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Collected:
    """All descriptors that moments are made of, piece by piece."""
    found: Collected = []
    original = Moments.of

    def recording(values: Any) -> Moments:
        found.append(np.array(values))
        return original(values)

    monkeypatch.setattr(fitting.Moments, "of", recording)
    return found


@pytest.fixture
def options(tiny_model: Path, tiny_tiles: Path, tmp_path: Path) -> FitGaussianOptions:
    return FitGaussianOptions(
        tiles=TileOptions(tiles=(str(tiny_tiles),), normal=("forest",)),
        model=tiny_model,
        output=tmp_path / "new.safetensors",
        device="cpu",
    )


@pytest.fixture
def other_tiles(make_tiles: Callable[..., Path], make_texture: Callable[..., Any], tmp_path: Path) -> Path:
    """Three tiles without labels, a little brighter than those of the model."""
    images = [(make_texture(seed + 50, 3, 60, 70) + 15).clip(0, 255).astype(np.uint8) for seed in range(3)]
    return make_tiles(tmp_path / "other", images)


def assert_moments_equal(mine: Moments, theirs: Moments) -> None:
    assert mine.count == theirs.count
    np.testing.assert_allclose(mine.mean, theirs.mean, rtol=1e-9)
    scale = np.abs(theirs.second).max()
    np.testing.assert_allclose(mine.second, theirs.second, rtol=1e-9, atol=1e-9 * scale)
    np.testing.assert_allclose(mine.third, theirs.third, rtol=1e-9, atol=1e-9 * np.abs(theirs.third).max())
    assert mine.fourth == pytest.approx(theirs.fourth, rel=1e-9)


def test_a_new_fit_equals_scikit_learn(options: FitGaussianOptions, collected: Collected) -> None:
    report = fit_gaussian(options)
    values = np.concatenate(collected).astype(np.float64)
    theirs = LedoitWolf().fit(values)
    model = load_model(options.output)
    assert model.normal is not None
    mine = fit_ledoit_wolf(model.normal.moments)
    np.testing.assert_allclose(mine.mean, theirs.location_, rtol=1e-8)
    scale = np.abs(theirs.covariance_).max()
    np.testing.assert_allclose(mine.covariance, theirs.covariance_, rtol=1e-8, atol=1e-8 * scale)
    assert report.shrinkage == pytest.approx(theirs.shrinkage_, rel=1e-8)
    assert report.fitted_pixels == report.all_pixels == len(values)
    assert report.condition == pytest.approx(np.linalg.cond(theirs.covariance_), rel=1e-6)
    np.testing.assert_allclose(model.detector.mean.numpy(), theirs.location_, rtol=1e-6)


def test_the_descriptors_are_those_of_normal_pixels_in_whole_tiles(
    options: FitGaussianOptions, collected: Collected
) -> None:
    fit_gaussian(options)
    model, tiles = load_model(options.output), open_tiles(options.tiles)
    halo = model.detector.halo
    expected = []
    for index in range(len(tiles)):
        with tiles.open(index) as tile:
            data = tile.read(Window(-halo, -halo, 96 + 2 * halo, 96 + 2 * halo))
        with torch.no_grad():
            maps = model.detector.eval().descriptors(torch.from_numpy(data.chip.pixels)[None])[0].numpy()
        expected.append(maps[:, tiles.normal_mask(data.chip, data.codes)[halo:-halo, halo:-halo]].T)
    assert len(collected) == 3  # one tile is held out
    for mine in collected:
        assert any(np.allclose(mine, theirs, rtol=1e-4, atol=1e-4) for theirs in expected)


def test_updating_equals_fitting_both_sets_at_once(
    options: FitGaussianOptions, other_tiles: Path, collected: Collected
) -> None:
    fit_gaussian(options)
    second = replace(
        options,
        model=options.output,
        tiles=TileOptions(tiles=(str(other_tiles),)),
        output=options.output.with_name("updated.safetensors"),
        update=True,
    )
    report = fit_gaussian(second)
    both = np.concatenate(collected).astype(np.float64)
    model = load_model(second.output)
    assert model.normal is not None
    assert_moments_equal(model.normal.moments, Moments.of(both))
    theirs = LedoitWolf().fit(both)
    mine = fit_ledoit_wolf(model.normal.moments)
    scale = np.abs(theirs.covariance_).max()
    np.testing.assert_allclose(mine.covariance, theirs.covariance_, rtol=1e-9, atol=1e-9 * scale)
    expected = np.linalg.inv(np.linalg.cholesky(theirs.covariance_)).astype(np.float32)
    np.testing.assert_allclose(model.detector.whitening.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert report.all_pixels == len(both)
    assert report.fitted_pixels < len(both)


def test_the_weights_stay_and_the_header_tells_of_the_fit(options: FitGaussianOptions, other_tiles: Path) -> None:
    report = fit_gaussian(replace(options, tiles=TileOptions(tiles=(str(other_tiles),)), false_alarm_rate=0.01))
    old, new = load_model(options.model), load_model(options.output)
    for name, value in old.detector.state_dict().items():
        if name not in ("mean", "whitening"):
            assert torch.equal(value, new.detector.state_dict()[name]), name
    assert not torch.equal(old.detector.mean, new.detector.mean)
    assert new.header["training"] == old.header["training"]
    assert new.header["normal"] == ["forest"]  # the model's, as none was given
    refit = new.header["refit"]
    assert (refit["of_model"], refit["update"], refit["tiles"]) == (old.sha256, False, 2)
    assert new.header["held_out"]["pixels"] == report.held_out.pixels == 60 * 70
    assert new.calibration.false_alarm_rate == 0.01
    assert new.sha256 == report.sha256
    assert len(report.summary().splitlines()) == 3


def test_same_seed_same_bytes(options: FitGaussianOptions) -> None:
    again = replace(options, output=options.output.with_name("again.safetensors"))
    fit_gaussian(options)
    fit_gaussian(again)
    assert options.output.read_bytes() == again.output.read_bytes()


def test_the_models_own_normal_classes_are_meant(options: FitGaussianOptions, tiny_tiles: Path) -> None:
    implied = replace(options, tiles=TileOptions(tiles=(str(tiny_tiles),)))
    fit_gaussian(implied)
    named = replace(options, output=options.output.with_name("named.safetensors"))
    fit_gaussian(named)
    assert implied.output.read_bytes() == named.output.read_bytes()


def test_update_adds_the_names_of_normal_classes(options: FitGaussianOptions) -> None:
    water = replace(options.tiles, normal=("water",))
    fit_gaussian(replace(options, tiles=water, update=True))
    assert load_model(options.output).header["normal"] == ["forest", "water"]


def test_warns_of_few_pixels(
    options: FitGaussianOptions,
    make_tiles: Callable[..., Path],
    make_texture: Callable[..., Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    few = make_tiles(tmp_path / "few", [make_texture(s, 3, 20, 20).clip(0, 255).astype(np.uint8) for s in range(2)])
    with caplog.at_level(logging.WARNING, "asd_cli"):
        fit_gaussian(replace(options, tiles=TileOptions(tiles=(str(few),))))
    assert "the Gaussian of 5 numbers rests on 400 pixels only; 750 or more are advisable" in caplog.messages


def test_warns_of_a_covariance_without_full_rank(
    options: FitGaussianOptions, make_tiles: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flat = make_tiles(tmp_path / "flat", [np.full((3, 64, 64), 90, np.uint8)] * 3)
    with caplog.at_level(logging.WARNING, "asd_cli"):
        report = fit_gaussian(replace(options, tiles=TileOptions(tiles=(str(flat),))))
    ranks = [m for m in caplog.messages if m.startswith("the covariance of the descriptors has rank ")]
    assert len(ranks) == 1
    assert " of 5; " in ranks[0]
    assert report.suspicious == {}
    assert len(caplog.messages) <= 4, caplog.messages
    load_model(options.output)


def test_warns_of_a_contaminated_tile(
    options: FitGaussianOptions,
    make_tiles: Callable[..., Path],
    make_texture: Callable[..., Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    images = [make_texture(seed, 3, 64, 64).clip(0, 255).astype(np.uint8) for seed in range(6)]
    water = 30 + np.random.default_rng(0).integers(0, 4, (3, 64, 64)).astype(np.uint8)
    images.insert(3, water)
    mixed = make_tiles(tmp_path / "mixed", images)
    tiles = TileOptions(tiles=(str(mixed),))
    for seed in range(10):  # until the odd tile is not the one held out
        caplog.clear()
        with caplog.at_level(logging.WARNING, "asd_cli"):
            report = fit_gaussian(replace(options, tiles=tiles, seed=seed, overwrite=True))
        if report.suspicious:
            break
    assert [Path(path).name for path in report.suspicious] == ["tile_3.tif"]
    ratio = report.suspicious[str(mixed / "images" / "tile_3.tif")]
    assert ratio > 4
    text = f"its normal pixels look anomalous under the other tiles (mean squared distance {ratio:.1f} times the usual)"
    assert f"{mixed / 'images' / 'tile_3.tif'}: {text}; check its labels" in caplog.messages


def test_like_tiles_are_not_suspicious(options: FitGaussianOptions) -> None:
    assert fit_gaussian(options).suspicious == {}


def without_moments(model: Path, target: Path) -> Path:
    file = read_model(model)
    write_model(target, file.header, {name: file.part(name) for name in ("method", "calibration")})
    return target


def test_errors(options: FitGaussianOptions, make_tiles: Callable[..., Path], tmp_path: Path) -> None:
    empty = make_tiles(tmp_path / "empty", [np.zeros((3, 20, 20), np.uint8)] * 3)
    bare = without_moments(options.model, tmp_path / "bare.safetensors")
    with pytest.raises(InputError, match=r"bare.safetensors: has no moments to update; fit without --update"):
        fit_gaussian(replace(options, model=bare, update=True))
    fit_gaussian(replace(options, model=bare))
    with pytest.raises(OutputError, match=r"new.safetensors: exists already; choose another name or add --overwrite"):
        fit_gaussian(options)
    fresh = replace(options, output=tmp_path / "fresh.safetensors")
    with pytest.raises(InputError, match="no model given"):
        fit_gaussian(replace(fresh, model=None))
    with pytest.raises(LabelError, match=r"--normal forrest: no such class; found: forest, water \(nearest: forest\)"):
        fit_gaussian(replace(fresh, tiles=replace(options.tiles, normal=("forrest",))))
    one_band = replace(options.tiles, bands=(1,))
    with pytest.raises(
        RasterError, match=r"tile_0.tif: 1 band, but the model was trained on 3 .*choose 3 with --bands"
    ):
        fit_gaussian(replace(fresh, tiles=one_band))
    with pytest.raises(TrainingError, match="none of the 3 tiles has a normal pixel; check --normal, labels, masks"):
        fit_gaussian(replace(fresh, tiles=TileOptions(tiles=(str(empty),), nodata=0)))
    assert not fresh.output.exists()
