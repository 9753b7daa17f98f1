"""How rough an image is around each pixel, at four scales; for torch and as nodes of ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from asd_cli.nn.devices import Constant

if TYPE_CHECKING:
    from asd_cli.nn.onnx_graph import OnnxGraph

_FACTORS = (1, 2, 4, 8)
_COARSEST = _FACTORS[-1]
_HALF = 0.05
"""Squared gradient of an image on [-1, 1] that counts half; the largest is 4 along one axis."""


class Texture:
    """How rough the mean of the bands is within `side` x `side` px (odd): one number a scale.

    At 1, 1/2, 1/4 and 1/8 of the size, the squared gradient g (Prewitt's filters, 3 x 3) becomes g / (g + 0.05),
    below 1 however sharp an edge is; then the mean over the square.

    `margin` px are consumed on each side; shifts by multiples of `align` px change nothing.
    """

    channels, align = len(_FACTORS), _COARSEST

    def __init__(self, bands: int, side: int) -> None:
        self._side = side
        # half the square, the cell of the coarsest scale that is cut there, and its neighbour
        self.margin = -(-(side // 2 + 2 * _COARSEST - 1) // _COARSEST) * _COARSEST
        prewitt = np.array([[-1, 0, 1]] * 3, np.float32) / np.float32(3)
        self._mean: NDArray[np.float32] = np.full((1, bands, 1, 1), 1 / bands, np.float32)
        self._filters = Constant(np.stack([prewitt, prewitt.T])[:, None])

    def __call__(self, x: Tensor) -> Tensor:
        """(B, bands, H + 2 margin, W + 2 margin) on about [-1, 1] -> (B, 4, H, W)."""
        size = [n - 2 * self.margin + 2 * (self._side // 2) for n in x.shape[-2:]]
        mean, filters = x.mean(dim=1, keepdim=True), self._filters.like(x)
        rough = []
        for factor in _FACTORS:
            squared = F.conv2d(F.avg_pool2d(mean, factor), filters).square().sum(dim=1, keepdim=True)
            fine = F.interpolate(squared / (squared + _HALF), scale_factor=factor, mode="nearest")
            first = self._first(factor)
            rough.append(fine[..., first : first + size[0], first : first + size[1]])
        return F.avg_pool2d(F.avg_pool2d(torch.cat(rough, dim=1), (1, self._side), 1), (self._side, 1), 1)

    def add_to(self, graph: OnnxGraph, x: str) -> str:
        """The same as nodes."""
        size = graph.inner_size(x, self.margin - self._side // 2)
        mean = graph.add("Conv", x, graph.constant(self._mean))  # faster than ReduceMean, 30 times with 200 bands
        filters, half, axis = graph.constant(self._filters.values), graph.constant(_HALF), graph.constant([1], np.int64)
        rough = []
        for factor in _FACTORS:
            cells = mean
            if factor > 1:
                cells = graph.add("AveragePool", mean, kernel_shape=[factor] * 2, strides=[factor] * 2)
            squared = graph.add("ReduceSumSquare", graph.add("Conv", cells, filters), axis, keepdims=1)
            share = graph.add("Div", squared, graph.add("Add", squared, half))
            fine = graph.enlarge(share, factor) if factor > 1 else share
            rough.append(graph.crop(graph.trim(fine, self._first(factor)), size))
        means = graph.add("Concat", *rough, axis=1)
        for shape in ([1, self._side], [self._side, 1]):
            means = graph.add("AveragePool", means, kernel_shape=shape)
        return means

    def _first(self, factor: int) -> int:
        """Where the first square begins in what the gradient has left of a scale, in pixels: it takes a cell away."""
        return self.margin - self._side // 2 - factor
