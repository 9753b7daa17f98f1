"""The dense pyramid-patch network: every pixel's patch descriptor at several scales, without cutting patches.

Source: Li et al., "Anomaly Segmentation for High-Resolution Remote Sensing Images Based on Pixel Descriptors",
AAAI 2023; the dense evaluation follows Bailer et al., "Fast Feature Extraction with CNNs with Pooling Layers" (2018).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asd_cli.nn.products import hidden_layer

_WIDTHS = (8, 16)
HIDDEN = 128
"""Channels of the third convolution in the paper; powers of two of at least 16 do."""
_LENGTHS, _PATCHES, _SCALES, _SCALE_COUNT = (1, 256), (10, 127), (1 / 16, 16.0), 8


class PatchNetwork(nn.Module):
    """One patch network, evaluated for all pixels of an image at one scale.

    On a single patch it is ``conv 3x3, ReLU, max-pool 2 | conv 3x3, ReLU, max-pool 2 | conv k x k, ReLU | conv 1x1``
    with ``k = 2`` for the paper's 15 px patch, where 14 px count: `before` = 7 left of (above) the centre, `after` = 6
    right of (below) it.

    Dense evaluation replaces each pooling of stride 2 by one of stride 1 and dilates what follows. Where the image is
    doubled (scale 2, 4, ...) and only every second position is wanted, the stride stays and that work is saved.
    Without `bias` no convolution has one; `hidden` channels lie between the last two.
    """

    def __init__(
        self, bands: int, length: int, *, patch_size: int = 15, bias: bool = True, hidden: int = HIDDEN
    ) -> None:
        super().__init__()
        kernel = ((patch_size - 2) // 2 - 2) // 2
        if kernel < 1:
            raise ValueError(f"patch size {patch_size} is too small for two poolings; the least is 10")
        self.before = patch_size // 2
        self.after = 4 * kernel + 5 - self.before
        self.conv1 = nn.Conv2d(bands, _WIDTHS[0], 3, bias=bias)
        self.conv2 = nn.Conv2d(_WIDTHS[0], _WIDTHS[1], 3, bias=bias)
        self.conv3 = nn.Conv2d(_WIDTHS[1], hidden, kernel, bias=bias)
        self.conv4 = nn.Conv2d(hidden, length, 1, bias=bias)

    def forward(self, x: Tensor, *, stride: int = 1) -> Tensor:
        """(B, bands, h, w) -> (B, length, h', w'): the patches that start at every `stride`-th pixel.

        Without padding: the patch of output 0 starts at input pixel 0, and `stride` (a power of two) divides the work.
        """
        x, stride, dilation = self.pooled(x, stride=stride)
        if x.device.type == "cpu":
            return hidden_layer(x, self.conv3, self.conv4, stride=stride, dilation=dilation)
        x = F.conv2d(x, self.conv3.weight, self.conv3.bias, stride=stride, dilation=dilation)
        out: Tensor = self.conv4(F.relu_(x))
        return out

    def pooled(self, x: Tensor, *, stride: int = 1) -> tuple[Tensor, int, int]:
        """What the third convolution gets, (B, 16, h, w), and with which stride and dilation."""
        dilation = 1
        for conv in (self.conv1, self.conv2):
            x = F.relu_(F.conv2d(x, conv.weight, conv.bias, dilation=dilation))
            if stride > 1:
                x = F.max_pool2d(x, 2, stride=2)
                stride //= 2
            else:
                x = F.max_pool2d(x, 2, stride=1, dilation=dilation)
                dilation *= 2
        return x, stride, dilation


class DensePyramid(nn.Module):
    """Patch networks at several scales, one per scale and not shared; descriptors concatenated pixel by pixel.

    Valid-mode: the input carries a halo of `halo` px on each side, which the output lacks; the caller pads. The
    result is exactly equivariant to shifts by multiples of `align` px.
    """

    def __init__(
        self,
        bands: int,
        length: int,
        *,
        scales: Sequence[float] = (0.5, 1.0, 2.0),
        patch_size: int = 15,
        bias: bool = True,
        hidden: int = HIDDEN,
    ) -> None:
        super().__init__()
        self.exponents = tuple(scale_exponent(scale) for scale in scales)
        self.branches = nn.ModuleList(
            PatchNetwork(bands, length, patch_size=patch_size, bias=bias, hidden=hidden) for _ in self.exponents
        )
        self.out_channels = length * len(self.exponents)
        self.align = max(2 ** max(-e, 0) for e in self.exponents)
        reach = max(self._reach(e) for e in self.exponents)
        self.halo = math.ceil(reach / self.align) * self.align

    def _reach(self, exponent: int) -> int:
        """Pixels that a score at this scale needs on its farther side."""
        before = cast(PatchNetwork, self.branches[0]).before
        if exponent >= 0:
            return math.ceil(before / (1 << exponent))
        return (before + 1) * (1 << -exponent) - 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, bands, H + 2 halo, W + 2 halo) -> (B, out_channels, H, W), any H and W of at least 1."""
        return torch.cat(list(self.parts(x)), dim=1)

    def parts(self, x: Tensor) -> Iterator[Tensor]:
        """As `forward`, scale by scale: (B, length, H, W) each."""
        for branch, exponent in zip(self.branches, self.exponents, strict=True):
            yield self._branch(cast(PatchNetwork, branch), exponent, x)

    def _branch(self, branch: PatchNetwork, exponent: int, x: Tensor) -> Tensor:
        height, width = x.shape[-2] - 2 * self.halo, x.shape[-1] - 2 * self.halo
        cut = Cut.of(branch, exponent, (height, width), self.halo)
        if exponent < 0:
            out = F.interpolate(branch(cut.image(x, exponent)), scale_factor=cut.factor, mode="nearest")
        else:
            out = branch(cut.image(x, exponent), stride=cut.factor)
        return out[..., :height, :width]


