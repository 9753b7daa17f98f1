"""The Gaussian for tiles that nobody has seen yet, against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd_cli.density.moments import Moments
from asd_cli.density.normal import NormalPixels
from asd_cli.density.unseen import fit_for_unseen
from asd_cli.errors import InputError


def normal_of(tiles: list[np.ndarray]) -> NormalPixels:
    return NormalPixels.of_all(tiles[0].shape[1], [NormalPixels.of_tile(Moments.of(tile)) for tile in tiles])


def mixed(seed: int, length: int, tiles: int = 3) -> list[np.ndarray]:
    """Pixels of tiles whose numbers depend on each other."""
    random = np.random.default_rng(seed)
    factor = random.normal(size=(length, length)) * random.uniform(0.1, 30, length)
    return [random.normal(random.normal(0, 1, length), 1, (400, length)) @ factor for _ in range(tiles)]


@given(
    seed=st.integers(0, 99),
    length=st.integers(1, 6),
    caution=st.sampled_from([0.0, 0.01, 0.6, 1.0]),
    tiles=st.integers(1, 5),
)
def test_one_block_is_all_pixels_and_twice_what_tiles_differ_by(
    seed: int, length: int, caution: float, tiles: int
) -> None:
    images = mixed(seed, length, tiles)
    found = fit_for_unseen(normal_of(images), [length], caution=caution)
    floor = min(caution / tiles, 0.3)
    everything = np.concatenate(images)
    means = np.repeat([image.mean(axis=0) for image in images], 400, axis=0)
    covariance = np.atleast_2d(np.cov(everything.T, bias=True) + 2 * np.cov(means.T, bias=True))
    deviations = np.sqrt(np.diag(covariance))
    values, axes = np.linalg.eigh(covariance / np.outer(deviations, deviations))
    expected = axes @ np.diag(np.maximum(values, floor)) @ axes.T * np.outer(deviations, deviations)
    np.testing.assert_allclose(found.mean, everything.mean(axis=0))
    np.testing.assert_allclose(found.covariance, expected, rtol=1e-6, atol=1e-9 * expected.max())
    assert np.linalg.eigvalsh(found.covariance / np.outer(deviations, deviations))[0] >= floor - 1e-9


def test_the_unit_of_a_number_makes_no_difference_to_distances() -> None:
    tiles, units = mixed(5, 4), np.array([1, 100, 0.1, 50])
    one, other = (fit_for_unseen(normal_of(given), [4], caution=0.6) for given in (tiles, [t * units for t in tiles]))
    np.testing.assert_allclose(other.distance(tiles[0] * units), one.distance(tiles[0]), rtol=1e-6)


def test_blocks_are_independent() -> None:
    tiles = mixed(1, 5)
    whole = fit_for_unseen(normal_of(tiles), [2, 3], caution=0.15)
    assert not whole.covariance[:2, 2:].any()
    squares = 0.0
    for columns in (slice(0, 2), slice(2, 5)):
        size = columns.stop - columns.start
        part = fit_for_unseen(normal_of([tile[:, columns] for tile in tiles]), [size], caution=0.15)
        squares = squares + part.distance(tiles[0][:, columns]) ** 2
    np.testing.assert_allclose(whole.distance(tiles[0]) ** 2, squares, rtol=1e-6)


def test_a_number_that_never_varies_takes_a_thousandth_and_leaves_other_blocks_alone() -> None:
    tiles = mixed(2, 4)
    whole = fit_for_unseen(normal_of(tiles), [2, 2], caution=0.3)
    for tile in tiles:
        tile[:, 1] = 7
    found = fit_for_unseen(normal_of(tiles), [2, 2], caution=0.3)
    assert found.covariance[1, 1] == pytest.approx(1e-6)
    np.testing.assert_array_equal(found.covariance[2:, 2:], whole.covariance[2:, 2:])
    same = tiles[0][:5]
    away = found.distance(same + np.array([0, 0.1, 0, 0])) ** 2 - found.distance(same) ** 2
    np.testing.assert_allclose(away, 100**2, rtol=1e-6)


def test_all_the_same() -> None:
    found = fit_for_unseen(normal_of([np.zeros((9, 2))]), [2], caution=0.0)
    np.testing.assert_allclose(found.whitening, 1000 * np.eye(2))


@pytest.mark.parametrize(("values", "said"), [(np.ones((1, 2)), "too few"), (np.full((9, 2), np.nan), "not finite")])
def test_what_cannot_be_fitted(values: np.ndarray, said: str) -> None:
    with pytest.raises(InputError, match=said):
        fit_for_unseen(normal_of([values]), [2], caution=0.3)
