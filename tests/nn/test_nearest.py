"""The distance from the nearest remembered surroundings against a naive twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asd_cli.nn.nearest import Nearest
from asd_cli.nn.onnx_graph import OnnxGraph


def made(length: int, count: int = 30, offset: float = 0.0) -> tuple[Nearest, np.ndarray]:
    random = np.random.default_rng(length)
    rows = random.normal(offset, random.uniform(0.1, 2, length), (count, length)).astype(np.float32)
    nearest = Nearest(count, length)
    nearest.remember(rows)
    return nearest, rows


def naive(x: np.ndarray, rows: np.ndarray, row: int, col: int) -> float:
    """Distance at a pixel of x: bilinear between the middles of the four cells around, from the top left on."""
    deviation = rows.std(axis=0, dtype=np.float64)

    def cell(i: int, j: int) -> float:
        mean = x[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean(axis=(1, 2), dtype=np.float64)
        return float(np.sqrt((((mean - rows) / deviation) ** 2).sum(axis=1)).min())

    (i, down), (j, right) = (divmod((place - 1.5) / 4, 1) for place in (row, col))
    i, j = int(i), int(j)
    upper = (1 - right) * cell(i, j) + right * cell(i, j + 1)
    lower = (1 - right) * cell(i + 1, j) + right * cell(i + 1, j + 1)
    return (1 - down) * upper + down * lower


@pytest.mark.parametrize("offset", [0.0, 5.0])
@pytest.mark.parametrize("length", [1, 7, 40])
def test_it_is_the_least_distance_in_standard_deviations(length: int, offset: float) -> None:
    nearest, rows = made(length, offset=offset)
    x = np.random.default_rng(0).normal(offset, 1, (length, 16 + 20, 16 + 24)).astype(np.float32)
    found = nearest(torch.from_numpy(x)[None])[0, 0].numpy()
    assert found.shape == (20, 24)
    for row, col in [(0, 0), (19, 23), (7, 13), (10, 2), (5, 22)]:
        assert found[row, col] == pytest.approx(naive(x, rows, row + 8, col + 8), rel=1e-4)


def test_remembered_surroundings_are_no_distance_away() -> None:
    nearest, rows = made(3)
    x = torch.from_numpy(rows[7]).view(1, 3, 1, 1).expand(1, 3, 24, 24)
    assert float(nearest(x).abs().max()) < 1e-5


def test_small_distances_keep_their_digits_among_many_numbers_far_out() -> None:
    random = np.random.default_rng(3)
    common = random.normal(0, 1, (200, 1))
    rows = (common + random.normal(0, 0.01, (200, 60))).astype(np.float32)
    nearest = Nearest(200, 60)
    nearest.remember(rows)
    x = np.repeat(np.repeat(rows[:36].T.reshape(60, 6, 6) + np.float32(0.003), 4, axis=1), 4, axis=2)[None]
    found = nearest(torch.from_numpy(x))[0, 0]
    exact = nearest.double()(torch.from_numpy(x).double())[0, 0]
    np.testing.assert_allclose(found.numpy(), exact.numpy(), rtol=2e-4)


@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (18, 33), (32, 23)])
def test_any_size_and_the_same_in_every_piece_on_the_grid(shape: tuple[int, int]) -> None:
    nearest, _ = made(5)
    height, width = shape
    whole = torch.from_numpy(np.random.default_rng(1).normal(0, 1, (1, 5, 56, 56)).astype(np.float32))
    found = nearest(whole[..., 4 : 4 + height + 16, : width + 16])
    assert found.shape == (1, 1, height, width)
    torch.testing.assert_close(found, nearest(whole)[..., 4 : 4 + height, :width], rtol=1e-5, atol=1e-6)


def test_as_nodes() -> None:
    nearest, _ = made(6)
    x = np.random.default_rng(2).normal(0, 1, (2, 6, 16 + 21, 16 + 16)).astype(np.float32)
    graph = OnnxGraph()
    found = graph.session(nearest.add_to(graph, "x"), x.shape).run(None, {"x": x})[0]
    np.testing.assert_allclose(found, nearest(torch.from_numpy(x)).numpy(), rtol=1e-5, atol=1e-6)


def test_fewer_rows_are_repeated_and_a_number_that_never_varies_is_no_infinite_distance() -> None:
    nearest = Nearest(8, 2)
    nearest.remember(np.array([[0, 3], [1, 3], [2, 3]], np.float32))
    assert nearest.rows[:, 0].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    away = nearest(torch.tensor([1.0, 3.001]).view(1, 2, 1, 1).expand(1, 2, 20, 20))
    assert float(away[0, 0, 0, 0]) == pytest.approx(10.0, rel=1e-3)
