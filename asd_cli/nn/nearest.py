"""Distance of what surrounds a pixel from the nearest of remembered surroundings; for torch and as nodes of ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    from asd_cli.nn.onnx_graph import OnnxGraph

_CELL = 4
_LEAST = 1e-4
"""Standard deviation of a number, on the networks' range, below which it counts as this."""


class Nearest(nn.Module):
    """The Euclidean distance from the nearest of `count` rows, each of `length` numbers over its standard deviation.

    Descriptors are averaged over cells of 4 x 4 px; the distance is bilinear between the middles of cells. `margin` px
    are consumed on each side; shifts by multiples of `align` px change nothing.
    """

    margin, align = 2 * _CELL, _CELL

    def __init__(self, count: int, length: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(count, length))
        self.register_buffer("scale", torch.ones(length))
        self.rows: Tensor
        self.scale: Tensor

    def remember(self, rows: NDArray[np.float32]) -> None:
        """Take rows (n, length), n >= 1: the first `count`; fewer are repeated."""
        deviation = np.maximum(rows.std(axis=0, dtype=np.float64), _LEAST)
        self.scale.copy_(torch.from_numpy(1.0 / deviation))
        self.rows.copy_(torch.from_numpy(np.resize(rows, self.rows.shape)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, length, H + 2 margin, W + 2 margin) -> (B, 1, H, W)."""
        height, width = (n - 2 * self.margin for n in x.shape[-2:])
        middle, weight, squares = self._products()
        cells = (F.avg_pool2d(x, _CELL) - middle) * self.scale.view(1, -1, 1, 1)
        nearest = F.conv2d(cells, weight, squares).amin(dim=1, keepdim=True)
        distance = (nearest + cells.square().sum(dim=1, keepdim=True)).clamp_min(0).sqrt()
        fine = F.interpolate(distance, scale_factor=_CELL, mode="bilinear", align_corners=False)
        return fine[..., self.margin : self.margin + height, self.margin : self.margin + width]

    def add_to(self, graph: OnnxGraph, x: str) -> str:
        """The same as nodes."""
        middle, weight, squares = (part.cpu().numpy() for part in self._products())
        scale, axis = self.scale.cpu().numpy()[None, :, None, None], graph.constant([1], np.int64)
        size = graph.inner_size(x, self.margin)
        cells = graph.add("AveragePool", x, kernel_shape=[_CELL] * 2, strides=[_CELL] * 2)
        cells = graph.add("Mul", graph.add("Sub", cells, graph.constant(middle)), graph.constant(scale))
        products = graph.add("Conv", cells, graph.constant(weight), graph.constant(squares))
        nearest = graph.add("ReduceMin", products, axis, keepdims=1)
        squared = graph.add("Add", nearest, graph.add("ReduceSumSquare", cells, axis, keepdims=1))
        fine = graph.interpolate(graph.add("Sqrt", graph.add("Relu", squared)), _CELL)
        return graph.crop(graph.trim(fine, self.margin), size)

    def _products(self) -> tuple[Tensor, Tensor, Tensor]:
        """For |z - r|^2 = |z|^2 + (-2 r) z + |r|^2: the rows' middle (1, L, 1, 1), from which z and r count so that
        the sum cancels few digits, the weights (n, L, 1, 1) and the squares (n,)."""
        middle = self.rows.mean(dim=0)
        rows = (self.rows - middle) * self.scale
        return middle.view(1, -1, 1, 1), -2 * rows[:, :, None, None], rows.square().sum(dim=1)
