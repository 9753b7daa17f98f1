"""Both signs of a localised ASD model, and their evidence, folded for scoring."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asd_cli.methods.asd.encoder import PyramidEncoder
from asd_cli.methods.asd.evidence import Evidence
from asd_cli.methods.asd.folded import FoldedEncoder
from asd_cli.methods.asd.half import HalfScorer
from asd_cli.nn.devices import placed
from asd_cli.nn.engines import Engine, OnnxEngine, torch_engine
from asd_cli.nn.fused import available
from asd_cli.nn.smoothing import GaussianSmoothing

if TYPE_CHECKING:
    import onnxruntime

    from asd_cli.nn.onnx_graph import OnnxGraph


class FoldedSigns(nn.Module):
    """Raw pixels to the distance of their bands and the smoothed logit of the head, or to the evidence of both.

    Args:
        network: encoder and head, trained; they are copied. The head is linear in the descriptors, so that both fold
            into one row.
        evidence: fitted; it is copied.
        smoothing: of the logit.
        scaling: low and high (bands,), the raw values that are -1 and 1 for the encoder.
        gaussian: mean (bands,) and whitening (bands, bands) of the bands on the encoder's range.
        halo: pixels of context, at least those that encoder and smoothing consume.
    """

    def __init__(
        self,
        network: tuple[PyramidEncoder, nn.Conv2d],
        evidence: Evidence,
        smoothing: GaussianSmoothing,
        *,
        scaling: tuple[Tensor, Tensor],
        gaussian: tuple[Tensor, Tensor],
        halo: int,
    ) -> None:
        super().__init__()
        encoder, head = network
        weight = head.weight.detach()[:, :, 0, 0]
        self.encoder = FoldedEncoder(encoder, *scaling, weight.new_zeros(weight.shape[1]), weight)
        if head.bias is not None:
            self.encoder.offset += head.bias.detach().view(1, -1, 1, 1)
        self.evidence, self.smoothing, self.halo = copy.deepcopy(evidence), smoothing, halo
        self._spare = halo - self.encoder.halo - smoothing.reach
        mean, whitening = gaussian
        self.whiten = nn.Conv2d(len(mean), len(mean), 1)
        self.whiten.weight.data.copy_(whitening[:, :, None, None])
        self.whiten.bias = nn.Parameter(-(whitening.double() @ mean.double()).float())
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, bands, H + 2 halo, W + 2 halo) raw float32 -> (B, 2, H, W)."""
        return torch.cat([self.colour(x), self._smoothed(self.encoder(x))], dim=1)

    def colour(self, x: Tensor) -> Tensor:
        """(B, 1, H, W): distances of the bands."""
        bands = self.encoder.normalise(F.pad(x, (-self.halo,) * 4))
        found: Tensor = torch.linalg.vector_norm(self.whiten(bands), dim=1, keepdim=True)
        return found

    def _smoothed(self, logits: Tensor) -> Tensor:
        """(B, 1, H, W), without what the alignment of the halo makes too much."""
        return self.smoothing(F.pad(logits, (-self._spare,) * 4))

    def engine(self, device: torch.device, side: int, *, weighed: bool) -> Engine:
        """What maps blocks to evidence, or to both signs: ONNX Runtime on the CPU, half precision on CUDA devices (for
        evidence), plain torch elsewhere."""
        if device.type == "cpu":
            return OnnxEngine(self._session(side, weighed=weighed), side)
        signs = placed(self, device)
        if not weighed:
            return torch_engine(signs, device, side)
        if device.type != "cuda":
            return torch_engine(lambda x: signs.evidence(signs(x)), device, side)
        logits = HalfScorer(signs.encoder, fused=available(device, kernel=signs.encoder.kernel), norm=False)
        return torch_engine(
            lambda x: signs.evidence(torch.cat([signs.colour(x), signs._smoothed(logits(x))], dim=1)), device, side
        )

    def _session(self, side: int, *, weighed: bool) -> onnxruntime.InferenceSession:
        """For one block (1, bands, side + 2 halo, side + 2 halo) -> (1, 1 or 2, side, side)."""
        from asd_cli.nn.onnx_graph import OnnxGraph

        graph, around = OnnxGraph(), side + 2 * self.halo
        output = self.add_to(graph, "x", weighed=weighed)
        return graph.session(output, (1, self.encoder.low.shape[1], around, around))

    def add_to(self, graph: OnnxGraph, x: str, *, weighed: bool) -> str:
        """Evidence or both signs as nodes: raw pixels (B, bands, H + 2 halo, W + 2 halo) -> (B, 1 or 2, H, W)."""
        x = self.encoder.add_normalised(graph, x)
        bands = graph.conv(graph.trim(x, self.halo, self.halo), self.whiten)
        colour = graph.add("ReduceL2", bands, graph.constant([1], "int64"), keepdims=1)
        logits = self.encoder.add_to(graph, x)
        logits = graph.trim(logits, self._spare, self._spare) if self._spare else logits
        signs = [colour, self.smoothing.add_to(graph, logits)]
        return self.evidence.add_to(graph, signs) if weighed else graph.add("Concat", *signs, axis=1)
