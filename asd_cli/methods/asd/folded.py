"""A trained encoder folded for scoring: from pixels to whitened descriptors through one matrix per scale."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from asd_cli.methods.asd.encoder import PyramidEncoder
from asd_cli.methods.scaled import add_normalised, normalised
from asd_cli.nn.pyramid import PatchNetwork

if TYPE_CHECKING:
    import onnxruntime

    from asd_cli.nn.onnx_graph import OnnxGraph


class FoldedEncoder(nn.Module):
    """Raw pixels to ``A (descriptor - mean)``; its norm is the Mahalanobis distance if A whitens (AAAI 2023, Eq. 7).

    Everything after a scale's last ReLU is linear: last convolution, batch normalisation with its running statistics,
    descriptor head, A. So the result is ``offset + sum_s U_s relu_s`` with U_s (R, hidden).

    Args:
        encoder: trained; it is copied.
        low, high: (bands,) raw values that are -1 and 1 for the encoder.
        mean, matrix: (L,) and A (R, L).
    """

    def __init__(self, encoder: PyramidEncoder, low: Tensor, high: Tensor, mean: Tensor, matrix: Tensor) -> None:
        super().__init__()
        norm, head = encoder.norm, encoder.descriptor_head
        assert norm.running_mean is not None
        assert norm.running_var is not None
        # float64: the products must not lose what float32 scoring keeps
        gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
        shift = norm.bias.double() - norm.running_mean.double() * gain
        project = matrix.double() @ head.weight.double()[:, :, 0, 0]
        offset = matrix.double() @ (_bias(head) - mean.double()) + project @ shift
        self.pyramid = copy.deepcopy(encoder.pyramid)
        self.halo = encoder.halo
        parts = (project * gain).chunk(len(self.pyramid.branches), dim=1)
        for branch, part in zip(self.pyramid.branches, parts, strict=True):
            last = cast(PatchNetwork, branch).conv4
            offset = offset + part @ _bias(last)
            last.weight = nn.Parameter((part @ last.weight.double()[:, :, 0, 0]).float()[:, :, None, None])
            last.bias = None
        for name, value in {"low": low, "slope": 2.0 / (high - low), "offset": offset.float()}.items():
            self.register_buffer(name, value.detach().clone().view(1, -1, 1, 1))
        self.low: Tensor
        self.slope: Tensor
        self.offset: Tensor
        self.eval().requires_grad_(False)

    @property
    def kernel(self) -> int:
        """Side in pixels of the last convolution that sees neighbours."""
        return cast(PatchNetwork, self.pyramid.branches[0]).conv3.kernel_size[0]

    @property
    def hidden(self) -> int:
        """Channels of a network before its last convolution."""
        return cast(PatchNetwork, self.pyramid.branches[0]).conv3.out_channels

    @property
    def rows(self) -> int:
        """Channels of the result."""
        return self.offset.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        """(B, bands, H + 2 halo, W + 2 halo) raw float32 -> (B, R, H, W)."""
        total = self.offset
        for part in self.pyramid.parts(self.normalise(x)):
            total = total + part
        return total

    def normalise(self, x: Tensor) -> Tensor:
        """Raw pixels to the network's range, clamped far outside."""
        return normalised(x, self.low, self.slope)

    def distances(self, x: Tensor) -> Tensor:
        """Raw pixels as for `forward` -> (B, H, W) norms."""
        distance: Tensor = torch.linalg.vector_norm(self(x), dim=1)
        return distance

    def session(self, side: int, *, distances: bool) -> onnxruntime.InferenceSession:
        """The same for ONNX Runtime: one block (1, bands, side + 2 halo, side + 2 halo) -> (1, R, side, side), or
        (1, 1, side, side) if distances are wanted."""
        from asd_cli.nn.onnx_graph import OnnxGraph

        graph = OnnxGraph()
        total = self.add_distances(graph, "x") if distances else self.add_to(graph, self.add_normalised(graph, "x"))
        around = side + 2 * self.halo
        return graph.session(total, (1, self.low.shape[1], around, around))

    def add_distances(self, graph: OnnxGraph, x: str) -> str:
        """`distances` as nodes: raw pixels -> (B, 1, H, W)."""
        total = self.add_to(graph, self.add_normalised(graph, x))
        return graph.add("ReduceL2", total, graph.constant([1], "int64"), keepdims=1)

    def add_normalised(self, graph: OnnxGraph, x: str) -> str:
        """`normalise` as nodes."""
        return add_normalised(graph, x, self.low, self.slope)

    def add_to(self, graph: OnnxGraph, x: str) -> str:
        """What follows `normalise` as nodes: (B, bands, H + 2 halo, W + 2 halo) -> (B, R, H, W)."""
        from asd_cli.nn.onnx_graph import add_pyramid, array

        parts = add_pyramid(graph, self.pyramid, x)
        return graph.add("Add", graph.add("Sum", *parts), graph.constant(array(self.offset)))


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias.double()
