"""Distance of what surrounds a pixel from the nearest of remembered surroundings; for torch and as nodes of ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from asd_cli.errors import ModelFileError

if TYPE_CHECKING:
    from asd_cli.nn.onnx_graph import OnnxGraph

_CELL = 4
_LEAST = 1e-4
"""Standard deviation of a number, on the networks' range, below which it counts as this."""
_FARTHEST = 1000.0
"""Numbers on the networks' range are far below."""


class Nearest(nn.Module):
    """The Euclidean distance from the nearest of `count` rows, each of `length` numbers over its standard deviation.

    Rows are of single pixels; what they are compared with is averaged over cells of 4 x 4 px, and the distance is
    bilinear between the middles of cells. `margin` px are consumed on each side; shifts by multiples of `align` px
    change nothing.
    """

    margin, align = 2 * _CELL, _CELL

    def __init__(self, count: int, length: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(count, length))
        self.register_buffer("scale", torch.ones(length))
        self.rows: Tensor
        self.scale: Tensor

    def remember(self, rows: NDArray[np.float32]) -> None:
        """Take rows (n, length), 1 <= n <= `count`; fewer are repeated."""
        deviation = np.maximum(rows.std(axis=0, dtype=np.float64), _LEAST)
        self.scale.copy_(torch.from_numpy(1.0 / deviation))
        self.rows.copy_(torch.from_numpy(np.resize(rows, self.rows.shape)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, length, H + 2 margin, W + 2 margin) -> (B, 1, H, W)."""
        height, width = (n - 2 * self.margin for n in x.shape[-2:])
        rows, middle = self._scaled()
        cells = (F.avg_pool2d(x, _CELL) - middle.view(1, -1, 1, 1)) * self.scale.view(1, -1, 1, 1)
        nearest = F.conv2d(cells, -2 * rows[:, :, None, None], rows.square().sum(dim=1)).argmin(dim=1)
        distance = torch.linalg.vector_norm(cells - rows[nearest].movedim(-1, 1), dim=1, keepdim=True)
        fine = F.interpolate(distance, scale_factor=_CELL, mode="bilinear", align_corners=False)
        return fine[..., self.margin : self.margin + height, self.margin : self.margin + width]

    def add_to(self, graph: OnnxGraph, x: str) -> str:
        """The same as nodes."""
        rows, middle = (part.cpu() for part in self._scaled())
        scale, axis = self.scale.cpu().numpy()[None, :, None, None], graph.constant([1], np.int64)
        size = graph.inner_size(x, self.margin)
        cells = graph.add("AveragePool", x, kernel_shape=[_CELL] * 2, strides=[_CELL] * 2)
        cells = graph.add("Sub", cells, graph.constant(middle.numpy()[None, :, None, None]))
        cells = graph.add("Mul", cells, graph.constant(scale))
        weight, squares = -2 * rows[:, :, None, None].numpy(), rows.square().sum(dim=1).numpy()
        products = graph.add("Conv", cells, graph.constant(weight), graph.constant(squares))
        nearest = graph.add("ArgMin", products, axis=1, keepdims=0)
        found = graph.add("Transpose", graph.add("Gather", graph.constant(rows.numpy()), nearest), perm=[0, 3, 1, 2])
        distance = graph.add("ReduceL2", graph.add("Sub", cells, found), axis, keepdims=1)
        return graph.crop(graph.trim(graph.interpolate(distance, _CELL), self.margin), size)

    def _scaled(self) -> tuple[Tensor, Tensor]:
        """Rows (n, L) from their middle (L,), in standard deviations: |r|^2 - 2 r z, which tells the nearest of them to
        z, cancels fewer digits there."""
        middle = self.rows.mean(dim=0)
        return (self.rows - middle) * self.scale, middle


def check_memory(arrays: Mapping[str, NDArray[Any]], prefix: str) -> None:
    """Refuse arrays of a `Nearest` that cannot be.

    Raises:
        ModelFileError: rows far outside what pixels can be, or a scale that no deviation gives.
    """
    rows, scale = arrays[f"{prefix}.rows"], arrays[f"{prefix}.scale"]
    if not (np.abs(rows) <= _FARTHEST).all():
        raise ModelFileError(f"tensor {prefix}.rows is damaged: what is remembered is outside any image")
    if not ((scale > 0) & (scale <= 1.001 / _LEAST)).all():
        raise ModelFileError(f"tensor {prefix}.scale is damaged: it is not within 0..{1 / _LEAST:g}")
