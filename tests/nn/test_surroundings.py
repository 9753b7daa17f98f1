"""Surroundings: what they are made of, and where they are the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from asd_cli.nn.far_means import FarMeans
from asd_cli.nn.onnx_graph import OnnxGraph
from asd_cli.nn.surroundings import Surroundings
from asd_cli.nn.texture import Texture


def pixels(around: Surroundings, bands: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    shape = (bands, height + 2 * around.margin, width + 2 * around.margin)
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)


@pytest.mark.parametrize("side", [0, 9])
@pytest.mark.parametrize("far", [0, 24])
@pytest.mark.parametrize("blur", [0.7, 2.0])
def test_each_part_follows_the_one_before(side: int, far: int, blur: float) -> None:
    around = Surroundings(3, side, blur=blur, far=far)
    m, x = around.margin, pixels(around, 3, 16, 24)
    found = around(torch.from_numpy(x)[None])[0].numpy()
    assert found.shape == (around.channels, 16, 24)
    radius = int(np.ceil(2 * blur))
    for band in range(3):
        expected = gaussian_filter(x[band].astype(np.float64), blur, radius=radius)[m:-m, m:-m]
        np.testing.assert_allclose(found[band], expected, rtol=1e-4, atol=1e-6)
    rest = found[3:]
    for part in [*([FarMeans(far)] if far else []), *([Texture(3, side)] if side else [])]:
        spare = m - part.margin
        inner = x[:, spare : x.shape[1] - spare, spare : x.shape[2] - spare]
        expected = part(torch.from_numpy(inner)[None])[0].numpy()
        np.testing.assert_allclose(rest[: len(expected)], expected, rtol=1e-5, atol=1e-6)
        rest = rest[len(expected) :]
    assert not len(rest)


@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (40, 33)])
def test_any_size_and_the_same_in_every_piece_on_the_grid(shape: tuple[int, int]) -> None:
    around, (height, width) = Surroundings(2, 21, blur=1.0, far=40), shape
    m = around.margin
    whole = torch.from_numpy(pixels(around, 2, 48, 48, seed=1))[None]
    found = around(whole[..., 8 : 8 + height + 2 * m, : width + 2 * m])
    assert found.shape == (1, 8, height, width)
    torch.testing.assert_close(found, around(whole)[..., 8 : 8 + height, :width], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("side", "far"), [(9, 24), (9, 0), (0, 24), (0, 0)])
def test_as_nodes(side: int, far: int) -> None:
    around = Surroundings(5, side, blur=1.0, far=far)
    x = np.stack([pixels(around, 5, 21, 16, seed=seed) for seed in (2, 3)])
    graph = OnnxGraph()
    session = graph.session(around.add_to(graph, "x"), x.shape)
    expected = around(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-5, atol=1e-6)


def test_without_anything_around_the_bands_stay_alone() -> None:
    around, x = Surroundings(3, 0), torch.rand(1, 3, 4, 5)
    assert (around.channels, around.margin, around.align) == (3, 0, 1)
    assert torch.equal(around(x), x)
