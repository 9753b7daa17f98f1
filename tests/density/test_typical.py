"""The typical tile: quantiles that are geometric means of the tiles' own."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from asd_cli.density.typical import typical, typical_distances


def tile(seed: int, scale: float = 1.0, count: int = 20_000) -> NDArray[np.float32]:
    return (scale * np.random.default_rng(seed).gamma(3.0, size=count)).astype(np.float32)


def test_of_tiles_that_differ_by_a_factor_the_mean_factor_counts() -> None:
    own = tile(0)
    found = typical_distances([own, 2 * own, 4 * own], 0.01)
    np.testing.assert_allclose(found, 2 * np.sort(own), rtol=1e-6)
    assert found.dtype == np.float64


@pytest.mark.parametrize(("scale", "counted"), [(0.0, 1 / 3), (0.05, 1 / 3), (0.5, 0.5), (2.0, 2.0), (20.0, 3.0)])
def test_an_odd_tile_moves_the_threshold_little(scale: float, counted: float) -> None:
    alike = [tile(seed) for seed in range(9)]
    usual = np.quantile(np.concatenate(alike), 0.99)
    found = np.quantile(typical_distances([*alike, tile(9, scale=scale)], 0.01), 0.99)
    assert found == pytest.approx(usual * counted**0.1, rel=0.03)


def test_of_two_tiles_the_quiet_one_does_not_silence_the_other() -> None:
    found = typical_distances([np.zeros(20_000, np.float32), tile(1)], 0.01)
    np.testing.assert_allclose(found[10_000:], np.sort(tile(1))[10_000:] / np.sqrt(3), rtol=1e-6)


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
        ([300, 300, 300], 0.01, 300),
        ([3000, 2000, 600, 590], 0.01, 1190),  # the last two are joined: fewer than half as many as the mean
        ([1000, 1000, 300], 0.01, 1000),  # the last is joined with the first
        ([200, 200, 200, 200], 0.01, 400),  # too few for three beyond the threshold
        ([200, 200, 200], 0.01, 600),
        ([50, 20, 1], 0.01, 71),  # all together have too few: as one
    ],
)
def test_small_tiles_are_joined(sizes: list[int], rate: float, count: int) -> None:
    found = typical_distances([tile(seed, count=size) for seed, size in enumerate(sizes)], rate)
    assert len(found) == count
    assert (np.diff(found) >= 0).all()


def test_joined_tiles_are_the_pixels_of_both() -> None:
    one, other = tile(1, count=200), tile(2, scale=5, count=200)
    np.testing.assert_array_equal(typical_distances([one, other], 0.01), np.sort(np.concatenate([one, other])))


def test_distances_of_zero_do_not_drag_others_to_zero() -> None:
    touched = tile(1)
    touched[:10_000] = 0
    found = typical_distances([touched, touched, tile(2)], 0.01)
    assert found[0] == pytest.approx(1e-6 * max(touched.max(), tile(2).max()) * 3 ** (1 / 3), rel=1e-3)
    assert (np.diff(found) >= 0).all()
    assert (typical_distances([np.zeros(5000, np.float32)] * 2, 0.01) == 0).all()


def test_a_rate_too_small_for_any_tile_does_not_bring_the_pool_back() -> None:
    tiles = [*(tile(seed, count=4000) for seed in range(9)), tile(9, scale=50, count=4000)]
    np.testing.assert_array_equal(typical_distances(tiles, 1e-6), typical_distances(tiles, 1e-3))


def test_large_tiles_are_no_trouble() -> None:
    """Which quantiles taken one by one would be: they take quadratic time."""
    large = [tile(seed, scale=seed + 1, count=500_000) for seed in range(2)]
    assert np.quantile(typical_distances(large, 0.001), 0.999) == pytest.approx(
        np.sqrt(np.prod([np.quantile(one, 0.999) for one in large])), rel=1e-3
    )


def test_the_typical_value_is_a_geometric_mean_within_thrice_the_median() -> None:
    values = np.array([[1.0, 2.0], [4.0, 2.0], [2.0, 60.0]])
    np.testing.assert_allclose(typical(values), [2.0, (2 * 2 * 6) ** (1 / 3)])
    np.testing.assert_allclose(typical(np.array([1.0, 100.0])), (100 / 3 * 100) ** 0.5)
    np.testing.assert_allclose(typical(np.array([7.0])), 7.0)
