"""The folded encoder in half precision, for GPUs."""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from asd_cli.methods.asd.folded import FoldedEncoder
from asd_cli.nn.fused import HiddenWeights, fused_hidden_layer
from asd_cli.nn.pyramid import Cut, PatchNetwork


class HalfScorer:
    """Raw pixels to distances: networks in half precision, the rest in float32.

    Args:
        folded: in float32, on the device that computes; it is copied, and stays there.
        fused: whether the last layers and the norm run as one Triton kernel, else as torch operations.
    """

    def __init__(self, folded: FoldedEncoder, *, fused: bool) -> None:
        self._folded, self._fused = copy.deepcopy(folded), fused
        pyramid = self._folded.pyramid
        order = sorted(range(len(pyramid.exponents)), key=lambda i: pyramid.exponents[i])  # coarse scales first
        self._scales = [(cast(PatchNetwork, pyramid.branches[i]), pyramid.exponents[i]) for i in order]
        self._weights = [HiddenWeights.of(branch.conv3, branch.conv4) for branch, _ in self._scales]
        for branch, _ in self._scales:
            for layer in (branch.conv1, branch.conv2, branch.conv3):
                layer.half()

    def __call__(self, x: Tensor) -> Tensor:
        """(B, bands, H + 2 halo, W + 2 halo) raw float32 -> (B, H, W) float32."""
        halo = self._folded.halo
        height, width = (n - 2 * halo for n in x.shape[-2:])
        x = self._folded.normalise(x).half()
        total = self._folded.offset.movedim(1, -1)
        total = F.pad(total, (0, self._weights[0].last.shape[1] - total.shape[-1]))
        total = total.expand(len(x), height, width, -1)
        for number, ((branch, exponent), weights) in enumerate(zip(self._scales, self._weights, strict=True)):
            cut = Cut.of(branch, exponent, (height, width), halo)
            if exponent < 0:
                shape = (-(-height // cut.factor), -(-width // cut.factor))
                part = self._layers(branch, weights, cut.image(x, exponent), 1, shape, None)
                part = part.repeat_interleave(cut.factor, 1).repeat_interleave(cut.factor, 2)
                total = total + part[:, :height, :width]
            else:
                last = number == len(self._scales) - 1
                image = cut.image(x, exponent)
                total = self._layers(branch, weights, image, cut.factor, (height, width), total, norm=last)
        return total if total.ndim == 3 else torch.linalg.vector_norm(total, dim=-1)

    def _layers(
        self,
        branch: PatchNetwork,
        weights: HiddenWeights,
        image: Tensor,
        stride: int,
        shape: tuple[int, int],
        added: Tensor | None,
        *,
        norm: bool = False,
    ) -> Tensor:
        """One scale: (B, *shape, padded L) plus `added`, or its norm (B, *shape)."""
        x, stride, dilation = branch.pooled(image, stride=stride)
        reach = dilation * (weights.kernel - 1) + 1
        x = x[..., : (shape[0] - 1) * stride + reach, : (shape[1] - 1) * stride + reach]
        if self._fused:
            x = x.contiguous(memory_format=torch.channels_last)
            return fused_hidden_layer(x, weights, stride=stride, dilation=dilation, added=added, norm=norm)
        conv = branch.conv3
        hidden = F.relu_(F.conv2d(x, conv.weight, conv.bias, stride=stride, dilation=dilation))
        total = (hidden.movedim(1, -1).float() @ weights.last.float()) * weights.scale
        total = total if added is None else total + added
        return torch.linalg.vector_norm(total, dim=-1) if norm else total
