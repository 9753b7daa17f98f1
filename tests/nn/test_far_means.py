"""Means far around each pixel against a naive twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asd_cli.nn.far_means import FarMeans
from asd_cli.nn.onnx_graph import OnnxGraph


def naive(x: np.ndarray, cells: int, row: int, col: int) -> float:
    """At a pixel of one band: bilinear between the middles of the four cells around, from the top left on."""

    def mean(i: int, j: int) -> float:
        """Of a cell: the mean over a square of cells of means over squares of cells."""
        total = 0.0
        half = cells // 2
        for a in range(i - 2 * half, i + 2 * half + 1):
            for b in range(j - 2 * half, j + 2 * half + 1):
                weight = (cells - abs(a - i)) * (cells - abs(b - j)) / cells**4
                total += weight * x[8 * a : 8 * a + 8, 8 * b : 8 * b + 8].mean(dtype=np.float64)
        return total

    (i, down), (j, right) = (divmod((place - 3.5) / 8, 1) for place in (row, col))
    i, j = int(i), int(j)
    upper = (1 - right) * mean(i, j) + right * mean(i, j + 1)
    lower = (1 - right) * mean(i + 1, j) + right * mean(i + 1, j + 1)
    return (1 - down) * upper + down * lower


@pytest.mark.parametrize("side", [8, 24, 72])
def test_it_is_the_mean_of_means(side: int) -> None:
    far, random = FarMeans(side), np.random.default_rng(side)
    m = far.margin
    x = random.normal(3, 1, (2, 20 + 2 * m, 28 + 2 * m)).astype(np.float32)
    found = far(torch.from_numpy(x)[None])[0].numpy()
    assert found.shape == (2, 20, 28)
    for row, col in [(0, 0), (19, 27), (7, 13), (10, 2)]:
        for band in range(2):
            assert found[band, row, col] == pytest.approx(naive(x[band], side // 8, row + m, col + m), rel=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (18, 33), (32, 23)])
def test_any_size_and_the_same_in_every_piece_on_the_grid(shape: tuple[int, int]) -> None:
    far, (height, width) = FarMeans(24), shape
    m = far.margin
    whole = torch.from_numpy(np.random.default_rng(1).normal(0, 1, (1, 3, 48 + 2 * m, 48 + 2 * m)).astype(np.float32))
    found = far(whole[..., 8 : 8 + height + 2 * m, : width + 2 * m])
    assert found.shape == (1, 3, height, width)
    torch.testing.assert_close(found, far(whole)[..., 8 : 8 + height, :width], rtol=1e-5, atol=1e-6)


def test_as_nodes() -> None:
    far = FarMeans(40)
    m = far.margin
    x = np.random.default_rng(2).normal(0, 1, (2, 4, 21 + 2 * m, 16 + 2 * m)).astype(np.float32)
    graph = OnnxGraph()
    found = graph.session(far.add_to(graph, "x"), x.shape).run(None, {"x": x})[0]
    np.testing.assert_allclose(found, far(torch.from_numpy(x)).numpy(), rtol=1e-5, atol=1e-6)
