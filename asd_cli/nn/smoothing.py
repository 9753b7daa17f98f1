"""Smoothing of maps with a Gaussian, for torch and as nodes of ONNX."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from asd_cli.nn.devices import Constant

if TYPE_CHECKING:
    from asd_cli.nn.onnx_graph import OnnxGraph

_REACH = 2.0  # in standard deviations: 95 % of the weight along each axis


class GaussianSmoothing:
    """A separable Gaussian of `sigma` px, cut off at two of them, on each of `channels` maps; 0 leaves them alone.

    `margin` px are consumed on each side: as far as it reaches, rounded up to a multiple of `spacing`.
    """

    align = 1

    def __init__(self, sigma: float, *, spacing: int = 1, channels: int = 1) -> None:
        reach = math.ceil(_REACH * sigma)
        self.margin = -(-reach // spacing) * spacing
        self._spare = self.margin - reach
        places = np.arange(-reach, reach + 1)
        with np.errstate(over="ignore"):  # of a sigma near 0
            weights = np.exp(-0.5 * (places / sigma) ** 2) if sigma else np.ones(1)
        each = (weights / weights.sum()).astype(np.float32)
        self.channels, self._weights = channels, Constant(np.tile(each, (channels, 1, 1, 1)))

    def __call__(self, x: Tensor) -> Tensor:
        """(B, channels, H + 2 margin, W + 2 margin) -> (B, channels, H, W)."""
        if not self.margin:
            return x
        x, weights = F.pad(x, (-self._spare,) * 4), self._weights.like(x)
        return F.conv2d(F.conv2d(x, weights.mT, groups=self.channels), weights, groups=self.channels)

    def add_to(self, graph: OnnxGraph, x: str) -> str:
        """The same as nodes."""
        if not self.margin:
            return x
        x, weights = graph.trim(x, self._spare, self._spare), self._weights.values
        down = graph.add("Conv", x, graph.constant(weights.swapaxes(2, 3)), group=self.channels)
        return graph.add("Conv", down, graph.constant(weights), group=self.channels)
