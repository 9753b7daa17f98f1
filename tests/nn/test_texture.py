"""Texture against a naive twin, and where it is the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asd_cli.nn.onnx_graph import OnnxGraph
from asd_cli.nn.texture import Texture


def naive(image: np.ndarray, side: int, row: int, col: int, factor: int) -> float:
    """Mean over the square around a pixel of g / (g + 0.05) at one scale, pixel by pixel."""
    mean = image.mean(axis=0, dtype=np.float64)
    cells = mean.reshape(mean.shape[0] // factor, factor, mean.shape[1] // factor, factor).mean(axis=(1, 3))
    total = 0.0
    for i in range(row - side // 2, row + side // 2 + 1):
        for j in range(col - side // 2, col + side // 2 + 1):
            a, b = i // factor, j // factor
            near = cells[a - 1 : a + 2, b - 1 : b + 2]
            across, down = (near[:, 2] - near[:, 0]).sum() / 3, (near[2] - near[0]).sum() / 3
            total += (across**2 + down**2) / (across**2 + down**2 + 0.05)
    return total / side**2


@pytest.mark.parametrize("side", [1, 5, 21])
def test_it_is_the_mean_roughness_of_a_square(side: int) -> None:
    texture, random = Texture(3, side), np.random.default_rng(0)
    m = texture.margin
    x = random.normal(0, 0.5, (3, 32 + 2 * m, 24 + 2 * m)).astype(np.float32)
    found = texture(torch.from_numpy(x)[None])[0].numpy()
    assert found.shape == (4, 32, 24)
    for row, col in [(0, 0), (31, 23), (13, 7), (16, 8)]:
        for place, factor in enumerate((1, 2, 4, 8)):
            assert found[place, row, col] == pytest.approx(naive(x, side, row + m, col + m, factor), rel=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (40, 33)])
def test_any_size_and_the_same_in_every_piece_on_the_grid(shape: tuple[int, int]) -> None:
    texture, random = Texture(2, 21), np.random.default_rng(1)
    m, (height, width) = texture.margin, shape
    whole = torch.from_numpy(random.normal(0, 1, (1, 2, 48 + 2 * m, 48 + 2 * m)).astype(np.float32))
    found = texture(whole[..., 8 : 8 + height + 2 * m, : width + 2 * m])
    assert found.shape == (1, 4, height, width)
    torch.testing.assert_close(found, texture(whole)[..., 8 : 8 + height, :width], rtol=1e-5, atol=1e-6)


def test_as_nodes() -> None:
    texture, random = Texture(5, 9), np.random.default_rng(2)
    m = texture.margin
    x = random.normal(0, 1, (2, 5, 21 + 2 * m, 16 + 2 * m)).astype(np.float32)
    graph = OnnxGraph()
    session = graph.session(texture.add_to(graph, "x"), x.shape)
    expected = texture(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-5, atol=1e-6)
