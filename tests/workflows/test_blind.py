"""Networks that are not trained on the same tiles, and the calibration that comes from the tiles that each lacks."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asd_cli.data.pieces import Survey, survey_tiles
from asd_cli.data.tiles import TileSet
from asd_cli.density.calibration import Calibration
from asd_cli.density.gaussian import Gaussian, fit_ledoit_wolf
from asd_cli.density.moments import Moments
from asd_cli.methods.asd.localised import LocalisedAsd
from asd_cli.methods.base import EvidenceDetector
from asd_cli.options import FitGaussianOptions, TileOptions, TrainOptions
from asd_cli.raster.windows import Window
from asd_cli.workflows.blind import blind
from asd_cli.workflows.calibrating import calibrate
from asd_cli.workflows.fit_gaussian import fit_gaussian
from asd_cli.workflows.fitting import fit_normal, merged, tile_moments
from asd_cli.workflows.models import load_model
from asd_cli.workflows.tilesets import open_tiles
from asd_cli.workflows.train import train

CPU = torch.device("cpu")
SIDE = 40


@pytest.fixture(scope="module")
def folder(
    make_tiles: Callable[..., Path], make_texture: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Six tiles of 40 px, 2 bands, with a strip of water each."""
    label = np.ones((SIDE, SIDE), np.uint8)
    label[:, -5:] = 2
    images = [make_texture(seed, 2, SIDE, SIDE) + 3 * seed for seed in range(6)]
    return make_tiles(tmp_path_factory.mktemp("blind") / "tiles", images, [label] * 6)


@pytest.fixture(scope="module")
def tiles(folder: Path) -> TileSet:
    return open_tiles(TileOptions(tiles=(str(folder),), normal=("forest",)))


