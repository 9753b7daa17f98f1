"""Surroundings against a naive twin, and where it is the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from asd_cli.nn.onnx_graph import OnnxGraph
from asd_cli.nn.surroundings import Surroundings


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
    around, random = Surroundings(3, side), np.random.default_rng(0)
    x = random.normal(0, 0.5, (3, 32 + 2 * around.margin, 24 + 2 * around.margin)).astype(np.float32)
    found = around(torch.from_numpy(x)[None])[0].numpy()
    m = around.margin
    assert found.shape == (7, 32, 24)
    np.testing.assert_array_equal(found[:3], x[:, m:-m, m:-m])
    for row, col in [(0, 0), (31, 23), (13, 7), (16, 8)]:
        for place, factor in enumerate((1, 2, 4, 8)):
            assert found[3 + place, row, col] == pytest.approx(naive(x, side, row + m, col + m, factor), rel=1e-4)


@pytest.mark.parametrize("side", [0, 9])
@pytest.mark.parametrize("blur", [0.7, 2.0])
def test_each_band_is_smoothed_apart(side: int, blur: float) -> None:
    around, random = Surroundings(3, side, blur=blur), np.random.default_rng(4)
    m = around.margin
    x = random.normal(0, 0.5, (3, 16 + 2 * m, 24 + 2 * m)).astype(np.float32)
    found = around(torch.from_numpy(x)[None])[0].numpy()
    assert found.shape == (3 + (4 if side else 0), 16, 24)
    radius = int(np.ceil(2 * blur))
    for band in range(3):
        expected = gaussian_filter(x[band].astype(np.float64), blur, radius=radius)[m:-m, m:-m]
        np.testing.assert_allclose(found[band], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (40, 33)])
def test_any_size_and_the_same_in_every_piece_on_the_grid(shape: tuple[int, int]) -> None:
    around, random = Surroundings(2, 21), np.random.default_rng(1)
    m, (height, width) = around.margin, shape
    whole = torch.from_numpy(random.normal(0, 1, (1, 2, 48 + 2 * m, 48 + 2 * m)).astype(np.float32))
    piece = whole[..., 8 : 8 + height + 2 * m, : width + 2 * m]
    found = around(piece)
    assert found.shape == (1, 6, height, width)
    torch.testing.assert_close(found, around(whole)[..., 8 : 8 + height, :width], rtol=1e-5, atol=1e-6)


def test_as_nodes() -> None:
    around, random = Surroundings(5, 9), np.random.default_rng(2)
    x = random.normal(0, 1, (2, 5, 21 + 2 * around.margin, 16 + 2 * around.margin)).astype(np.float32)
    graph = OnnxGraph()
    session = graph.session(around.add_to(graph, "x"), x.shape)
    expected = around(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-5, atol=1e-6)


def test_a_side_of_0_leaves_the_bands_alone() -> None:
    around, x = Surroundings(3, 0), torch.rand(1, 3, 4, 5)
    assert (around.channels, around.margin, around.align) == (3, 0, 1)
    assert torch.equal(around(x), x)
