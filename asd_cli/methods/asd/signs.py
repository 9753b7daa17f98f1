"""Both signs of a localised ASD model, and their evidence, folded for scoring."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal, cast

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
from asd_cli.nn.surroundings import Surroundings

if TYPE_CHECKING:
    import onnxruntime

    from asd_cli.nn.onnx_graph import OnnxGraph

Result = Literal["parts", "signs", "evidence"]


class FoldedSigns(nn.Module):
    """Raw pixels to the distance of their surroundings from a Gaussian and the smoothed mean distance of the networks'
    descriptors from theirs; to the evidence of both; or to the white parts that distances are norms of.

    Args:
        encoders: trained; they are copied.
        around, smoothing: what surroundings are, and how the mean distance is smoothed.
        evidence: fitted; it is copied.
        scaling: low and high (bands,), the raw values that are -1 and 1 for the encoders.
        gaussians: mean (L,) and whitening (L, L) of the surroundings, on the encoders' range, and of each encoder's
            descriptors.
        halo: pixels of context, at least what either sign consumes.
    """

    def __init__(
        self,
        encoders: Sequence[PyramidEncoder],
        around: Surroundings,
        smoothing: GaussianSmoothing,
        evidence: Evidence,
        *,
        scaling: tuple[Tensor, Tensor],
        gaussians: Sequence[tuple[Tensor, Tensor]],
        halo: int,
    ) -> None:
        super().__init__()
        (mean, whitening), *of_encoders = gaussians
        pairs = zip(encoders, of_encoders, strict=True)
        self.encoders = nn.ModuleList(FoldedEncoder(encoder, *scaling, *own) for encoder, own in pairs)
        self.around, self.smoothing, self.evidence, self.halo = around, smoothing, copy.deepcopy(evidence), halo
        self.whiten = nn.Conv2d(len(mean), len(mean), 1)
        self.whiten.weight.data.copy_(whitening[:, :, None, None])
        self.whiten.bias = nn.Parameter(-(whitening.double() @ mean.double()).float())
        self.eval().requires_grad_(False)

    @property
    def _folded(self) -> list[FoldedEncoder]:
        return list(cast(Iterable[FoldedEncoder], self.encoders))

    def forward(self, x: Tensor) -> Tensor:
        """(B, bands, H + 2 halo, W + 2 halo) raw float32 -> (B, 2, H, W)."""
        return self._signs(x, [encoder.distances for encoder in self._folded])

    def parts(self, x: Tensor) -> Tensor:
        """As `forward` -> (B, L of all parts, H, W)."""
        near = self._trimmed(x, self._folded[0].halo)
        return torch.cat([self._white(x), *(encoder(near) for encoder in self.encoders)], dim=1)

    def _signs(self, x: Tensor, distances: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
        near = self._trimmed(x, self._folded[0].halo + self.smoothing.margin)
        deep = torch.stack([distance(near) for distance in distances]).mean(dim=0)[:, None]
        return torch.cat([torch.linalg.vector_norm(self._white(x), dim=1, keepdim=True), self.smoothing(deep)], dim=1)

    def _white(self, x: Tensor) -> Tensor:
        near = self._folded[0].normalise(self._trimmed(x, self.around.margin))
        white: Tensor = self.whiten(self.around(near))
        return white

    def _trimmed(self, x: Tensor, margin: int) -> Tensor:
        """With `margin` px of the halo."""
        return F.pad(x, (margin - self.halo,) * 4)

    def engine(self, device: torch.device, side: int, result: Result) -> Engine:
        """What maps blocks to a result: ONNX Runtime on the CPU, half precision on CUDA devices (for evidence), plain
        torch elsewhere."""
        if device.type == "cpu":
            return OnnxEngine(self._session(side, result), side)
        signs = placed(self, device)
        if result != "evidence":
            return torch_engine(signs if result == "signs" else signs.parts, device, side)
        scorers: list[Callable[[Tensor], Tensor]] = [encoder.distances for encoder in signs._folded]
        if device.type == "cuda":
            one = signs._folded[0]
            fused = available(device, kernel=one.kernel, rows=one.rows, hidden=one.hidden)
            scorers = [HalfScorer(encoder, fused=fused) for encoder in signs._folded]
        return torch_engine(lambda x: signs.evidence(signs._signs(x, scorers)), device, side)

    def _session(self, side: int, result: Result) -> onnxruntime.InferenceSession:
        """For one block (1, bands, side + 2 halo, side + 2 halo) -> (1, channels, side, side)."""
        from asd_cli.nn.onnx_graph import OnnxGraph

        graph, around = OnnxGraph(), side + 2 * self.halo
        bands = self._folded[0].low.shape[1]
        return graph.session(self.add_to(graph, "x", result), (1, bands, around, around))

    def add_to(self, graph: OnnxGraph, x: str, result: Result) -> str:
        """A result as nodes: raw pixels (B, bands, H + 2 halo, W + 2 halo) -> (B, channels, H, W)."""
        first = self._folded[0]
        x = first.add_normalised(graph, x)
        spare = self.halo - self.around.margin
        white = graph.conv(self.around.add_to(graph, graph.trim(x, spare, spare)), self.whiten)
        spare = self.halo - first.halo - (0 if result == "parts" else self.smoothing.margin)
        near = graph.trim(x, spare, spare)
        deep = [encoder.add_to(graph, near) for encoder in self._folded]
        if result == "parts":
            return graph.add("Concat", white, *deep, axis=1)
        axis = graph.constant([1], "int64")
        own, *norms = [graph.add("ReduceL2", part, axis, keepdims=1) for part in (white, *deep)]
        signs = [own, self.smoothing.add_to(graph, graph.add("Mean", *norms))]
        return self.evidence.add_to(graph, signs) if result == "evidence" else graph.add("Concat", *signs, axis=1)
