from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from asd_cli.density.moments import Moments


def naive(values: NDArray[np.floating]) -> Moments:
    """The sums as they are written, in extended precision, one descriptor at a time."""
    exact = values.astype(np.longdouble)
    mean = exact.mean(axis=0)
    second, third, fourth = np.zeros((len(mean),) * 2), np.zeros(len(mean)), 0.0
    for row in exact - mean:
        square = row @ row
        second = second + np.outer(row, row)
        third = third + square * row
        fourth = fourth + square * square
    return Moments(len(values), mean.astype(float), second.astype(float), third.astype(float), float(fourth))


def assert_same(got: Moments, expected: Moments, rtol: float = 1e-9) -> None:
    scale = np.sqrt(max(np.trace(expected.second) / max(expected.count, 1), 1e-300))
    mass = rtol * max(expected.count, 1)
    assert got.count == expected.count
    np.testing.assert_allclose(got.mean, expected.mean, rtol=1e-12, atol=1e-12 * scale)
    np.testing.assert_allclose(got.second, expected.second, rtol=rtol, atol=mass * scale**2)
    np.testing.assert_allclose(got.third, expected.third, rtol=rtol, atol=mass * scale**3)
    assert got.fourth == pytest.approx(expected.fourth, rel=rtol)


@pytest.fixture
def values() -> NDArray[np.float64]:
    random = np.random.default_rng(1)
    return random.gamma(2.0, size=(700, 4)) @ random.normal(size=(4, 4)) + random.normal(size=4)


def test_moments_equal_the_naive_sums(values: NDArray[np.float64]) -> None:
    assert_same(Moments.of(values), naive(values))


def test_covariance_is_numpy_s(values: NDArray[np.float64]) -> None:
    np.testing.assert_allclose(Moments.of(values).covariance, np.cov(values.T, bias=True), rtol=1e-12)
    assert np.isnan(Moments.empty(3).covariance).all()


@pytest.mark.parametrize("offset", [0.0, 1e6, -1e6])
def test_merging_parts_of_different_means_equals_the_whole(values: NDArray[np.float64], offset: float) -> None:
    shifted = values + offset
    order = np.argsort(shifted[:, 0])
    parts = [Moments.of(part) for part in np.split(shifted[order], [1, 2, 100, 650])]
    left = parts[0].merge(parts[1]).merge(parts[2]).merge(parts[3]).merge(parts[4])
    right = parts[0].merge(parts[1].merge(parts[2].merge(parts[3].merge(parts[4]))))
    expected = naive(shifted)
    # With values near 1e6 the input itself keeps ten digits of the deviations.
    assert_same(left, expected, rtol=1e-9)
    assert_same(right, expected, rtol=1e-9)
    np.testing.assert_allclose(left.second, Moments.of(values).second, rtol=1e-8, atol=1e-6)


def test_chunks_do_not_show() -> None:
    many = np.random.default_rng(2).normal(3.0, 2.0, size=(150_000, 2)).astype(np.float32)
    got = Moments.of(many)
    exact = many.astype(np.float64)
    centred = exact - exact.mean(axis=0)
    squares = (centred**2).sum(axis=1)
    assert got.count == 150_000
    np.testing.assert_allclose(got.mean, exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(got.third, squares @ centred, rtol=1e-7, atol=1e-6)
    assert got.fourth == pytest.approx(float(squares @ squares), rel=1e-10)


def test_empty_is_neutral(values: NDArray[np.float64]) -> None:
    empty, full = Moments.empty(4), Moments.of(values)
    assert empty.merge(full) is full
    assert full.merge(empty) is full
    assert Moments.of(values[:0]).count == 0
    assert empty.merge(empty).count == 0


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"must be \(n, L\), got shape \(3,\)"):
        Moments.of(np.zeros(3))
    with pytest.raises(ValueError, match="lengths differ: 2 and 3"):
        Moments.empty(2).merge(Moments.empty(3))


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    length=st.integers(1, 5),
    offset=st.floats(-1e4, 1e4),
    seed=st.integers(0, 1000),
)
def test_any_split_gives_the_same(sizes: list[int], length: int, offset: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    batches = [random.normal(offset, random.uniform(0.5, 2.0), size=(n, length)) for n in sizes]
    total = Moments.empty(length)
    for batch in batches:
        total = total.merge(Moments.of(batch))
    whole = np.concatenate(batches)
    if len(whole):
        assert_same(total, naive(whole), rtol=1e-8)
    else:
        assert total.count == 0
