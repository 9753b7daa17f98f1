"""Networks that are not trained on the same tiles, and the calibration that comes from the tiles that each lacks."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asd_cli.data.known import KnownTiles
from asd_cli.data.pieces import Survey, survey_tiles
from asd_cli.data.tiles import TileSet
from asd_cli.density.calibration import Calibration
from asd_cli.density.moments import Moments
from asd_cli.density.normal import NormalPixels
from asd_cli.density.typical import typical_distances
from asd_cli.methods.asd.localised import LocalisedAsd
from asd_cli.methods.base import EvidenceDetector
from asd_cli.methods.rx.method import RxMethod
from asd_cli.options import FitGaussianOptions, TileOptions, TrainOptions
from asd_cli.raster.windows import Window
from asd_cli.workflows.blind import Blind, blind
from asd_cli.workflows.calibrating import calibrate
from asd_cli.workflows.fit_gaussian import FitReport, fit_gaussian
from asd_cli.workflows.fitting import fit_normal, tile_normals
from asd_cli.workflows.models import load_model
from asd_cli.workflows.tilesets import open_tiles
from asd_cli.workflows.train import _untrained, train

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
            2, length=4, scales=(1.0,), patch_size=15, hidden=16, members=3, smoothing=1.0, texture=5, caution=0.6
        )
    made.high.fill_(200.0)
    return made.eval().requires_grad_(False)


def fitted(detector: LocalisedAsd, tiles: TileSet, survey: Survey) -> dict[int, NormalPixels]:
    parts = tile_normals(detector, tiles, survey.training, CPU, lambda count: None)
    fit_normal(detector, NormalPixels.of_all(detector.length, parts.values()))
    return parts


@pytest.mark.parametrize(
    ("holdout", "networks"), [(0.2, [[0], [1], [2], *[[0, 1, 2]] * 3]), (0.3, [[0], [1], [2]]), (0.5, [[0, 2], [1]])]
)
def test_each_fold_is_judged_by_what_does_not_know_it(
    tiles: TileSet, detector: LocalisedAsd, holdout: float, networks: list[list[int]]
) -> None:
    survey = survey_tiles(tiles, crop=64, halo=detector.halo, holdout=holdout, seed=0, in_turn=True)
    parts = fitted(detector, tiles, survey)
    before, whole = detector.mean.clone(), NormalPixels.of_all(detector.length, parts.values())
    held_out = blind(detector, survey, parts, KnownTiles.of(survey))
    assert [list(pieces) for _, pieces in held_out] == [list(fold) for fold in survey.folds]
    for (one, fold), mine in zip(held_out, networks, strict=True):
        assert isinstance(one, LocalisedAsd)
        assert len(one.members) == one.networks == one.config()["members"] == len(mine)
        for member, network in zip(one.members, mine, strict=True):
            expected = detector.members[network].state_dict()
            assert all(torch.equal(value, expected[name]) for name, value in member.state_dict().items())
        known = {piece.tile for piece in survey.training} - {piece.tile for piece in fold}
        others = NormalPixels.of_all(detector.length, (parts[tile] for tile in sorted(known)))
        rest = detector.gaussian_of(replace(others, squares=others.moments.count**2 / whole.tiles))
        kept = [*range(6), *(6 + 4 * network + i for network in mine for i in range(4))]
        np.testing.assert_allclose(one.mean.numpy(), rest.mean[kept], rtol=1e-5)
        np.testing.assert_allclose(one.whitening.numpy(), rest.whitening[np.ix_(kept, kept)], rtol=1e-4, atol=1e-5)
    assert torch.equal(detector.mean, before)
    assert len(detector.members) == detector.config()["members"] == 3


def test_the_calibration_is_of_distances_of_tiles_that_are_new_to_them(tiles: TileSet, detector: LocalisedAsd) -> None:
    survey = survey_tiles(tiles, crop=64, halo=detector.halo, holdout=0.2, seed=0, in_turn=True)
    held_out = blind(detector, survey, fitted(detector, tiles, survey), KnownTiles.of(survey))
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
        return one.all_signs

    twin = LocalisedAsd.create(2, **{k: v for k, v in detector.config().items() if k != "taught"})
    twin.set_evidence(np.split(maps(signs).T.astype(np.float32), 6))
    for one in (detector, *(one for one, _ in held_out)):
        assert isinstance(one, LocalisedAsd)
        torch.testing.assert_close(one.evidence.starts, twin.evidence.starts, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(one.evidence.slopes, twin.evidence.slopes, rtol=2e-3, atol=2e-3)
    distances = maps(lambda one: one.distances)[0]
    assert figures.pixels == distances.size == 6 * SIDE * (SIDE - 5)
    typical = Calibration.fit(typical_distances(np.split(distances, 6), 0.01), 0.01)
    assert calibration.threshold == pytest.approx(typical.threshold, rel=1e-3)


def test_earlier_pixels_stay_in_what_each_knows(tiles: TileSet, detector: LocalisedAsd) -> None:
    survey = survey_tiles(tiles, crop=64, halo=detector.halo, holdout=0.2, seed=0, in_turn=True)
    parts = fitted(detector, tiles, survey)
    random = np.random.default_rng(0)
    earlier = NormalPixels.of_tile(Moments.of(random.normal(3, 1, (5000, detector.length))))
    for one, fold in blind(detector, survey, parts, KnownTiles.none(), earlier):
        assert isinstance(one, LocalisedAsd)
        assert one.networks == 3
        gone = {piece.tile for piece in fold}
        kept = [part for tile, part in parts.items() if tile not in gone]
        others = NormalPixels.of_all(detector.length, [earlier, *kept])
        whole = NormalPixels.of_all(detector.length, [earlier, *parts.values()])
        rest = detector.gaussian_of(replace(others, squares=others.moments.count**2 / whole.tiles))
        np.testing.assert_allclose(one.mean.numpy(), rest.mean, rtol=1e-6)
        np.testing.assert_allclose(one.whitening.numpy(), rest.whitening, rtol=1e-4, atol=1e-5)


def test_a_fold_with_all_but_a_pixel_is_judged_by_the_gaussian_of_all(
    make_tiles: Callable[..., Path], make_texture: Callable[..., Any], detector: LocalisedAsd, tmp_path: Path
) -> None:
    labels = [np.full((SIDE, SIDE), 2, np.uint8) for _ in range(2)]
    for label in labels:
        label[20, 20] = 1
    images = [make_texture(seed, 2, SIDE, SIDE) for seed in range(2)]
    folder = make_tiles(tmp_path / "few", images, labels)
    few = open_tiles(TileOptions(tiles=(str(folder),), normal=("forest",)))
    survey = survey_tiles(few, crop=64, halo=detector.halo, holdout=0.5, seed=0, in_turn=True)
    assert len(survey.folds) == 2
    for judge, _ in blind(detector, survey, fitted(detector, few, survey), KnownTiles.none()):
        assert isinstance(judge, LocalisedAsd)
        torch.testing.assert_close(judge.mean, detector.mean)


@pytest.mark.parametrize("mode", ["global", "local", "subspace"])
def test_what_is_fitted_alone_is_held_out_in_turn(tiles: TileSet, mode: str) -> None:
    """RX is fitted on all tiles, and each is judged by a fit without it."""
    rx = RxMethod.create(2, mode=mode)
    assert rx.in_turn
    survey = survey_tiles(tiles, crop=64, halo=rx.halo, holdout=0.2, seed=0, in_turn=True)
    assert survey.training_tiles == survey.held_out_tiles == 6
    parts = tile_normals(rx, tiles, survey.training, CPU, lambda count: None)
    fit_normal(rx, NormalPixels.of_all(2, parts.values()))
    before = {name: value.clone() for name, value in rx.state_dict().items()}
    for judge, pieces in blind(rx, survey, parts, KnownTiles.none()):
        assert isinstance(judge, RxMethod)
        others = NormalPixels.of_all(2, (parts[tile] for tile in parts if tile not in {piece.tile for piece in pieces}))
        alone = RxMethod.create(2, mode=mode)
        alone.low.copy_(rx.low)
        alone.high.copy_(rx.high)
        fit_normal(alone, others)
        x = torch.rand(1, 2, 9 + 2 * rx.halo, 9 + 2 * rx.halo) * 200
        torch.testing.assert_close(judge.distances(x), alone.distances(x))
        assert not torch.equal(judge.mean, rx.mean)
    assert all(torch.equal(value, before[name]) for name, value in rx.state_dict().items())


def test_of_one_fold_the_detector_judges_what_its_networks_do_not_know(tiles: TileSet, detector: LocalisedAsd) -> None:
    one_fold = survey_tiles(tiles, crop=64, halo=detector.halo, holdout=0.4, seed=0)
    assert blind(detector, one_fold, {}, KnownTiles.of(one_fold)) == [Blind(detector, list(one_fold.held_out))]
    nothing = survey_tiles(tiles, crop=64, halo=detector.halo, holdout=0.0, seed=0)
    assert blind(detector, nothing, {}, KnownTiles.of(nothing)) == []
    assert blind(detector, nothing, {}, KnownTiles.none()) == [Blind(detector, list(nothing.training))]
    three = survey_tiles(tiles, crop=64, halo=detector.halo, holdout=0.2, seed=0, in_turn=True)
    judged = blind(detector, one_fold, {}, KnownTiles.of(three))
    assert judged
    for judge, pieces in judged:
        assert isinstance(judge, LocalisedAsd)
        assert len(judge.members) == 1
        for piece in pieces:
            (network,) = (n for n in range(3) if piece.tile not in {p.tile for p in three.trains(n)})
            mine, theirs = (one.members[n].state_dict() for one, n in ((judge, 0), (detector, network)))
            assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_tiles_are_known_by_their_pixels(tiles: TileSet) -> None:
    survey = survey_tiles(tiles, crop=64, seed=0, halo=16, holdout=0.2, in_turn=True)
    again = survey_tiles(tiles.subset([5, 3, 1, 0, 2, 4]), crop=18, seed=9, halo=16, holdout=0.2, in_turn=True)
    assert sorted(survey.identities.values()) == sorted(again.identities.values())
    assert len(set(survey.identities.values())) == 6
    known = KnownTiles.from_arrays(KnownTiles.of(survey).to_arrays())
    for tile, identity in survey.identities.items():
        lacking = [n for n in range(3) if tile not in {piece.tile for piece in survey.trains(n)}]
        assert known.new_to(identity, 3) == tuple(lacking)
    assert known.new_to(12345, 3) is None
    assert KnownTiles.none().new_to(next(iter(survey.identities.values())), 3) is None
    assert KnownTiles.from_arrays(KnownTiles.none().to_arrays()).to_arrays() == {}


def test_a_tile_that_came_twice_is_new_to_a_network_only_if_both_are() -> None:
    known = KnownTiles(np.array([7, 7, 8, 8, 9], np.uint64), np.array([0, 1, 2, 2, -1], np.int16))
    assert [known.new_to(identity, 3) for identity in (7, 8, 9)] == [(), (2,), ()]


@pytest.mark.parametrize(
    "changes",
    [{"folds": np.zeros(3, np.int16)}, {"folds": np.full(2, -2, np.int16)}, {"identities": np.zeros((2, 1), np.uint64)},
     {"folds": np.zeros(2)}, {"identities": np.zeros(2)}],
)  # fmt: skip
def test_a_damaged_list_of_tiles_is_refused(changes: dict[str, Any]) -> None:
    good = {"identities": np.array([1, 2], np.uint64), "folds": np.array([0, -1], np.int16)}
    with pytest.raises(ValueError, match="damaged"):
        KnownTiles.from_arrays({**good, **changes})


def train_options(folder: Path, path: Path, **changes: Any) -> TrainOptions:
    given = TileOptions(tiles=(str(folder),), normal=("forest",))
    return replace(TrainOptions(tiles=given, output=path, crop=64, device="cpu"), **changes)


@pytest.mark.parametrize(("steps", "moved"), [(1, [True, False]), (2, [True, True])])
def test_each_step_trains_one_network(folder: Path, tmp_path: Path, steps: int, moved: list[bool]) -> None:
    options = train_options(folder, tmp_path / "m.safetensors", steps=steps, crops=2)
    first = _untrained(options, LocalisedAsd.plan(options), 2)
    train(options)
    last = load_model(options.output).detector
    assert isinstance(first, LocalisedAsd)
    assert isinstance(last, LocalisedAsd)
    for before, after, expected in zip(first.members, last.members, moved, strict=True):
        changed = [not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)]
        assert any(changed) == expected


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "m.safetensors"
    report = train(train_options(folder, path, steps=6, seed=4))
    assert report is not None
    assert (report.tiles, report.held_out_tiles, report.folds) == (6, 6, 6)
    assert "6 tiles with 8400 normal pixels trained on, 6 of them held out in turn" in report.summary()
    return path


@pytest.fixture
def split(tiles: TileSet) -> Survey:
    """The split of the training."""
    return survey_tiles(tiles, crop=64, halo=16, holdout=0.2, seed=4, in_turn=True)


def refit(folder: Path, model: Path, output: Path, **changes: Any) -> FitReport:
    given = TileOptions(tiles=(str(folder),))
    options = FitGaussianOptions(tiles=given, model=model, output=output, device="cpu", seed=4)
    return fit_gaussian(replace(options, **changes))


@pytest.fixture
def judges(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The networks of each part of a detector that is made."""
    found: list[tuple[int, ...]] = []
    original = LocalisedAsd.part

    def recording(self: LocalisedAsd, networks: Sequence[int]) -> LocalisedAsd:
        found.append(tuple(networks))
        return original(self, networks)

    monkeypatch.setattr(LocalisedAsd, "part", recording)
    return found


