from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from asd_cli.errors import InputError
from asd_cli.metrics.overlap import OverlapHistogram, aupro, region_overlap


def regions_by_flooding(label: NDArray[np.bool_]) -> list[set[tuple[int, int]]]:
    """8-connected regions, pixel by pixel."""
    left = {(int(row), int(column)) for row, column in np.argwhere(label)}
    regions = []
    while left:
        region, border = set(), [min(left)]
        while border:
            row, column = border.pop()
            if (row, column) in left:
                left.remove((row, column))
                region.add((row, column))
                border += [(row + y, column + x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        regions.append(region)
    return regions


def naive_aupro(score: NDArray[np.float64], label: NDArray[np.bool_], limit: float) -> float:
    regions = regions_by_flooding(label)
    rates, overlaps = [0.0], [0.0]
    for threshold in np.unique(score)[::-1]:
        called = score >= threshold
        rates.append(float(np.mean(called[~label])))
        overlaps.append(float(np.mean([np.mean([called[pixel] for pixel in region]) for region in regions])))
    area = 0.0
    for place in range(1, len(rates)):
        low, high = rates[place - 1], rates[place]
        end = min(high, limit)
        if end > low:
            share = (end - low) / (high - low)
            last = overlaps[place - 1] + share * (overlaps[place] - overlaps[place - 1])
            area += (end - low) * (overlaps[place - 1] + last) / 2
    return area / limit


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    density=st.floats(0.05, 0.6),
    levels=st.sampled_from([2, 6, 1000]),
    limit=st.sampled_from([0.05, 0.3, 1.0]),
    seed=st.integers(0, 10_000),
)
def test_naive_twins(height: int, width: int, density: float, levels: int, limit: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    label = random.random((height, width)) < density
    score = np.floor(levels * random.random((height, width))) + levels / 3 * label
    called = score > levels / 2
    got = region_overlap(called, label)
    regions = regions_by_flooding(label)
    expected = [np.mean([called[pixel] for pixel in region]) for region in regions]
    np.testing.assert_allclose(np.sort(got.shares), np.sort(expected))
    assert sorted(got.sizes) == sorted(len(region) for region in regions)
    area = aupro(score, label, limit)
    if regions and not label.all():
        assert got.mean == pytest.approx(np.mean(expected))
        assert 0.0 <= area <= 1.0 + 1e-12
        assert area == pytest.approx(naive_aupro(score, label, limit), abs=1e-12)
    else:
        assert np.isnan(area)


def test_small_regions_count_as_much_as_large_ones() -> None:
    label = np.zeros((20, 20), dtype=bool)
    label[:10, :10] = True
    label[15, 15] = True
    label[16, 16] = True  # touches at a corner: one region
    called = label.copy()
    called[15, 15] = False
    got = region_overlap(called, label)
    assert got.sizes.tolist() == [100, 2]
    assert got.covered.tolist() == [100, 1]
    assert got.mean == 0.75


def test_perfect_and_useless_scores() -> None:
    label = np.zeros((10, 10), dtype=bool)
    label[2:4, 2:5] = True
    assert aupro(label.astype(float), label) == pytest.approx(1.0)
    assert aupro(-label.astype(float), label) == 0.0
    assert aupro(np.zeros((10, 10)), label, 1.0) == pytest.approx(0.5)


def test_tiles_of_a_stack_do_not_touch() -> None:
    label = np.zeros((2, 5, 5), dtype=bool)
    label[:, 2, 2] = True
    called = np.zeros_like(label)
    called[0, 2, 2] = True
    assert region_overlap(called, label).covered.tolist() == [1, 0]
    assert aupro(called.astype(float), label, 1.0) == pytest.approx(0.75)


def test_invalid_pixels_do_not_count() -> None:
    label = np.zeros((4, 6), dtype=bool)
    label[1, :3] = True
    label[3, 5] = True
    valid = np.ones_like(label)
    valid[1, 1] = False
    valid[3, 5] = False
    called = np.zeros_like(label)
    called[1, :2] = True
    got = region_overlap(called, label, valid)
    assert (got.sizes.tolist(), got.covered.tolist()) == ([2], [1])
    score = np.where(valid, called.astype(float), np.nan)
    assert aupro(score, label, 1.0) == pytest.approx(0.75)
    nothing = region_overlap(called, np.zeros_like(label))
    assert np.isnan(nothing.mean)
    assert np.isnan(aupro(np.full(label.shape, np.nan), label))


def test_errors() -> None:
    label = np.zeros((4, 4), dtype=bool)
    with pytest.raises(InputError, match=r"map \(4, 5\) and labels \(4, 4\) do not fit"):
        aupro(np.zeros((4, 5)), label)
    with pytest.raises(InputError, match=r"both must be \(H, W\)"):
        region_overlap(label[0], label[0])
    with pytest.raises(InputError, match="labels are int64, not boolean"):
        region_overlap(label, label.astype(np.int64))
    with pytest.raises(InputError, match="called pixels are float64, not boolean"):
        region_overlap(label.astype(float), label)
    with pytest.raises(InputError, match="false-positive limit 30 is outside 0 to 1"):
        aupro(np.zeros((4, 4)), label, 30)


@settings(max_examples=25, deadline=None)
@given(tiles=st.integers(1, 3), density=st.floats(0.05, 0.6), invalid=st.floats(0, 0.5), seed=st.integers(0, 10_000))
def test_tiles_one_by_one_give_the_figure_of_the_stack(tiles: int, density: float, invalid: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    label = random.random((tiles, 9, 11)) < density
    score = random.integers(0, 40, label.shape).astype(np.float32)  # bins tell small whole numbers apart
    score[random.random(label.shape) < invalid] = np.nan
    histogram = OverlapHistogram()
    for own, truth in zip(score, label, strict=True):
        histogram.add(own, truth)
    for limit in (0.1, 0.3, 1.0):
        assert histogram.aupro(limit) == pytest.approx(aupro(score, label, limit), abs=1e-9, nan_ok=True)


def test_a_histogram_without_regions_or_without_normal_pixels_has_no_figure() -> None:
    histogram = OverlapHistogram()
    histogram.add(np.ones((2, 2)), np.zeros((2, 2), bool))
    assert np.isnan(histogram.aupro())
    histogram = OverlapHistogram()
    histogram.add(np.ones((2, 2)), np.ones((2, 2), bool))
    assert np.isnan(histogram.aupro())
    with pytest.raises(InputError, match="do not fit"):
        histogram.add(np.ones((2, 3)), np.ones((2, 2), bool))
