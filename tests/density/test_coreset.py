"""The greedy k-centre choice against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from asd_cli.density.coreset import greedy_coreset


def naive(rows: np.ndarray, size: int) -> list[int]:
    chosen = [0]
    while len(chosen) < size:
        gaps = np.linalg.norm(rows[:, None] - rows[chosen][None], axis=2).min(axis=1)
        chosen.append(int(gaps.argmax()))
    return chosen


def test_each_row_is_the_farthest_from_those_before() -> None:
    rows = np.random.default_rng(0).normal(100, 1, (300, 6)).astype(np.float32)
    assert greedy_coreset(rows, 40, 0).tolist() == naive(rows.astype(np.float64), 40)


def test_a_projection_covers_nearly_as_well() -> None:
    rows = np.random.default_rng(0).normal(size=(400, 500)).astype(np.float32)
    rows[:, :5] *= 30

    def reach(chosen: list[int]) -> float:
        return float(np.linalg.norm(rows[:, None] - rows[chosen][None], axis=2).min(axis=1).max())

    found = greedy_coreset(rows, 30, 1)
    assert found.tolist() == greedy_coreset(rows, 30, 1).tolist() != greedy_coreset(rows, 30, 2).tolist()
    assert reach(found.tolist()) < 1.2 * reach(naive(rows, 30))
    assert reach(found.tolist()) < 0.9 * reach(list(range(30)))


@pytest.mark.parametrize("wide", [3, 200])
def test_rows_that_are_alike_are_taken_once(wide: int) -> None:
    rows = np.repeat(np.random.default_rng(0).normal(5, 1, (7, wide)).astype(np.float32), 9, axis=0)
    found = greedy_coreset(rows, 40, 0)
    assert sorted(found // 9) == list(range(7))


@pytest.mark.parametrize("count", [1, 4])
def test_no_more_than_there_are(count: int) -> None:
    rows = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)
    assert sorted(greedy_coreset(rows, 10, 0)) == list(range(count))
    assert greedy_coreset(np.ones((5, 3), np.float32), 10, 0).tolist() == [0]
