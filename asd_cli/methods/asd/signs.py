"""All signs of a localised ASD model, and their evidence, folded for scoring."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

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
from asd_cli.nn.nearest import Nearest
from asd_cli.nn.smoothing import GaussianSmoothing
from asd_cli.nn.surroundings import Surroundings

if TYPE_CHECKING:
    import onnxruntime

    from asd_cli.nn.onnx_graph import OnnxGraph


class Beside(NamedTuple):
    """What signs are made of beside the networks: surroundings, remembered ones, and the smoothing of the logit."""

    around: Surroundings
    nearest: Nearest
    smoothing: GaussianSmoothing


class FoldedSigns(nn.Module):
    """Raw pixels to the distance of the surroundings from their Gaussian, that from the nearest remembered ones and the
    smoothed logit of the heads, or to the evidence of all.

    Args:
        networks: encoders and heads, trained; they are copied. A head is linear in the descriptors, so that both fold
            into one row; the mean of all logits is the sum of such rows, computed at once.
        evidence: fitted; it is copied.
        beside: the rest; the memory is copied.
        scaling: low and high (bands,), the raw values that are -1 and 1 for the encoder.
        gaussian: mean (length,) and whitening (length, length) of surroundings on the encoder's range.
        halo: pixels of context, at least what any sign consumes.
    """

    def __init__(
        self,
        networks: Sequence[tuple[PyramidEncoder, nn.Conv2d]],
        evidence: Evidence,
        beside: Beside,
        *,
        scaling: tuple[Tensor, Tensor],
        gaussian: tuple[Tensor, Tensor],
        halo: int,
    ) -> None:
        super().__init__()
        self.encoder = FoldedEncoder.summed([_folded(*one, scaling, share=1 / len(networks)) for one in networks])
        self.evidence, self.halo = copy.deepcopy(evidence), halo
        self.around, self.smoothing = beside.around, beside.smoothing
        self.nearest = copy.deepcopy(beside.nearest)
        # what surroundings and logits do not need of the halo
        needed = self.around.margin + self.nearest.margin, self.encoder.halo + self.smoothing.margin
        self._spare = [halo - reach for reach in needed]
        mean, whitening = gaussian
        self.whiten = nn.Conv2d(len(mean), len(mean), 1)
        self.whiten.weight.data.copy_(whitening[:, :, None, None])
        self.whiten.bias = nn.Parameter(-(whitening.double() @ mean.double()).float())
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, bands, H + 2 halo, W + 2 halo) raw float32 -> (B, 3, H, W)."""
        return self._signs(x, self.encoder)

    def _signs(self, x: Tensor, encoder: Callable[[Tensor], Tensor]) -> Tensor:
        near, far = (F.pad(x, (-spare,) * 4) for spare in self._spare)
        around = self.around(self.encoder.normalise(near))
        white = self.whiten(F.pad(around, (-self.nearest.margin,) * 4))
        distance = torch.linalg.vector_norm(white, dim=1, keepdim=True)
        return torch.cat([distance, self.nearest(around), self.smoothing(encoder(far))], dim=1)

    def engine(self, device: torch.device, side: int, *, weighed: bool) -> Engine:
        """What maps blocks to evidence, or to all signs: ONNX Runtime on the CPU, half precision on CUDA devices (for
        evidence), plain torch elsewhere."""
        if device.type == "cpu":
            return OnnxEngine(self._session(side, weighed=weighed), side)
        signs = placed(self, device)
        if not weighed:
            return torch_engine(signs, device, side)
        if device.type != "cuda":
            return torch_engine(lambda x: signs.evidence(signs(x)), device, side)
        fused = available(device, kernel=signs.encoder.kernel, hidden=signs.encoder.hidden)
        logits = HalfScorer(signs.encoder, fused=fused, norm=False)
        return torch_engine(lambda x: signs.evidence(signs._signs(x, logits)), device, side)

    def _session(self, side: int, *, weighed: bool) -> onnxruntime.InferenceSession:
        """For one block (1, bands, side + 2 halo, side + 2 halo) -> (1, 1 or 3, side, side)."""
        from asd_cli.nn.onnx_graph import OnnxGraph

        graph, around = OnnxGraph(), side + 2 * self.halo
        output = self.add_to(graph, "x", weighed=weighed)
        return graph.session(output, (1, self.encoder.low.shape[1], around, around))

    def add_to(self, graph: OnnxGraph, x: str, *, weighed: bool) -> str:
        """Evidence or all signs as nodes: raw pixels (B, bands, H + 2 halo, W + 2 halo) -> (B, 1 or 3, H, W)."""
        x = self.encoder.add_normalised(graph, x)
        near, far = (graph.trim(x, spare, spare) for spare in self._spare)
        around = self.around.add_to(graph, near)
        white = graph.conv(graph.trim(around, self.nearest.margin, self.nearest.margin), self.whiten)
        distance = graph.add("ReduceL2", white, graph.constant([1], "int64"), keepdims=1)
        nearest = self.nearest.add_to(graph, around)
        signs = [distance, nearest, self.smoothing.add_to(graph, self.encoder.add_to(graph, far))]
        return self.evidence.add_to(graph, signs) if weighed else graph.add("Concat", *signs, axis=1)


def _folded(encoder: PyramidEncoder, head: nn.Conv2d, scaling: tuple[Tensor, Tensor], *, share: float) -> FoldedEncoder:
    """Raw pixels to the `share` of a network's logit."""
    weight = share * head.weight.detach()[:, :, 0, 0]
    folded = FoldedEncoder(encoder, *scaling, weight.new_zeros(weight.shape[1]), weight)
    if head.bias is not None:
        folded.offset += share * head.bias.detach().view(1, -1, 1, 1)
    return folded
