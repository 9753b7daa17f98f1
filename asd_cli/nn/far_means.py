"""Means of bands far around each pixel, for torch and as nodes of ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from asd_cli.nn.onnx_graph import OnnxGraph

CELL = 8
"""Side in pixels of the cells that are averaged first."""


class FarMeans:
    """The mean over squares of `side` px around, an odd number of cells of 8 x 8 px, taken twice: weights that fall
    evenly from the middle, to 0 at `side` px; bilinear between the middles of cells.

    `margin` px are consumed on each side; shifts by multiples of `align` px change nothing.
    """

    align = CELL

    def __init__(self, side: int) -> None:
        self._cells = side // CELL
        # the squares reach half of their cells each, and interpolation one; another may be cut at the end
        self.margin = CELL * (self._cells + 1)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, bands, H + 2 margin, W + 2 margin) -> (B, bands, H, W)."""
        height, width = (n - 2 * self.margin for n in x.shape[-2:])
        means = F.avg_pool2d(x, CELL)
        for kernel in [(1, self._cells), (self._cells, 1)] * 2:
            means = F.avg_pool2d(means, kernel, 1)
        fine = F.interpolate(means, scale_factor=CELL, mode="bilinear", align_corners=False)
        return fine[..., 2 * CELL : 2 * CELL + height, 2 * CELL : 2 * CELL + width]

    def add_to(self, graph: OnnxGraph, x: str) -> str:
        """The same as nodes."""
        size = graph.inner_size(x, self.margin)
        means = graph.add("AveragePool", x, kernel_shape=[CELL] * 2, strides=[CELL] * 2)
        for kernel in [(1, self._cells), (self._cells, 1)] * 2:
            means = graph.add("AveragePool", means, kernel_shape=kernel)
        return graph.crop(graph.trim(graph.interpolate(means, CELL), 2 * CELL), size)
