"""A convolution, ReLU, a 1x1 convolution and a norm in one GPU kernel, so that the channels between stay on chip.

Written in Triton, which comes with torch's CUDA builds; `available` says whether it is there. Products are of half
precision with float32 sums.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asd_cli.errors import one_line
from asd_cli.nn.pyramid import HIDDEN

_LEAST_PRODUCT = 16  # of a dimension that a Triton product sums over or writes
_PIXELS = 128  # that one program computes
_LARGEST_KERNEL, _MOST_ROWS = 4, 64  # beyond, the kernel would be unrolled too far or leave its memory on chip
_log = logging.getLogger(__name__)


@lru_cache
def available(device: torch.device, *, kernel: int = 2, rows: int = 16, hidden: int = HIDDEN) -> bool:
    """Whether the kernel runs on a device for a convolution of kernel x kernel px, so many rows of output and hidden
    channels.

    It is tried: Triton builds a part of itself with the C compiler, and not every device has the memory on chip.
    """
    if device.type != "cuda" or find_spec("triton") is None or kernel > _LARGEST_KERNEL or rows > _MOST_ROWS:
        return False
    side = kernel + 3
    first, last = nn.Conv2d(16, hidden, kernel).to(device), nn.Conv2d(hidden, rows, 1, bias=False).to(device)
    pixels = torch.zeros((1, 16, side, side), dtype=torch.float16, device=device)
    try:
        with torch.inference_mode():
            image = pixels.contiguous(memory_format=torch.channels_last)
            fused_hidden_layer(image, HiddenWeights.of(first, last), stride=1, dilation=1)
            torch.cuda.synchronize(device)
    except Exception as error:  # a compiler's, the driver's, Triton's own: each has its kinds
        reason = one_line(error)[:200]
        _log.warning("the fused kernel cannot be used on %s (%s); scoring goes on without it, slower", device, reason)
        return False
    return True


class HiddenWeights(NamedTuple):
    """Two convolutions as the kernel wants them: conv k x k with bias, ReLU, conv 1x1 without.

    first: (k k, C, hidden) half. bias: (hidden,) float32. last: (hidden, out padded to a power of two) half, divided
    by `scale` so that no trained weight leaves the range of half precision.
    """

    first: Tensor
    bias: Tensor
    last: Tensor
    scale: float
    kernel: int

    @classmethod
    def of(cls, first: nn.Conv2d, last: nn.Conv2d) -> HiddenWeights:
        """From the layers; hidden channels and C are powers of two of at least 16."""
        assert first.bias is not None
        k, out = first.kernel_size[0], last.out_channels
        weight = first.weight.detach().permute(2, 3, 1, 0).reshape(k * k, first.in_channels, first.out_channels)
        padded = max(_LEAST_PRODUCT, 1 << (out - 1).bit_length())
        matrix = last.weight.detach()[:, :, 0, 0].T
        scale = float(matrix.abs().max().clamp_min(1e-30))
        last_weight = nn.functional.pad(matrix / scale, (0, padded - out))
        return cls(weight.half().contiguous(), first.bias.detach().float(), last_weight.half().contiguous(), scale, k)


def fused_hidden_layer(
    x: Tensor, weights: HiddenWeights, *, stride: int, dilation: int, added: Tensor | None = None, norm: bool = False
) -> Tensor:
    """(B, C, H, W) half, channels last -> (B, h, w, padded out) float32, plus `added`; or its norm (B, h, w).

    `added` has the shape of the result before the norm.
    """
    pixels = x.permute(0, 2, 3, 1)
    if pixels.stride(3) != 1:
        raise ValueError("the kernel reads images in channels-last layout")
    from asd_cli.nn.fused_kernel import hidden_layer_kernel  # Triton is imported only where it is used

    reach = dilation * (weights.kernel - 1)
    height, width = ((n - reach - 1) // stride + 1 for n in pixels.shape[1:3])
    count, outs = len(pixels) * height * width, weights.last.shape[1]
    shape = (len(pixels), height, width) if norm else (len(pixels), height, width, outs)
    result = torch.empty(shape, dtype=torch.float32, device=x.device)
    grid = (-(-count // _PIXELS),)
    hidden_layer_kernel[grid](
        pixels,
        weights.first,
        weights.bias,
        weights.last,
        result if added is None else added.contiguous(),
        result,
        count,
        height,
        width,
        *pixels.stride()[:3],
        weights.scale,
        stride,
        dilation,
        KERNEL=weights.kernel,
        C=pixels.shape[3],
        HIDDEN=len(weights.bias),
        OUT=outs,
        ADDED=added is not None,
        NORM=norm,
        PIXELS=_PIXELS,
    )
    return result
