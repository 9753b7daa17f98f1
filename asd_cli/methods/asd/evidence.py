"""Several signs of an anomaly in one number: how rarely normal pixels show as much, added up.

Source: R. A. Fisher, "Statistical Methods for Research Workers" (1932), combined probabilities: the sum of -log p.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from asd_cli.density.typical import joined
from asd_cli.errors import ModelFileError

if TYPE_CHECKING:
    from asd_cli.nn.onnx_graph import OnnxGraph

_LEVEL_SHARES, _MOST_RATIO = (0.5, 0.1, 0.01), 5.0
_SAME = 1e-3  # of levels: deviations that differ by less are the same
_RATES = (1.0, 0.9, 0.75, 0.5, 0.35, 0.2, 0.1, 0.05, 0.02, 0.01)
# Widths of a step below which two knots are one: relative to the whole range, to the values (what float32 tells apart),
# and at all (a sign that is the same for all normal pixels must not turn rounding into infinite evidence).
_OF_RANGE, _OF_VALUES, _LEAST = 1e-6, float(np.finfo(np.float32).eps), 1e-6


class Evidence(nn.Module):
    """Turns `count` values of a pixel into the weighted sum of their -log p, p the share of normal pixels with as much
    or more.

    Each -log p is linear between quantiles of held-out normal pixels, 0 below their least value, and beyond the rarest
    hundredth as if the tail were exponential. So it is a sum of steps, ``sum_k slope_k clamp(v - start_k, 0, width_k)``
    with widths from each start to the next and slopes >= 0: a larger value never has less, in any precision.
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
            starts, slopes = _steps(values)
            self.starts[index] = torch.from_numpy(starts).float()
            self.slopes[index] = torch.from_numpy(weight * slopes).float()

    def forward(self, values: Tensor) -> Tensor:
        """(B, count, H, W) -> (B, H, W), >= 0."""
        total, widths = torch.zeros_like(values[:, 0]), self.widths()
        for index in range(self.count):
            for start, width, slope in zip(self.starts[index], widths[index], self.slopes[index], strict=True):
                total = total + slope * (values[:, index] - start).clamp_min(0).minimum(width)
        return total

    def widths(self) -> Tensor:
        """(count, steps): from each start to the next, the last without an end."""
        return F.pad(self.starts.diff(dim=1), (0, 1), value=torch.inf)

    def add_to(self, graph: OnnxGraph, values: list[str]) -> str:
        """The same as nodes: a name of (1, 1, H, W) for each value -> (1, 1, H, W)."""
        parts = []
        for index, name in enumerate(values):
            arrays = (v[index].cpu().numpy()[None, :, None, None] for v in (self.starts, self.widths(), self.slopes))
            starts, widths, slopes = (graph.constant(array) for array in arrays)
            steps = graph.add("Min", graph.add("Relu", graph.add("Sub", name, starts)), widths)
            parts.append(graph.add("Conv", steps, slopes))
        return graph.add("Sum", *parts)


def steady_weights(tiles: Sequence[NDArray[np.float32]], weights: Sequence[float]) -> list[float]:
    """Weights of signs whose values for held-out normal pixels, tile by tile, are (n, signs).

    That of the first sign stays, that of each other is multiplied by how much steadier it is, and at most 1: by the
    ratio of the squared mean deviations, between tiles, of the level of their values, at most five times or a fifth.
    The level is the mean logarithm of what a half, a tenth and a hundredth of the pixels exceed. A sign for which it
    depends on the tile says little of a tile that nobody has seen (weights of inverse variances, as for means in
    Graybill and Deal 1959). Of a single tile, weights stay as they are.
    """
    groups = joined(tiles, min(_LEVEL_SHARES))
    quantiles = np.array([np.quantile(rows, 1.0 - np.array(_LEVEL_SHARES), axis=0) for rows in groups], np.float64)
    levels = np.log(np.maximum(quantiles, _LEAST)).mean(axis=1)
    deviations = np.abs(levels - np.median(levels, axis=0)).mean(axis=0) + _SAME
    ratios = np.clip(np.square(deviations[0] / deviations[1:]), 1.0 / _MOST_RATIO, _MOST_RATIO)
    first, *others = weights
    return [first, *(min(float(weight * ratio), 1.0) for weight, ratio in zip(others, ratios, strict=True))]


def check_evidence(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Refuse arrays of a method whose ``evidence`` cannot be.

    Raises:
        ModelFileError: more of a value would be less evidence.
    """
    if not ((np.diff(arrays["evidence.starts"], axis=1) >= 0).all() and (arrays["evidence.slopes"] >= 0).all()):
        raise ModelFileError("the tensors of the evidence are damaged: steps out of order, or downwards")


def _steps(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Starts and slopes of the steps whose sum is -log p."""
    knots: NDArray[np.float64] = np.quantile(values, 1.0 - np.array(_RATES))
    spread, largest = float(knots[-1] - knots[0]), float(np.abs(knots).max())
    least = max(_OF_RANGE * spread, _OF_VALUES * largest, _LEAST)
    beyond = values[values > knots[-1]]
    tail = max(float(beyond.mean() - knots[-1]) if len(beyond) else 0.0, least)
    inner = _inner_slopes(np.diff(knots), -np.diff(np.log(np.array(_RATES))), least)
    return knots, np.append(inner, 1.0 / tail)


def _inner_slopes(steps: NDArray[np.float64], logs: NDArray[np.float64], least: float) -> NDArray[np.float64]:
    """Slope between each two knots; what -log p gains where many pixels share one value counts in the next step."""
    slopes, waiting = np.zeros(len(steps)), 0.0
    for place, (step, log) in enumerate(zip(steps, logs, strict=True)):
        waiting += log
        if step > least:
            slopes[place], waiting = waiting / step, 0.0
    return slopes
