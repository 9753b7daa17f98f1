"""A convolution, ReLU and a 1x1 convolution as matrix products, forwards and backwards, for CPUs.

Between the two lie up to 128 channels, the widest array of a patch network. Here it exists for a strip of rows at a
time, which stays in the cache, and the way back computes it again; the products run at BLAS speed, where the dilated
convolutions of torch take three times as long on their way back (`benchmarks/training.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_STRIP_PIXELS = 4096  # 128 channels of a strip are 2 MiB


class _Strip(NamedTuple):
    """Rows `top` .. `bottom` of the output of one image, with the pixels of their patches and a 1: (n, k k C + 1)."""

    image: int
    top: int
    bottom: int
    patches: Tensor


class _Layout(NamedTuple):
    """Where the patches of an output lie in an input (B, H, W, C)."""

    kernel: int
    stride: int
    dilation: int

    def out_shape(self, x: Tensor) -> tuple[int, int]:
        """(height, width) of the output."""
        reach = self.dilation * (self.kernel - 1)
        height, width = ((n - reach - 1) // self.stride + 1 for n in x.shape[1:3])
        return height, width

    def strips(self, x: Tensor) -> Iterator[_Strip]:
        """All strips; they share one buffer. The 1 behind each patch makes the bias a row of the weights."""
        height, width = self.out_shape(x)
        channels, k = x.shape[3], self.kernel
        rows = max(1, _STRIP_PIXELS // width)
        down, right = x.stride()[1:3]
        size = k * k * channels
        buffer = x.new_ones((rows * width, size + 1))
        strides = (self.stride * down, self.stride * right, self.dilation * down, self.dilation * right, 1)
        for image in range(len(x)):
            for top in range(0, height, rows):
                bottom = min(top + rows, height)
                shape = (bottom - top, width, k, k, channels)
                start = x[image].storage_offset() + top * self.stride * down
                patches = buffer[: (bottom - top) * width]
                patches[:, :size].view(shape).copy_(x.as_strided(shape, strides, start))
                yield _Strip(image, top, bottom, patches)

    def add_back(self, grad: Tensor, strip: _Strip, patches: Tensor) -> None:
        """Add to `grad` (B, H, W, C) what belongs to the patches of a strip."""
        height, width, k, s = strip.bottom - strip.top, self.out_shape(grad)[1], self.kernel, self.stride
        parts = patches.view(height, width, k, k, -1)
        for i in range(k):
            for j in range(k):
                row, col = strip.top * s + i * self.dilation, j * self.dilation
                grad[strip.image, row : row + height * s : s, col : col + width * s : s] += parts[:, :, i, j]


class _HiddenLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, w2: Tensor, b2: Tensor | None, layout: _Layout) -> Tensor:
        """x (B, H, W, C), w1 (k k C + 1, hidden), w2 (out, hidden) -> (B, out, h, w)."""
        ctx.save_for_backward(x, w1, w2)
        ctx.layout, ctx.has_bias = layout, b2 is not None
        height, width = layout.out_shape(x)
        out = x.new_empty((len(x), len(w2), height, width))
        for strip in layout.strips(x):
            hidden = torch.mm(strip.patches, w1).relu_()
            out[strip.image, :, strip.top : strip.bottom] = (w2 @ hidden.T).view(len(w2), -1, width)
        return out if b2 is None else out + b2.view(-1, 1, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all tensors."""
        x, w1, w2 = ctx.saved_tensors
        layout, grad = ctx.layout, grads[0]
        gx, gw1, gw2 = (torch.zeros_like(t) for t in (x, w1, w2))
        back = w1[:-1].T
        for strip in layout.strips(x):
            gout = grad[strip.image, :, strip.top : strip.bottom].reshape(len(w2), -1)
            hidden = torch.mm(strip.patches, w1).relu_()
            gw2.addmm_(gout, hidden)
            ghidden = torch.ops.aten.threshold_backward(torch.mm(gout.T, w2), hidden, 0)
            gw1.addmm_(strip.patches.T, ghidden)
            layout.add_back(gx, strip, ghidden @ back)
        return gx, gw1, gw2, grad.sum((0, 2, 3)) if ctx.has_bias else None, None


def hidden_layer(x: Tensor, first: nn.Conv2d, last: nn.Conv2d, *, stride: int = 1, dilation: int = 1) -> Tensor:
    """``last(relu(first(x)))`` with that stride and dilation of `first`; `last` is a 1x1 convolution.

    (B, C, H, W) -> (B, out, h, w), without padding. `first` has a square kernel.
    """
    layout = _Layout(first.kernel_size[0], stride, dilation)
    bias = first.weight.new_zeros(first.out_channels) if first.bias is None else first.bias
    w1 = torch.cat([first.weight.permute(2, 3, 1, 0).reshape(-1, first.out_channels), bias[None]])
    pixels = x.permute(0, 2, 3, 1).contiguous()
    out: Tensor = _HiddenLayer.apply(pixels, w1, last.weight[:, :, 0, 0], last.bias, layout)  # type: ignore[no-untyped-call]
    return out
