"""What surrounds each pixel: colours near and far, and roughness; for torch and as nodes of ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from asd_cli.nn.far_means import FarMeans
from asd_cli.nn.smoothing import GaussianSmoothing
from asd_cli.nn.texture import Texture

if TYPE_CHECKING:
    from asd_cli.nn.onnx_graph import OnnxGraph


class Surroundings:
    """The bands smoothed with a Gaussian of `blur` px, their means over `far` px (`FarMeans`), and the texture of
    squares of `side` px (`Texture`), one after another; 0 leaves out what it is the size of.

    `channels` numbers in all, `margin` px are consumed on each side; shifts by multiples of `align` px change
    nothing.
    """

    def __init__(self, bands: int, side: int, *, blur: float = 0.0, far: int = 0) -> None:
        self._parts: list[GaussianSmoothing | FarMeans | Texture] = [GaussianSmoothing(blur, channels=bands)]
        self.channels = bands
        if far:
            self._parts.append(FarMeans(far))
            self.channels += bands
        if side:
            self._parts.append(Texture(bands, side))
            self.channels += Texture.channels
        self.align = max(part.align for part in self._parts)
        self.margin = -(-max(part.margin for part in self._parts) // self.align) * self.align

    def __call__(self, x: Tensor) -> Tensor:
        """(B, bands, H + 2 margin, W + 2 margin) on about [-1, 1] -> (B, channels, H, W)."""
        return torch.cat([part(F.pad(x, (part.margin - self.margin,) * 4)) for part in self._parts], dim=1)

    def add_to(self, graph: OnnxGraph, x: str) -> str:
        """The same as nodes."""
        spare = [self.margin - part.margin for part in self._parts]
        made = [part.add_to(graph, graph.trim(x, n, n)) for part, n in zip(self._parts, spare, strict=True)]
        return graph.add("Concat", *made, axis=1)
