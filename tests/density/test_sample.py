from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from asd_cli.density.sample import PixelSample
from asd_cli.errors import InputError

Batches = dict[tuple[int, ...], NDArray[np.float32]]


def batches(seed: int, sizes: list[int], bands: int = 2) -> Batches:
    random = np.random.default_rng(seed)
    return {(3, place): random.normal(size=(size, bands)).astype(np.float32) for place, size in enumerate(sizes)}


def sample_of(parts: Batches, capacity: int, order: list[tuple[int, ...]] | None = None) -> PixelSample:
    sample = PixelSample(capacity, 2, seed=5)
    for key in order if order is not None else list(parts):
        sample.add(parts[key], key)
    return sample


def test_below_capacity_everything_is_kept() -> None:
    parts = batches(0, [10, 0, 25])
    sample = sample_of(parts, 100)
    everything = np.concatenate(list(parts.values()))
    assert sample.count == 35
    np.testing.assert_array_equal(np.sort(sample.rows, axis=0), np.sort(everything, axis=0))
    np.testing.assert_allclose(sample.quantile(0.3), np.quantile(everything.astype(float), 0.3, axis=0))


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    capacity=st.integers(1, 60),
    seed=st.integers(0, 100),
    cut=st.integers(0, 6),
)
def test_order_and_merging_do_not_show(sizes: list[int], capacity: int, seed: int, cut: int) -> None:
    parts = batches(seed, sizes)
    keys = list(parts)
    plain = sample_of(parts, capacity)
    turned = sample_of(parts, capacity, keys[::-1])
    merged = sample_of(parts, capacity, keys[cut:])
    merged.merge(sample_of(parts, capacity, keys[:cut]))
    everything = np.concatenate(list(parts.values()))
    for sample in (plain, turned, merged):
        assert sample.count == len(everything)
        assert len(sample.rows) == min(capacity, len(everything))
        np.testing.assert_array_equal(sample.rows, plain.rows)
        if len(everything):
            np.testing.assert_array_equal(sample.minimum, everything.min(axis=0))
            np.testing.assert_array_equal(sample.maximum, everything.max(axis=0))
            np.testing.assert_array_equal(sample.quantile(0.0), everything.min(axis=0))
            np.testing.assert_array_equal(sample.quantile(1.0), everything.max(axis=0))


def test_equals_the_rows_with_the_lowest_priorities() -> None:
    parts = batches(1, [300, 500])
    priorities = [
        np.random.default_rng([5, 2, *key]).integers(0, 2**64, size=len(rows), dtype=np.uint64)
        for key, rows in parts.items()
    ]
    lowest = np.argsort(np.concatenate(priorities))[:50]
    np.testing.assert_array_equal(sample_of(parts, 50).rows, np.concatenate(list(parts.values()))[lowest])


def test_every_pixel_has_the_same_chance() -> None:
    hits = np.zeros(200)
    numbers = np.arange(200, dtype=np.float32)[:, None]
    for seed in range(400):
        sample = PixelSample(20, 1, seed)
        sample.add(numbers[:30], 0)
        sample.add(numbers[30:], 1)
        hits[sample.rows[:, 0].astype(int)] += 1
    # 400 draws at 10 %: 40 expected with a deviation of 6.
    assert hits.sum() == 400 * 20
    assert abs(hits[:30].mean() - 40) < 5
    assert hits.min() > 10
    assert hits.max() < 75


def test_keys_of_other_lengths_are_other_keys() -> None:
    numbers = np.arange(1000, dtype=np.float32)[:, None]
    kept = []
    for key in (3, (3, 0), (3, 0, 0), (0, 3)):
        sample = PixelSample(10, 1, 0)
        sample.add(numbers, key)
        kept.append(tuple(sample.rows[:, 0]))
    assert len(set(kept)) == 4


def test_rows_that_are_not_finite_are_left_out() -> None:
    rows = np.array([[1, 2], [np.nan, 9], [3, np.inf], [4, 5]], dtype=np.float32)
    sample = PixelSample(10, 2, 0)
    sample.add(rows, 0)
    assert sample.count == 2
    assert sample.maximum.tolist() == [4, 5]
    sample.add(rows[1:3], 1)
    assert sample.count == 2


def test_errors() -> None:
    sample = PixelSample(10, 2, 0)
    with pytest.raises(InputError, match="no valid pixel to take a quantile of"):
        sample.quantile(0.5)
    with pytest.raises(InputError, match="quantile 98 is outside 0 to 1"):
        sample.quantile(98)
    with pytest.raises(ValueError, match=r"must be \(n, 2\), got shape \(4, 3\)"):
        sample.add(np.zeros((4, 3)), 0)
    with pytest.raises(ValueError, match="differ in"):
        sample.merge(PixelSample(11, 2, 0))
    with pytest.raises(ValueError, match="capacity 0"):
        PixelSample(0, 2, 0)