@pytest.fixture
def detector() -> LocalisedAsd:
    """Three random networks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = LocalisedAsd.create(
            2, length=4, scales=(1.0,), patch_size=15, hidden=16, members=3, smoothing=1.0, texture=5
        )
    made.high.fill_(200.0)
    return made.eval().requires_grad_(False)


def fitted(detector: LocalisedAsd, tiles: TileSet, survey: Survey) -> dict[int, Moments]:
    parts = tile_moments(detector, tiles, survey.training, CPU, lambda count: None)
    fit_normal(detector, merged(list(parts.values()), detector.length))
    return parts


@pytest.mark.parametrize(("holdout", "networks"), [(0.2, [[0], [1], [2]]), (0.5, [[0, 2], [1]])])
def test_each_fold_is_judged_by_what_does_not_know_it(
    tiles: TileSet, detector: LocalisedAsd, holdout: float, networks: list[list[int]]
) -> None:
    survey = survey_tiles(tiles, crop=64, halo=detector.halo, holdout=holdout, seed=0, folds=3)
    parts = fitted(detector, tiles, survey)
    before = detector.mean.clone()
    held_out = blind(detector, survey, parts)
    assert [list(pieces) for _, pieces in held_out] == [list(fold) for fold in survey.folds]
    for (one, fold), mine in zip(held_out, networks, strict=True):
        assert isinstance(one, LocalisedAsd)
        assert len(one.members) == one.networks == one.config()["members"] == len(mine)
        for member, network in zip(one.members, mine, strict=True):
            expected = detector.members[network].state_dict()
            assert all(torch.equal(value, expected[name]) for name, value in member.state_dict().items())
        known = {piece.tile for piece in survey.training} - {piece.tile for piece in fold}
        rest = fit_ledoit_wolf(merged([parts[tile] for tile in known], detector.length))
        np.testing.assert_allclose(one.mean.numpy(), rest.mean, rtol=1e-6)
        np.testing.assert_allclose(one.whitening.numpy(), rest.whitening, rtol=1e-5, atol=1e-6)
    assert torch.equal(detector.mean, before)
    assert len(detector.members) == detector.config()["members"] == 3


def test_the_calibration_is_of_distances_of_tiles_that_are_new_to_them(tiles: TileSet, detector: LocalisedAsd) -> None:
    survey = survey_tiles(tiles, crop=64, halo=detector.halo, holdout=0.2, seed=0, folds=3)
    held_out = blind(detector, survey, fitted(detector, tiles, survey))
    calibration, figures = calibrate(detector, tiles, held_out, CPU, rate=0.01, seed=0, advance=lambda count: None)

    def maps(of: Callable[[EvidenceDetector], Callable[[torch.Tensor], torch.Tensor]]) -> np.ndarray:
        found = []
        for one, pieces in held_out:
            assert isinstance(one, EvidenceDetector)
            for piece in pieces:
                with tiles.open(piece.tile) as tile:
                    data = tile.read(Window(0, 0, SIDE, SIDE).expand(one.halo))
                inner = slice(one.halo, -one.halo)
                with torch.no_grad():
                    values = of(one)(torch.from_numpy(data.chip.pixels)[None])[0].numpy()
                normal = tiles.normal_mask(data.chip, data.codes)[inner, inner]
                found.append(values.reshape(-1, SIDE, SIDE)[:, normal])
        return np.concatenate(found, axis=1)

    def signs(one: EvidenceDetector) -> Callable[[torch.Tensor], torch.Tensor]:
        assert isinstance(one, LocalisedAsd)
        return lambda x: torch.stack([one.whitened(x).norm(dim=1), one.smoothed_logits(x)], dim=1)

    twin = LocalisedAsd.create(2, **{k: v for k, v in detector.config().items() if k != "taught"})
    twin.set_evidence(maps(signs).T.astype(np.float32))
    for one in (detector, *(one for one, _ in held_out)):
        assert isinstance(one, LocalisedAsd)
        torch.testing.assert_close(one.evidence.starts, twin.evidence.starts, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(one.evidence.slopes, twin.evidence.slopes, rtol=2e-3, atol=2e-3)
    distances = maps(lambda one: one.distances)[0]
    assert figures.pixels == distances.size == 3 * SIDE * (SIDE - 5)
    assert calibration.threshold == pytest.approx(Calibration.fit(distances, 0.01).threshold, rel=1e-3)


def test_of_one_fold_or_none_the_detector_judges_itself(tiles: TileSet, detector: LocalisedAsd) -> None:
    for holdout in (0.0, 0.2):
        survey = survey_tiles(tiles, crop=64, halo=detector.halo, holdout=holdout, seed=0)
        ((one, pieces),) = blind(detector, survey, {})
        assert one is detector
        assert pieces == survey.held_out


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "m.safetensors"
    given = TileOptions(tiles=(str(folder),), normal=("forest",))
    report = train(TrainOptions(tiles=given, output=path, steps=6, crop=64, seed=4, device="cpu"))
    assert report is not None
    assert (report.tiles, report.held_out_tiles, report.folds) == (6, 3, 3)
    assert (
        "6 tiles with 8400 normal pixels trained on, 3 tile(s) held out from some of the networks" in report.summary()
    )
    return path


def refit_options(folder: Path, model: Path, output: Path, **changes: Any) -> FitGaussianOptions:
    given = TileOptions(tiles=(str(folder),))
    return replace(FitGaussianOptions(tiles=given, model=model, output=output, device="cpu", seed=4), **changes)


def test_a_fit_on_the_same_tiles_holds_out_the_same(
    folder: Path, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert load_model(trained).header["training"]["folds"] == 3
    fit_gaussian(refit_options(folder, trained, tmp_path / "again.safetensors"))
    one, two = load_model(trained), load_model(tmp_path / "again.safetensors")
    assert two.header["held_out"] == pytest.approx(one.header["held_out"], rel=1e-5)
    assert "the model is trained on these tiles" not in caplog.text


def test_a_fit_on_the_same_tiles_says_where_it_holds_out_others(
    folder: Path, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit_gaussian(refit_options(folder, trained, tmp_path / "other.safetensors", seed=5))
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING and "trained on these" in r.getMessage()]
    assert "--seed 4 --holdout 0.2" in record.getMessage()


def test_a_fit_on_new_tiles_is_judged_by_all_networks(
    trained: Path,
    make_tiles: Callable[..., Path],
    make_texture: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judges: list[int] = []
    original = LocalisedAsd.part

    def recording(self: LocalisedAsd, networks: Sequence[int], gaussian: Gaussian) -> LocalisedAsd:
        judges.append(len(networks))
        return original(self, networks, gaussian)

    monkeypatch.setattr(LocalisedAsd, "part", recording)
    new = make_tiles(tmp_path / "new", [make_texture(seed, 2, SIDE, SIDE) for seed in range(10, 16)])
    report = fit_gaussian(refit_options(new, trained, tmp_path / "new.safetensors"))
    assert (report.tiles, report.held_out_tiles) == (6, 3)
    assert judges == [3, 3, 3]
