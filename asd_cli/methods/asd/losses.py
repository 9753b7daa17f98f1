"""The three losses of ASD (AAAI 2023, Eq. 2-5), each a mean over the pixels of a mask.

The paper sums squares over the channels of a pixel and takes the plain reciprocal for the diverse loss; the authors'
program takes the mean over pixels *and* channels and adds 1e-3 to the denominator. Both are here as `form`. The
default is
``"published"``: its weights do not change with the number of bands or descriptors, and its diverse loss is bounded
when the two descriptor maps coincide, where the paper's is infinite.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

LossForm = Literal["published", "paper"]
LOSS_FORMS: tuple[LossForm, ...] = ("published", "paper")


def squared_distance(descriptors: Tensor, center: Tensor) -> Tensor:
    """(B, L, H, W), (L,) -> (B, H, W): squared distance of each descriptor from the centre."""
    return (descriptors - center.view(1, -1, 1, 1)).square().sum(dim=1)


def compact_loss(descriptors: Tensor, center: Tensor, radius: Tensor, mask: Tensor, *, weight: float = 10.0) -> Tensor:
    """L1 = R^2 + lambda * mean(max(|F - C|^2 - R^2, 0)) over the mask (Eq. 2); `weight` is lambda."""
    excess = (squared_distance(descriptors, center) - radius.square()).clamp_min(0)
    return radius.square() + weight * _masked_mean(excess, mask)


def diverse_loss(descriptors: Tensor, transformed: Tensor, mask: Tensor, *, form: LossForm = "published") -> Tensor:
    """L2 = 1 / mean |D - D^T|^2 over the mask (Eq. 3): descriptors of virtual anomalies must differ."""
    squares = (descriptors - transformed).square()
    if form == "paper":
        return 1.0 / _masked_mean(squares.sum(dim=1), mask)
    return 1.0 / (_masked_mean(squares.mean(dim=1), mask) + 1e-3)


def feature_rich_loss(x: Tensor, reconstruction: Tensor, mask: Tensor, *, form: LossForm = "published") -> Tensor:
    """L3 = mean |X - X'|^2 over the mask (Eq. 4): descriptors must tell the pixel."""
    squares = (x - reconstruction).square()
    return _masked_mean(squares.sum(dim=1) if form == "paper" else squares.mean(dim=1), mask)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return values[mask].mean()