class Cut(NamedTuple):
    """Which part of an image with halo a scale needs: rows and columns from `start` on (of the reduced image, at scales
    below 1), and how many of the enlarged image to `skip` (at scales above 1)."""

    factor: int
    start: int
    height: int
    width: int
    skip: int

    @classmethod
    def of(cls, branch: PatchNetwork, exponent: int, shape: tuple[int, int], halo: int) -> Cut:
        """For an output of `shape` at scale ``2 ** exponent``."""
        factor, (height, width) = 2 ** abs(exponent), shape
        if exponent < 0:
            around = branch.before + branch.after
            rows, cols = math.ceil(height / factor), math.ceil(width / factor)
            return cls(factor, halo // factor - branch.before, rows + around, cols + around, 0)
        left, right = math.ceil(branch.before / factor), branch.after // factor
        return cls(factor, halo - left, height + left + right, width + left + right, left * factor - branch.before)

    def image(self, x: Tensor, exponent: int) -> Tensor:
        """The part of an image with halo, reduced or enlarged by nearest neighbour."""
        if exponent < 0:
            x = x[..., :: self.factor, :: self.factor]  # the halo is a whole number of coarse pixels
        x = x[..., self.start : self.start + self.height, self.start : self.start + self.width]
        if exponent > 0:
            x = F.interpolate(x, scale_factor=self.factor, mode="nearest")[..., self.skip :, self.skip :]
        return x


def checked_pyramid(length: int, scales: Any, patch_size: int) -> dict[str, Any]:
    """The architecture of a `DensePyramid`, in range, before anything is built from it.

    Raises:
        ValueError: no scales, a scale that is no power of two, or a number that is out of range.
    """
    length, patch_size, scales = int(length), int(patch_size), tuple(float(scale) for scale in scales)
    if not _LENGTHS[0] <= length <= _LENGTHS[1]:
        raise ValueError(f"length {length} is not within {_LENGTHS[0]}..{_LENGTHS[1]}")
    if not _PATCHES[0] <= patch_size <= _PATCHES[1]:
        raise ValueError(f"patch size {patch_size} is not within {_PATCHES[0]}..{_PATCHES[1]}")
    if not 1 <= len(scales) <= _SCALE_COUNT:
        raise ValueError(f"{len(scales)} scales; give 1 to {_SCALE_COUNT}")
    for scale in scales:
        if not _SCALES[0] <= scale <= _SCALES[1]:
            raise ValueError(f"scale {scale:g} is not within 1/16..16")
        scale_exponent(scale)
    return {"length": length, "scales": scales, "patch_size": patch_size}


def scale_exponent(scale: float) -> int:
    """Exponent of a power of two.

    Raises:
        ValueError: the scale is not a positive power of two.
    """
    if scale > 0:
        mantissa, exponent = math.frexp(scale)
        if mantissa == 0.5:
            return exponent - 1
    raise ValueError(f"scale {scale} is not a power of two such as 0.5, 1 or 2")


class MaskedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose batch statistics come from the pixels of a mask only.

    With no mask, or in evaluation mode, it is `torch.nn.BatchNorm2d`. Pixels outside the mask are normalised too but
    have no say.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, C, H, W), mask (B, H, W) bool or none -> (B, C, H, W)."""
        if mask is None or not self.training:
            return super().forward(x)
        values = x.movedim(1, -1)[mask].float()
        count = values.shape[0]
        variance, mean = torch.var_mean(values, dim=0, correction=0)
        self._update_running(mean, variance, count)
        scale = self.weight / torch.sqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return x * scale.view(1, -1, 1, 1).to(x.dtype) + shift.view(1, -1, 1, 1).to(x.dtype)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        momentum = 0.1 if self.momentum is None else self.momentum
        unbiased = variance * (count / max(count - 1, 1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        self.num_batches_tracked += 1
