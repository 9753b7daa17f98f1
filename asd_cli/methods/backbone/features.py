"""Features of a frozen network as a description of pixels, in register with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from asd_cli.errors import ModelFileError
from asd_cli.methods.backbone.loading import STRIDES, build, channels, normalisation
from asd_cli.methods.scaled import BandRanges, check_ranges

BLOCK = 256
"""Side in pixels of the blocks that scenes and tiles are computed in on every device."""
ALIGN = 32
TOLERANCE = 0.02
"""Relative; 0 with ResNet-18 and a halo of 128 px, 0.0004 with ResNet-50, 0.02 with ResNet-34, 0.09 with ResNet-18 and
64 px."""
_HALOS = (32, 256)
_LOWEST, _HIGHEST = -1.0, 2.0  # clamped there, in units of the normal range


@dataclass(frozen=True)
class BackboneSettings:
    """`-O` of what rests on a backbone. backbone: a network of timm. weights: a file, `pretrained` or `random` (for
    tests). halo: pixels of context on each side, a multiple of 32."""

    backbone: str = "resnet18"
    weights: str = ""
    halo: int = 128


def checked_halo(halo: int) -> int:
    """The halo, in range.

    Raises:
        ValueError: it is not.
    """
    if halo % ALIGN or not _HALOS[0] <= halo <= _HALOS[1]:
        raise ValueError(f"halo={halo} is not a multiple of {ALIGN} within {_HALOS[0]}..{_HALOS[1]}")
    return int(halo)


class FrozenFeatures(BandRanges):
    """Raw pixels to the features of a network at strides 4, 8 and 16.

    Convolutions of the network pad with zeros, so that features near the edges of a block differ from those of a
    larger one. None of that reaches the map across 128 px of halo with ResNet-18, 160 px with ResNet-50; elsewhere a
    score changes by a few per cent at most, see `TOLERANCE`.
    """

    def __init__(self, bands: int, *, backbone: str, halo: int, weights: str) -> None:
        super().__init__(bands)
        self.halo = checked_halo(halo)
        self.network = build(backbone, bands, weights)
        self.channels = channels(self.network)
        for name, value in zip(("mean", "spread"), normalisation(self.network), strict=True):
            self.register_buffer(name, torch.tensor(value))
        self.mean: Tensor
        self.spread: Tensor

    def train(self, mode: bool = True) -> FrozenFeatures:
        """Stays in evaluation mode: its statistics are frozen, too."""
        return super().train(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, bands, h, w) raw float32 -> one (B, C_i, ceil(h / s_i), ceil(w / s_i)) a stride."""
        low, high = self.low.view(1, -1, 1, 1), self.high.view(1, -1, 1, 1)
        unit = ((x - low) / (high - low)).clamp(_LOWEST, _HIGHEST)
        found: list[Tensor] = self.network((unit - self.mean) / self.spread)
        return found

    @staticmethod
    def check(arrays: Mapping[str, NDArray[Any]], prefix: str) -> None:
        """Values of its tensors in a model file.

        Raises:
            ModelFileError: the range of a band is empty, a variance negative, or a spread not above 0.
        """
        check_ranges(arrays, f"{prefix}.")
        if not (arrays[f"{prefix}.spread"] > 0).all():
            raise ModelFileError(f"tensor {prefix}.spread is damaged: it is not above 0")
        for name, values in arrays.items():
            if name.endswith("running_var") and not (values >= 0).all():
                raise ModelFileError(f"tensor {name} is damaged: a variance is negative")


def resampled(features: Tensor, ratio: int, first: int, shape: tuple[int, int]) -> Tensor:
    """Features (B, C, h, w) on a grid `ratio` times finer, bilinear: (B, C, *shape), from coarse cell `first` on.

    Cell i of a network with padded convolutions is centred on pixel ``stride * i``, not on the middle of the pixels
    ``stride * i .. stride * (i + 1)`` as `interpolate` takes it by default: that would shift the map by half a cell.
    """
    rows, cols = (-(-(n - 1) // ratio) for n in shape)
    part = features[..., first : first + rows + 1, first : first + cols + 1]
    size = (rows * ratio + 1, cols * ratio + 1)
    return F.interpolate(part, size=size, mode="bilinear", align_corners=True)[..., : shape[0], : shape[1]]


def random_channels(counts: tuple[int, ...], kept: int) -> Tensor:
    """(kept,) int64 of all channels, sorted, drawn from torch's random state."""
    return torch.randperm(sum(counts))[:kept].sort().values


def channel_error(chosen: NDArray[np.int64], counts: tuple[int, ...]) -> str | None:
    """What is wrong with a choice of channels, if anything is."""
    rising = (np.diff(chosen) > 0).all()
    good = rising and chosen[0] >= 0 and chosen[-1] < sum(counts)
    return None if good else "the choice of channels is damaged"


def described(features: list[Tensor], chosen: Tensor, halo: int, shape: tuple[int, int]) -> Tensor:
    """The chosen channels of all strides together at every pixel inside the halo: (B, len(chosen), *shape)."""
    parts, start = [], 0
    for feature, stride in zip(features, STRIDES, strict=True):
        stop = start + feature.shape[1]
        own = chosen[(chosen >= start) & (chosen < stop)] - start
        parts.append(resampled(feature[:, own], stride, halo // stride, shape))
        start = stop
    return torch.cat(parts, dim=1)