def copied(folder: Path, numbers: Iterable[int], target: Path) -> Path:
    """Some of the tiles without their labels, under other names, in reverse order."""
    target.mkdir()
    for place, number in enumerate(sorted(numbers)):
        shutil.copy(folder / "images" / f"tile_{number}.tif", target / f"other_{9 - place}.tif")
    return target


def test_a_fit_on_the_same_tiles_gives_the_same(
    folder: Path, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    again, third = tmp_path / "again.safetensors", tmp_path / "third.safetensors"
    refit(folder, trained, again)
    refit(folder, again, third)
    one, two, three = (load_model(path).header["held_out"] for path in (trained, again, third))
    assert two == pytest.approx(one, rel=1e-5)
    assert three == two
    assert "trained on" not in caplog.text


def test_a_fit_judges_a_tile_by_the_networks_that_do_not_know_it(
    folder: Path, trained: Path, split: Survey, tmp_path: Path, judges: list[tuple[int, ...]]
) -> None:
    chosen = {split.folds[0][0].tile, split.folds[1][0].tile}
    other = copied(folder, chosen, tmp_path / "other")
    report = refit(other, trained, tmp_path / "other.safetensors", seed=11)
    assert (report.tiles, report.held_out_tiles) == (2, 2)
    assert sorted(judges) == [(0,), (1,)]


def test_a_fit_says_where_networks_know_all_that_is_held_out(
    folder: Path, trained: Path, split: Survey, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen = set(range(6)) - {piece.tile for fold in split.folds[:2] for piece in fold}
    refit(copied(folder, seen, tmp_path / "other"), trained, tmp_path / "other.safetensors")
    assert "the networks are trained on all tiles that are held out here" in caplog.text


def test_an_update_says_that_tiles_would_count_twice(
    folder: Path, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refit(folder, trained, tmp_path / "twice.safetensors", update=True)
    assert "--update: the model knows 6 of the tiles already" in caplog.text


def test_a_fit_on_new_tiles_is_judged_by_all_networks(
    trained: Path,
    make_tiles: Callable[..., Path],
    make_texture: Callable[..., Any],
    tmp_path: Path,
    judges: list[tuple[int, ...]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    new = make_tiles(tmp_path / "new", [make_texture(seed, 2, SIDE, SIDE) for seed in range(10, 16)])
    report = refit(new, trained, tmp_path / "new.safetensors", update=True)
    assert (report.tiles, report.held_out_tiles) == (6, 6)
    assert judges == []
    assert "--update" not in caplog.text
    assert "6 of them held out in turn" in report.summary()


def test_a_fold_without_which_a_band_is_constant_is_judged_by_the_gaussian_of_all(
    make_tiles: Callable[..., Path],
    make_texture: Callable[..., Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    images = [make_texture(seed, 2, SIDE, SIDE) for seed in range(3)]
    for image in images[:2]:
        image[1] = 7
    uneven = open_tiles(TileOptions(tiles=(str(make_tiles(tmp_path / "uneven", images)),)))
    rx = RxMethod.create(2)
    survey = survey_tiles(uneven, crop=64, halo=0, holdout=0.2, seed=0, in_turn=True)
    parts = tile_normals(rx, uneven, survey.training, CPU, lambda count: None)
    fit_normal(rx, NormalPixels.of_all(2, parts.values()))
    judges = {piece.tile: judge for judge, pieces in blind(rx, survey, parts, KnownTiles.none()) for piece in pieces}
    assert [judges[tile] is rx for tile in range(3)] == [False, False, True]
    assert "1 held-out tile(s) are judged by a Gaussian that knows them" in caplog.text
