"""What is known of normal pixels, tile by tile and of several together."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from asd_cli.density.moments import Moments
from asd_cli.density.normal import NormalPixels


def tiles_of(counts: list[int], seed: int = 0) -> list[np.ndarray]:
    """Pixels of tiles that differ in their means."""
    random = np.random.default_rng(seed)
    return [random.normal(random.normal(0, 3, 3), 1, (count, 3)) for count in counts]


@given(counts=st.lists(st.integers(1, 60), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_all_pixels_are_within_tiles_or_between_them(counts: list[int], seed: int) -> None:
    tiles = tiles_of(counts, seed)
    found = NormalPixels.of_all(3, [NormalPixels.of_tile(Moments.of(tile)) for tile in tiles])
    everything = np.concatenate(tiles)
    means = np.repeat([tile.mean(axis=0) for tile in tiles], counts, axis=0)
    np.testing.assert_allclose(found.moments.covariance, np.cov(everything.T, bias=True), atol=1e-9)
    np.testing.assert_allclose(found.between, np.cov(means.T, bias=True), atol=1e-9)
    np.testing.assert_allclose(found.within / len(everything), np.cov((everything - means).T, bias=True), atol=1e-9)


def test_merging_parts_in_any_order_gives_the_same() -> None:
    a, b, c = (NormalPixels.of_tile(Moments.of(tile)) for tile in tiles_of([5, 90, 40]))
    left, right = a.merge(b).merge(c), a.merge(c.merge(b))
    np.testing.assert_allclose(left.within, right.within)
    assert left.tiles == right.tiles == 135**2 / (5**2 + 90**2 + 40**2)
    np.testing.assert_allclose(left.moments.second, right.moments.second)


def test_pieces_of_one_tile_are_no_tiles() -> None:
    """Their moments are merged first."""
    (tile,) = tiles_of([100])
    tile[50:] += 9
    moments = Moments.of(tile[:50]).merge(Moments.of(tile[50:]))
    np.testing.assert_allclose(NormalPixels.of_tile(moments).between, 0, atol=1e-12)


def test_of_nothing() -> None:
    nothing, some = NormalPixels.of_all(3, []), NormalPixels.of_tile(Moments.of(tiles_of([20])[0]))
    assert nothing.moments.count == 0
    np.testing.assert_array_equal(some.merge(nothing).within, some.within)
    assert some.merge(nothing).tiles == 1


def test_equal_tiles_count_one_each_and_tiny_ones_hardly_anything() -> None:
    def tiles(counts: list[int]) -> float:
        return NormalPixels.of_all(3, [NormalPixels.of_tile(Moments.of(tile)) for tile in tiles_of(counts)]).tiles

    assert tiles([50] * 7) == 7
    assert tiles([1] * 30 + [4000]) < 1.02
    assert tiles([100, 50]) == 1.8
