"""Batches are a function of seed and step; every piece comes up; pixels that do not count are not in the mask."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asd_cli.data.amplitudes import Amplitudes
from asd_cli.data.localised import LocalAmplitudes
from asd_cli.data.pieces import Piece, Survey, survey_tiles
from asd_cli.data.scaling import Scaling
from asd_cli.data.tiles import TileSet
from asd_cli.options import TileOptions
from asd_cli.raster.windows import Window
from asd_cli.workflows.batches import Draws, PieceBatches, _rich, virtual_anomaly
from asd_cli.workflows.tilesets import open_tiles

HALO, CROP = 16, 32


@pytest.fixture(scope="module")
def tiles(
    make_tiles: Callable[..., Path], make_texture: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> TileSet:
    """Three tiles: one with 12 normal pixels only, one with a corner of nodata."""
    labels = [np.ones((64, 48), np.uint8) for _ in range(3)]
    labels[0][:] = 2
    labels[0][10:13, 20:24] = 1
    images = [make_texture(seed, 2, 64, 48) for seed in range(3)]
    images[1][:, :20, :20] = np.nan
    folder = make_tiles(tmp_path_factory.mktemp("batches") / "tiles", images, labels)
    return open_tiles(TileOptions(tiles=(str(folder),), normal=("forest",)))


@pytest.fixture(scope="module")
def survey(tiles: TileSet) -> Survey:
    for seed in range(100):
        found = survey_tiles(tiles, crop=CROP, halo=HALO, holdout=0.2, seed=seed)
        if {piece.tile for piece in found.training} == {0, 1}:
            return found
    raise AssertionError


def make(tiles: TileSet, survey: Survey, **changes: Any) -> PieceBatches:
    given = {"halo": HALO, "draws": Draws(1), "crop": CROP, "review_pieces": None} | changes
    scaling = Scaling.robust(survey.sample)
    maker = virtual_anomaly(given.pop("amplitudes", Amplitudes()))
    return PieceBatches(tiles, survey, scaling, maker, **given)


def same(one: Any, two: Any) -> bool:
    pairs = [(getattr(one, name), getattr(two, name)) for name in ("image", "virtual", "mask", "changed")]
    return all(a is b is None or torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("crop", [CROP, None])
def test_a_batch_depends_on_seed_and_step_alone(tiles: TileSet, survey: Survey, crop: int | None) -> None:
    one, two = make(tiles, survey, crop=crop), make(tiles, survey, crop=crop)
    steps = [9, 0, 3, 4, 3, 12]
    first = {step: one.batch(step) for step in steps}
    assert all(same(first[step], two.batch(step)) for step in sorted(steps, reverse=True))
    other = make(tiles, survey, crop=crop, draws=Draws(2))
    assert not all(same(first[step], other.batch(step)) for step in steps)


def test_shapes_types_and_masks(tiles: TileSet, survey: Survey) -> None:
    batches = make(tiles, survey)
    for step in range(8):
        batch = batches.batch(step)
        assert batch.image.shape == batch.virtual.shape == (1, 2, CROP + 2 * HALO, CROP + 2 * HALO)
        assert batch.mask.shape == (1, CROP, CROP)
        assert (batch.image.dtype, batch.mask.dtype) == (torch.float32, torch.bool)
        assert batch.mask.sum() >= 64
        assert batch.image.isfinite().all()
        assert batch.virtual.isfinite().all()
        assert not torch.equal(batch.image, batch.virtual)


def test_jittered_crops_leave_out_pieces_with_hardly_a_normal_pixel(tiles: TileSet, survey: Survey) -> None:
    batches = make(tiles, survey)
    assert {piece.tile for piece in survey.training} == {0, 1}
    assert [{piece.tile for piece in pieces} for pieces in batches.pieces] == [{1}]


def test_without_jitter_every_piece_comes_up_once_in_every_epoch(tiles: TileSet, survey: Survey) -> None:
    batches = make(tiles, survey, crop=None)
    (pieces,) = batches.pieces
    assert list(pieces) == list(survey.training)
    count = len(pieces)
    orders = []
    for epoch in range(3):
        masks = [batches.batch(epoch * count + place).mask for place in range(count)]
        assert sorted(int(mask.sum()) for mask in masks) == sorted(piece.normal for piece in survey.training)
        orders.append([int(mask.sum()) for mask in masks])
    assert len({tuple(order) for order in orders}) > 1


def test_networks_take_turns_on_what_is_not_held_out_from_them() -> None:
    draws = Draws(1, networks=3, crops=2)
    turns = [draws.turn(number) for number in range(14)]
    assert [network for network, _ in turns] == [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2, 0, 0]
    for network in range(3):
        seen = [before for whose, before in turns if whose == network]
        assert seen == list(range(len(seen)))


def test_no_network_sees_its_own_fold(tiles: TileSet) -> None:
    found = survey_tiles(tiles, crop=CROP, halo=HALO, holdout=0.2, seed=0, in_turn=True)
    batches = make(tiles, found, crop=None, draws=Draws(1, networks=3))
    assert len(found.folds) == 3
    for network, fold in enumerate(found.folds):
        pieces = batches.pieces[network]
        assert {piece.tile for piece in pieces} == {0, 1, 2} - {piece.tile for piece in fold}
        own = [batches.batch(network + 3 * turn) for turn in range(len(pieces))]
        assert {batch.network for batch in own} == {network}
        assert sorted(int(b.mask.sum()) for b in own) == sorted(piece.normal for piece in pieces)
    shown = [(batch.network, int(batch.mask.sum())) for batch in batches.held_out()]
    assert shown == [(network, piece.normal) for network, fold in enumerate(found.folds) for piece in fold]
    two = make(tiles, found, crop=None, draws=Draws(1, networks=2))
    assert [batch.network for batch in two.held_out()] == [
        network for network in range(2) for _ in found.folds[network]
    ]


def test_no_network_sees_a_pixel_of_its_own_fold(make_tiles: Callable[..., Path], tmp_path: Path) -> None:
    """Tiles of one value each: moved crops, and the patches that virtual anomalies are filled from."""
    folder = make_tiles(tmp_path / "tiles", [np.full((2, 64, 48), 10.0 * (i + 1), np.float32) for i in range(5)])
    flat = open_tiles(TileOptions(tiles=(str(folder),)))
    found = survey_tiles(flat, crop=CROP, halo=HALO, holdout=0.2, seed=0, in_turn=True)
    scaling, drawn = Scaling.robust(found.sample), set[float]()

    def virtual(unit: Any, draw: Any, random: np.random.Generator) -> tuple[Any, Any]:
        image = scaling.from_unit(draw((16, 16), random).image)
        drawn.update(np.round(np.unique(image)).tolist())
        return unit, np.ones(unit.shape[1:], bool)

    draws = Draws(1, networks=3, crops=2)
    batches = PieceBatches(flat, found, scaling, virtual, halo=HALO, draws=draws, crop=CROP, review_pieces=None)
    for network in range(3):
        drawn.clear()
        some = [batches.batch(6 * turn + 2 * network + crop) for turn in range(40) for crop in range(2)]
        assert {batch.network for batch in some} == {network}
        shown = {float(value) for batch in some for value in batch.image.unique()}
        expected = {10.0 * (piece.tile + 1) for piece in found.trains(network)}
        assert shown == drawn == expected
        assert len(expected) == 4


def test_networks_and_crops_do_not_repeat_each_other(tiles: TileSet) -> None:
    found = survey_tiles(tiles, crop=8, halo=HALO, holdout=0.2, seed=0)
    batches = make(tiles, found, crop=None, draws=Draws(1, networks=2, crops=2))
    orders = [batches._order(network, epoch) for network in range(2) for epoch in range(2)]
    assert len({tuple(order) for order in orders}) == 4
    assert len({batches.batch(number).seed for number in range(12)}) == 12


def test_a_set_of_small_pieces_only_is_trained_on_all_the_same(tiles: TileSet) -> None:
    small = survey_tiles(tiles.subset([0, 0]), crop=CROP, halo=HALO, holdout=0.2, seed=0)
    batches = make(tiles.subset([0, 0]), small)
    for step in range(4):
        assert int(batches.batch(step).mask.sum()) == 12


def test_reviews_take_pieces_as_they_are_evenly_spread(tiles: TileSet, survey: Survey) -> None:
    everything = list(make(tiles, survey).training())
    assert sum(int(batch.mask.sum()) for batch in everything) == sum(piece.normal for piece in survey.training)
    assert all(torch.equal(batch.image, batch.virtual) for batch in everything)
    batches = make(tiles, survey, review_pieces=2)
    assert len(list(batches.training())) == len(list(batches.training())) == 2
    assert same(next(iter(batches.training())), everything[0])
    held = list(make(tiles, survey).held_out())
    assert sum(int(batch.mask.sum()) for batch in held) == sum(piece.normal for piece in survey.held_out)


def test_virtual_anomalies_stay_in_the_range_of_normal_pixels(tiles: TileSet, survey: Survey) -> None:
    scaling = Scaling.robust(survey.sample)
    batches = make(tiles, survey)
    for step in range(5):
        virtual = batches.batch(step).virtual[0].numpy()
        tolerance = 1e-4 * (scaling.high - scaling.low)[:, None, None]
        assert (virtual >= scaling.low[:, None, None] - tolerance).all()
        assert (virtual <= scaling.high[:, None, None] + tolerance).all()


def test_localised_anomalies_say_which_pixels_they_changed(tiles: TileSet, survey: Survey) -> None:
    batches = make(tiles, survey, amplitudes=LocalAmplitudes())
    shares = []
    for step in range(12):
        batch = batches.batch(step)
        assert batch.changed is not None
        assert batch.changed.shape == batch.mask.shape
        inner = (batch.virtual - batch.image)[0, :, HALO:-HALO, HALO:-HALO].abs().amax(dim=0)
        assert float(inner[~batch.changed[0]].max()) < 1e-3
        assert batch.virtual.isfinite().all()
        shares.append(float(batch.changed.float().mean()))
    assert 0.02 < np.mean(shares) < 0.6
    assert same(batches.batch(5), make(tiles, survey, amplitudes=LocalAmplitudes()).batch(5))


def test_whole_image_anomalies_change_every_pixel(tiles: TileSet, survey: Survey) -> None:
    changed = make(tiles, survey).batch(0).changed
    assert changed is not None
    assert changed.all()


def test_pieces_poor_in_normal_pixels_are_left_out_where_there_are_richer_ones() -> None:
    window = Window(0, 0, 20, 20)
    pieces = [Piece(0, window, window, normal) for normal in (70, 100, 119, 120, 300, 400, 400)]
    assert [piece.normal for piece in _rich(pieces)] == [120, 300, 400, 400]
    assert [piece.normal for piece in _rich(pieces[:3])] == [100, 119]  # the richer half
    few = [Piece(0, window, window, normal) for normal in (3, 9)]
    assert _rich(few) == few
