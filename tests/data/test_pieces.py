"""Pieces of tiles: what is trained on, what is held out, and what neither."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asd_cli.data.pieces import Piece, Survey, jittered, partition, survey_tiles
from asd_cli.data.tiles import TileSet
from asd_cli.errors import TrainingError
from asd_cli.options import TileOptions
from asd_cli.raster.windows import Window
from asd_cli.workflows.tilesets import open_tiles

HALO = 16


@settings(max_examples=60, deadline=None)
@given(
    row=st.integers(0, 5), col=st.integers(0, 5), height=st.integers(1, 90), width=st.integers(1, 90),
    size=st.integers(1, 40),
)  # fmt: skip
def test_partition_covers_each_pixel_once_at_even_offsets(
    row: int, col: int, height: int, width: int, size: int
) -> None:
    counts = np.zeros((row + height, col + width), int)
    for window in partition(Window(row, col, height, width), size):
        counts[window.row : window.row_stop, window.col : window.col_stop] += 1
        assert max(window.shape) <= max(size, 2)
        assert (window.row - row) % 2 == (window.col - col) % 2 == 0
    assert (counts[row:, col:] == 1).all()
    assert counts.sum() == height * width


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 60), width=st.integers(1, 60), size=st.integers(2, 80), seed=st.integers(0, 9),
    data=st.data(),
)  # fmt: skip
def test_jittered_windows_stay_in_their_region(height: int, width: int, size: int, seed: int, data: Any) -> None:
    region = Window(4, 6, height, width)
    window = data.draw(st.sampled_from(partition(region, size)))
    moved = jittered(Piece(0, window, region, 1), size, np.random.default_rng(seed))
    assert moved.shape == (min(size, height), min(size, width))
    assert moved.row >= 4
    assert moved.col >= 6
    assert moved.row_stop <= region.row_stop
    assert moved.col_stop <= region.col_stop


@pytest.fixture
def tiles_of(
    make_tiles: Callable[..., Path], make_texture: Callable[..., Any], tmp_path: Path
) -> Callable[..., TileSet]:
    """A tile set of textures with the given labels (1 forest, 2 water)."""

    def build(*labels: np.ndarray, **options: Any) -> TileSet:
        images = [make_texture(seed, 2, *label.shape) for seed, label in enumerate(labels)]
        folder = make_tiles(tmp_path / "tiles", images, labels, **options)
        return open_tiles(TileOptions(tiles=(str(folder),), normal=("forest",)))

    return build


def label(height: int = 40, width: int = 40, code: int = 1) -> np.ndarray:
    return np.full((height, width), code, np.uint8)


def survey(tiles: TileSet, **changes: Any) -> Survey:
    return survey_tiles(tiles, **({"crop": 32, "halo": HALO, "holdout": 0.2, "seed": 0} | changes))


@pytest.mark.parametrize(("holdout", "held"), [(0.01, 1), (0.2, 2), (0.5, 5), (0.9, 9)])
def test_a_share_of_the_tiles_is_held_out(tiles_of: Callable[..., TileSet], holdout: float, held: int) -> None:
    found = survey(tiles_of(*[label(20, 20)] * 10), holdout=holdout)
    assert found.held_out_tiles == held
    assert found.training_tiles == 10 - held
    assert not {p.tile for p in found.training} & {p.tile for p in found.held_out}
    assert found.sample.count == 400 * (10 - held)


@pytest.mark.parametrize(
    ("count", "holdout", "sizes"),
    [
        (10, 0.2, [2, 2, 2, 2, 2]),
        (9, 0.2, [2, 2, 2, 2, 1]),
        (10, 0.5, [5, 5]),
        (10, 0.6, [6, 4]),
        (10, 0.9, [9]),
        (3, 0.2, [1, 1, 1]),
        (2, 0.2, [1, 1]),
    ],
)
def test_tiles_are_held_out_in_turn(
    tiles_of: Callable[..., TileSet], count: int, holdout: float, sizes: list[int]
) -> None:
    tiles = tiles_of(*[label(20, 20)] * count)
    found = survey(tiles, holdout=holdout, in_turn=True)
    groups = [{piece.tile for piece in fold} for fold in found.folds]
    assert [len(group) for group in groups] == sizes
    assert sum(map(len, groups)) == len(set.union(*groups)) == found.held_out_tiles
    assert groups[0] == {piece.tile for piece in survey(tiles, holdout=holdout).held_out}
    for network in range(4):
        assert {piece.tile for piece in found.trains(network)} == set(range(count)) - groups[network % len(groups)]
    assert found.training_tiles == (count if len(sizes) > 1 else count - sizes[0])
    assert found.normal_pixels == 400 * found.training_tiles
    assert found.sample.count == found.normal_pixels


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sides", [(64, 1), (64, 1, 1), (64, 6, 6, 6)])
def test_no_network_lacks_nearly_all_normal_pixels(
    tiles_of: Callable[..., TileSet], sides: tuple[int, ...], seed: int
) -> None:
    labels = [label(64, 64, code=2) for _ in sides]
    for one, side in zip(labels, sides, strict=True):
        one[:side, :side] = 1
    found = survey(tiles_of(*labels), in_turn=True, seed=seed)
    assert found.folds
    for network in range(3):
        assert sum(piece.normal for piece in found.trains(network)) >= 64 * 64
    assert found.normal_pixels <= found.sample.count


@pytest.mark.parametrize("in_turn", [False, True])
def test_nothing_is_held_out_where_none_is_asked_for(tiles_of: Callable[..., TileSet], in_turn: bool) -> None:
    found = survey(tiles_of(*[label(20, 20)] * 3), holdout=0.0, in_turn=in_turn)
    assert (found.folds, found.held_out_tiles) == ((), 0)
    assert found.held_out == found.training == found.trains(2)


def test_the_seed_chooses_which(tiles_of: Callable[..., TileSet]) -> None:
    tiles = tiles_of(*[label(20, 20)] * 6)
    chosen = [{p.tile for p in survey(tiles, seed=seed).held_out} for seed in (0, 0, 1, 2, 3, 4)]
    assert chosen[0] == chosen[1]
    assert len({frozenset(c) for c in chosen}) > 1


def test_tiles_without_normal_pixels_are_skipped_and_named(tiles_of: Callable[..., TileSet]) -> None:
    tiles = tiles_of(label(), label(code=2), label(), label(code=0))
    progress: list[tuple[int, int]] = []
    found = survey(tiles, progress=lambda done, total: progress.append((done, total)))
    assert [Path(path).name for path in found.skipped] == ["tile_1.tif", "tile_3.tif"]
    assert found.training_tiles == found.held_out_tiles == 1
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_pieces_hold_every_normal_pixel_once_and_none_without(tiles_of: Callable[..., TileSet]) -> None:
    part = label(70, 50)
    part[:32] = 2
    found = survey(tiles_of(part, label()))
    pieces = [*found.training, *found.held_out]
    assert sum(piece.normal for piece in pieces) == 38 * 50 + 40 * 40
    assert all(piece.normal > 0 and max(piece.window.shape) <= 32 for piece in pieces)
    assert [p for p in pieces if p.tile == 0 and p.window.row_stop <= 32] == []


def test_the_sample_holds_normal_training_pixels_only(tiles_of: Callable[..., TileSet]) -> None:
    part = label()
    part[:, 20:] = 2
    tiles = tiles_of(part, part, part)
    found = survey(tiles)
    expected = []
    for index in sorted({piece.tile for piece in found.training}):
        with tiles.open(index) as tile:
            expected.append(tile.read(Window(0, 0, 40, 20)).chip.pixels.reshape(2, -1).T)
    rows = np.concatenate(expected)
    assert found.sample.count == len(rows) == len(found.sample.rows)
    np.testing.assert_array_equal(np.sort(found.sample.rows, axis=0), np.sort(rows, axis=0))


@pytest.mark.parametrize("shape", [(120, 60), (60, 120)])
def test_a_single_tile_is_cut_across_its_longer_side_with_a_halo_between(
    tiles_of: Callable[..., TileSet], shape: tuple[int, int]
) -> None:
    found = survey(tiles_of(label(*shape), label(code=2)), in_turn=True)
    assert found.trains(1) == found.training
    first, second = ("row_stop", "row") if shape[0] > shape[1] else ("col_stop", "col")
    last_trained = max(getattr(piece.region, first) for piece in found.training)
    first_held = min(getattr(piece.window, second) for piece in found.held_out)
    assert last_trained + HALO == first_held
    assert first_held % 2 == 0
    assert all(getattr(piece.window, first) <= last_trained for piece in found.training)
    held = sum(piece.normal for piece in found.held_out)
    assert 0.2 <= held / 7200 < 0.23
    assert found.sample.count == sum(piece.normal for piece in found.training)
    assert len(found.skipped) == 1


def test_the_cut_follows_the_normal_pixels(tiles_of: Callable[..., TileSet]) -> None:
    part = label(200, 30, code=2)
    part[:100] = 1
    found = survey(tiles_of(part))
    assert min(piece.window.row for piece in found.held_out) == 78


@pytest.mark.parametrize("code", [0, 2])
def test_no_normal_pixel_anywhere(tiles_of: Callable[..., TileSet], code: int) -> None:
    small = label(10, 10)
    small[0, 0] = 1
    tiles = tiles_of(small, label(code=2), nodata=None)
    empty = tiles.subset([1])
    with pytest.raises(
        TrainingError,
        match="none of the 1 tiles has a normal pixel; check --normal, labels, masks and nodata",
    ):
        survey(empty)


@pytest.mark.parametrize(("side", "gap"), [(96, 40), (400, 50), (800, 80)])
def test_a_wide_halo_does_not_eat_up_a_small_tile(tiles_of: Callable[..., TileSet], side: int, gap: int) -> None:
    found = survey_tiles(tiles_of(label(side, 4)), crop=32, halo=80, holdout=0.2, seed=0)
    first_held = min(piece.window.row for piece in found.held_out)
    assert max(piece.region.row_stop for piece in found.training) == first_held - gap


@pytest.mark.parametrize("shape", [(1, 1), (20, 20)])
def test_a_single_tile_that_is_too_small_to_hold_some_out(
    tiles_of: Callable[..., TileSet], shape: tuple[int, int]
) -> None:
    few = rf"tile_0.tif: the only tile with normal pixels, and it has too few \({shape[0] * shape[1]}\) to hold out"
    with pytest.raises(TrainingError, match=f"{few} a share of 0.2; give more or larger tiles"):
        survey(tiles_of(label(*shape)), holdout=0.2)


def test_a_strip_of_one_pixel_can_be_cut(tiles_of: Callable[..., TileSet]) -> None:
    found = survey(tiles_of(label(1, 40)))
    assert [piece.window for piece in found.training] == [Window(0, 0, 1, 14)]
    assert [piece.window for piece in found.held_out] == [Window(0, 30, 1, 10)]
