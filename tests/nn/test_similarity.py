"""Gradient and structural similarity against their definitions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from asd_cli.nn.similarity import gradient_difference, gradient_magnitude, ssim_difference


def pair(seed: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(shape, generator=generator, dtype=torch.double) - 1
    return x, (x + 0.3 * torch.randn(shape, generator=generator, dtype=torch.double)).clamp(-1, 1)


def prewitt(x: torch.Tensor) -> torch.Tensor:
    kernel = torch.tensor([[-1, 0, 1]] * 3, dtype=torch.double) / 3
    weights = torch.stack([kernel, kernel.T])[:, None]
    out = F.conv2d(x.flatten(0, 1)[:, None], weights).square().sum(dim=1).sqrt()
    return out.view(*x.shape[:2], *out.shape[1:])


def test_magnitude_is_that_of_prewitt_filters() -> None:
    x, _ = pair(0, 2, 3, 9, 11)
    torch.testing.assert_close(gradient_magnitude(x), prewitt(x), rtol=0, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), bands=st.integers(1, 4))
def test_gradient_difference_is_one_minus_the_similarity(seed: int, bands: int) -> None:
    x, y = pair(seed, 1, bands, 8, 7)
    a, b, c = prewitt(x), prewitt(y), 0.0026 * 4
    expected = (1 - (2 * a * b + c) / (a * a + b * b + c)).mean(dim=1)
    torch.testing.assert_close(gradient_difference(x, y), expected, rtol=1e-4, atol=1e-6)


def test_an_image_differs_from_itself_by_nothing_and_a_flat_one_has_a_finite_gradient() -> None:
    x, _ = pair(1, 1, 2, 16, 16)
    assert not gradient_difference(x, x).any()
    assert ssim_difference(x, x).abs().max() < 1e-9
    flat = torch.zeros(1, 1, 16, 16, requires_grad=True)
    (gradient_difference(flat, x[:, :1].float()).sum() + ssim_difference(flat, x[:, :1].float()).sum()).backward()
    assert flat.grad.isfinite().all()


def test_ssim_window_by_window() -> None:
    x, y = pair(2, 1, 2, 13, 12)
    found = ssim_difference(x, y)[0].numpy()
    assert found.shape == (3, 2)
    c1, c2 = 0.02**2, 0.06**2
    for i in range(3):
        for j in range(2):
            values = []
            for band in range(2):
                u, v = (t[0, band, i : i + 11, j : j + 11].numpy() for t in (x, y))
                covariance = ((u - u.mean()) * (v - v.mean())).mean()
                light = (2 * u.mean() * v.mean() + c1) / (u.mean() ** 2 + v.mean() ** 2 + c1)
                values.append(1 - light * (2 * covariance + c2) / (u.var() + v.var() + c2))
            assert found[i, j] == pytest.approx(np.mean(values), rel=1e-9)
