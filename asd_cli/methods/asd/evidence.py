"""Several signs of an anomaly in one number: how rarely normal pixels show as much, added up.

Source: R. A. Fisher, "Statistical Methods for Research Workers" (1932), combined probabilities: the sum of -log p.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    from asd_cli.nn.onnx_graph import OnnxGraph

_RATES = (1.0, 0.9, 0.75, 0.5, 0.35, 0.2, 0.1, 0.05, 0.02, 0.01)
# Widths of a step below which two knots are one: relative to the whole range, to the values (what float32 tells apart),
# and at all (a sign that is the same for all normal pixels must not turn rounding into infinite evidence).
_OF_RANGE, _OF_VALUES, _LEAST = 1e-6, float(np.finfo(np.float32).eps), 1e-6


class Evidence(nn.Module):
    """Turns `count` values of a pixel into the weighted sum of their -log p, p the share of normal pixels with as much
    or more.

    Each -log p is linear between quantiles of held-out normal pixels, 0 below their least value, and beyond the rarest
    hundredth as if the tail were exponential. So it is a sum of ramps, ``sum_k slope_k max(v - start_k, 0)``.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.register_buffer("starts", torch.zeros(count, len(_RATES)))
        self.register_buffer("slopes", torch.zeros(count, len(_RATES)))
        self.starts: Tensor
        self.slopes: Tensor

    def fit(self, rows: NDArray[np.float32], weights: Sequence[float]) -> None:
        """Take the quantiles of held-out normal pixels (n, count), and the weight of each value."""
        for index, (values, weight) in enumerate(zip(rows.T.astype(np.float64), weights, strict=True)):
            starts, slopes = _ramps(values)
            self.starts[index] = torch.from_numpy(starts).float()
            self.slopes[index] = torch.from_numpy(weight * slopes).float()

    def forward(self, values: Tensor) -> Tensor:
        """(B, count, H, W) -> (B, H, W), >= 0."""
        total = torch.zeros_like(values[:, 0])
        for index in range(self.count):
            for start, slope in zip(self.starts[index], self.slopes[index], strict=True):
                total = total + slope * (values[:, index] - start).clamp_min(0)
        return total.clamp_min(0)

    def add_to(self, graph: OnnxGraph, values: list[str]) -> str:
        """The same as nodes: a name of (1, 1, H, W) for each value -> (1, 1, H, W)."""
        ramps = []
        for index, name in enumerate(values):
            starts, slopes = (v[index].cpu().numpy() for v in (self.starts, self.slopes))
            hinges = graph.add("Relu", graph.add("Sub", name, graph.constant(starts[None, :, None, None])))
            ramps.append(graph.add("Conv", hinges, graph.constant(slopes[None, :, None, None])))
        return graph.add("Relu", graph.add("Sum", *ramps))


def _ramps(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Starts and slopes of the ramps whose sum is -log p."""
    knots: NDArray[np.float64] = np.quantile(values, 1.0 - np.array(_RATES))
    spread, largest = float(knots[-1] - knots[0]), float(np.abs(knots).max())
    least = max(_OF_RANGE * spread, _OF_VALUES * largest, _LEAST)
    beyond = values[values > knots[-1]]
    tail = max(float(beyond.mean() - knots[-1]) if len(beyond) else 0.0, least)
    slopes = np.append(_inner_slopes(np.diff(knots), -np.diff(np.log(np.array(_RATES))), least), 1.0 / tail)
    return knots, np.diff(slopes, prepend=0.0)


def _inner_slopes(steps: NDArray[np.float64], logs: NDArray[np.float64], least: float) -> NDArray[np.float64]:
    """Slope between each two knots; what -log p gains where many pixels share one value counts in the next step."""
    slopes, waiting = np.zeros(len(steps)), 0.0
    for place, (step, log) in enumerate(zip(steps, logs, strict=True)):
        waiting += log
        if step > least:
            slopes[place], waiting = waiting / step, 0.0
    return slopes
