"""The typical tile: quantiles that are geometric means of the tiles' own."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from asd_cli.density.typical import typical_distances


def tile(seed: int, scale: float = 1.0, count: int = 20_000) -> NDArray[np.float32]:
    return (scale * np.random.default_rng(seed).gamma(3.0, size=count)).astype(np.float32)


def test_of_tiles_that_differ_by_a_factor_the_mean_factor_counts() -> None:
    own = tile(0)
    found = typical_distances([own, 2 * own, 4 * own], 0.01)
    np.testing.assert_allclose(found, 2 * np.sort(own), rtol=1e-6)
    assert found.dtype == np.float64


def test_an_odd_tile_moves_the_threshold_little() -> None:
    alike = [tile(seed) for seed in range(9)]
    usual = np.quantile(np.concatenate(alike), 0.99)
    odd = [*alike, tile(9, scale=20)]
    assert np.quantile(typical_distances(odd, 0.01), 0.99) == pytest.approx(usual * 20**0.1, rel=0.05)
    assert np.quantile(np.concatenate(odd), 0.99) > 4 * usual


def test_a_single_tile_is_its_own_type() -> None:
    np.testing.assert_array_equal(typical_distances([tile(3)], 0.001), np.sort(tile(3)))
    assert len(typical_distances([], 0.01)) == 0


def test_many_tiles_are_as_their_pixels_where_they_are_alike() -> None:
    tiles = [tile(seed) for seed in range(20)]
    found, together = typical_distances(tiles, 0.001), np.concatenate(tiles)
    for rate in (0.5, 0.1, 0.01, 0.001):
        assert np.quantile(found, 1 - rate) == pytest.approx(np.quantile(together, 1 - rate), rel=0.02)


@pytest.mark.parametrize(
    ("sizes", "rate", "count"),
    [
        ([1000, 1000, 1000], 0.01, 1000),
        ([2000, 1500, 600, 590], 0.01, 1190),  # the last two are joined
        ([1000, 1000, 300], 0.01, 1000),  # the last is joined with the first
        ([600, 600, 600, 600], 0.01, 1200),  # too few for ten beyond the threshold
        ([600, 600, 600], 0.01, 1800),
        ([50, 20, 1], 0.01, 71),  # all together have too few: as one
    ],
)
def test_small_tiles_are_joined(sizes: list[int], rate: float, count: int) -> None:
    found = typical_distances([tile(seed, count=size) for seed, size in enumerate(sizes)], rate)
    assert len(found) == count
    assert (np.diff(found) >= 0).all()


def test_joined_tiles_are_the_pixels_of_both() -> None:
    one, other = tile(1, count=600), tile(2, scale=5, count=600)
    np.testing.assert_array_equal(typical_distances([one, other], 0.01), np.sort(np.concatenate([one, other])))


def test_distances_of_zero_do_not_drag_others_to_zero() -> None:
    touched = tile(1)
    touched[:10_000] = 0
    found = typical_distances([touched, tile(2)], 0.01)
    assert np.quantile(found, 0.99) > 1
    assert (found > 0).all()
    assert (typical_distances([np.zeros(5000, np.float32)] * 2, 0.01) == 0).all()
