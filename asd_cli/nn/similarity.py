"""How much two images differ, window by window: gradient magnitudes and SSIM. Nothing is padded."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

GRADIENT_WINDOW, SSIM_WINDOW = 3, 11
_GRADIENT_FLOOR = (
    0.0026 * 4
)  # of images in [0, 1] it is 0.0026; here the range is [-1, 1], and this goes with its square
_LUMINANCE_FLOOR, _CONTRAST_FLOOR = (0.01 * 2) ** 2, (0.03 * 2) ** 2
_STEEP = 1e-12  # keeps the slope of the square root finite where there is no gradient


def gradient_magnitude(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, h - 2, w - 2): by Prewitt's filters, 3 x 3."""
    rows = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
    cols = x[..., :-2] + x[..., 1:-1] + x[..., 2:]
    across = (rows[..., 2:] - rows[..., :-2]) / 3
    down = (cols[..., 2:, :] - cols[..., :-2, :]) / 3
    return torch.sqrt(across.square() + down.square() + _STEEP)


def gradient_difference(x: Tensor, y: Tensor) -> Tensor:
    """(B, C, h, w) on [-1, 1], twice -> (B, h - 2, w - 2) in [0, 1]: 1 - GMS, the mean over bands (Xue et al., 2014).

    ``1 - (2 a b + c) / (a^2 + b^2 + c)`` is written as ``(a - b)^2 / (a^2 + b^2 + c)``, which does not cancel.
    """
    a, b = gradient_magnitude(x), gradient_magnitude(y)
    return ((a - b).square() / (a.square() + b.square() + _GRADIENT_FLOOR)).mean(dim=1)


def ssim_difference(x: Tensor, y: Tensor) -> Tensor:
    """(B, C, h, w) on [-1, 1], twice -> (B, h - 10, w - 10) in [0, 2]: 1 - SSIM, 11 x 11 px (Wang et al., 2004)."""

    def mean(values: Tensor) -> Tensor:
        return avg_pool2d(values, SSIM_WINDOW, stride=1)

    mx, my = mean(x), mean(y)
    vx, vy = (mean(x.square()) - mx.square()).clamp_min(0), (mean(y.square()) - my.square()).clamp_min(0)
    covariance = mean(x * y) - mx * my
    light = (2 * mx * my + _LUMINANCE_FLOOR) / (mx.square() + my.square() + _LUMINANCE_FLOOR)
    structure = (2 * covariance + _CONTRAST_FLOOR) / (vx + vy + _CONTRAST_FLOOR)
    return (1 - light * structure).mean(dim=1)
