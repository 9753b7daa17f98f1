"""Means over the pixels of a mask, and of windows that lie in it."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values where the mask, of the same shape, is True; 0 (with gradient 0) where it is nowhere."""
    picked = values[mask]
    return picked.sum() / max(picked.numel(), 1)


def inside(mask: Tensor, window: int) -> Tensor:
    """(B, h, w) bool -> (B, h - window + 1, w - window + 1): windows, by their first pixel, without a False pixel."""
    if min(mask.shape[-2:]) < window:
        return mask[..., :0, :0]
    outside = torch.nn.functional.max_pool2d((~mask)[:, None].float(), window, stride=1)
    return outside[:, 0] == 0


def whole_cells(mask: Tensor, cell: int) -> Tensor:
    """(B, h, w) bool -> (B, h // cell, w // cell): cells without a False pixel."""
    return inside(mask, cell)[..., ::cell, ::cell]
