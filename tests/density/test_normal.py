"""What is kept of normal pixels, pooled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd_cli.density.moments import Moments
from asd_cli.density.normal import NormalPixels, added, pooled


def part(number: int, count: int, kept: int) -> NormalPixels:
    """Rows that tell the part, and their place in it."""
    values = np.random.default_rng(number).normal(number, 1, (count, 2))
    rows = np.stack([np.full(min(kept, count), number), np.arange(min(kept, count))], axis=1)
    return NormalPixels(Moments.of(values), rows.astype(np.float32))


@given(counts=st.lists(st.integers(0, 400), min_size=1, max_size=6), kept=st.integers(0, 60))
def test_each_part_gives_rows_by_its_share_of_the_pixels(counts: list[int], kept: int) -> None:
    parts = [part(number, count, kept) for number, count in enumerate(counts)]
    found = pooled([NormalPixels.empty(2), *parts], kept)
    assert found.moments.count == sum(counts)
    assert len(found.rows) == min(kept, sum(counts))
    for number, count in enumerate(counts):
        expected = min(kept, sum(counts)) * count / max(sum(counts), 1)
        assert abs(np.count_nonzero(found.rows[:, 0] == number) - expected) <= 1
    assert len(np.unique(found.rows, axis=0)) == len(found.rows)


def test_the_moments_are_those_of_all() -> None:
    values = np.random.default_rng(0).normal(size=(300, 3))
    nothing = np.empty((0, 0), np.float32)
    found = pooled([NormalPixels(Moments.of(some), nothing) for some in np.split(values, [50, 51, 200])], 0).moments
    np.testing.assert_allclose(found.mean, values.mean(axis=0))
    np.testing.assert_allclose(found.covariance, np.cov(values.T, bias=found.count == 0), rtol=1e-2)


def test_rows_are_taken_from_all_over_a_part_that_holds_more() -> None:
    """The rows of a model lie tile by tile."""
    old, new = part(0, 1000, 100), part(1, 1000, 100)
    places = pooled([old, new], 100).rows
    mine = places[places[:, 0] == 0, 1]
    assert len(mine) == 50
    assert np.diff(mine).max() <= 3
    assert mine.max() >= 97


@given(
    counts=st.tuples(st.integers(1, 10_000), st.integers(1, 10_000)),
    there=st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
def test_either_gives_the_least_share_as_far_as_it_has_rows(counts: tuple[int, int], there: tuple[int, int]) -> None:
    parts = []
    for number in range(2):
        one = part(number, 60, there[number])
        parts.append(NormalPixels(replace(one.moments, count=counts[number]), one.rows))
    found = added(*parts, 40, least=0.25)
    assert found.moments.count == sum(counts)
    assert len(found.rows) == min(40, sum(there))
    assert len(np.unique(found.rows, axis=0)) == len(found.rows)
    for number in range(2):
        own = np.count_nonzero(found.rows[:, 0] == number)
        assert own >= min(10, there[number])
        share = 40 * min(max(counts[number] / sum(counts), 0.25), 0.75)
        if min(there) >= 40:
            assert own == pytest.approx(share, abs=1)


def test_of_nothing() -> None:
    found = pooled([NormalPixels.empty(7)], 10)
    assert (found.moments.count, found.rows.shape) == (0, (0, 7))
