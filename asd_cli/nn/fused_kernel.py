"""The Triton kernel of `asd_cli.nn.fused`."""

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def hidden_layer_kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917
    x,
    first,
    bias,
    last,
    added,
    out,
    count,
    height,
    width,
    x_image,
    x_row,
    x_col,
    scale,
    stride,
    dilation,
    KERNEL: tl.constexpr,
    C: tl.constexpr,
    HIDDEN: tl.constexpr,
    OUT: tl.constexpr,
    ADDED: tl.constexpr,
    NORM: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """One program computes PIXELS pixels; pointers first, strides in elements, see `fused_hidden_layer`."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    inside = pixel < count
    col = pixel % width
    row = (pixel // width) % height
    corner = (pixel // (width * height)).to(tl.int64) * x_image + row * stride * x_row + col * stride * x_col
    channel = tl.arange(0, C)
    hidden = tl.arange(0, HIDDEN)
    total = tl.zeros((PIXELS, HIDDEN), dtype=tl.float32)
    for tap in tl.static_range(KERNEL * KERNEL):
        place = corner + (tap // KERNEL) * dilation * x_row + (tap % KERNEL) * dilation * x_col
        values = tl.load(x + place[:, None] + channel[None, :], mask=inside[:, None], other=0.0)
        weight = tl.load(first + (tap * C + channel[:, None]) * HIDDEN + hidden[None, :])
        total += tl.dot(values, weight)
    total += tl.load(bias + hidden)[None, :]
    active = tl.maximum(total, 0.0).to(tl.float16)
    index = tl.arange(0, OUT)
    result = tl.dot(active, tl.load(last + hidden[:, None] * OUT + index[None, :])) * scale
    place = pixel[:, None].to(tl.int64) * OUT + index[None, :]
    if ADDED:
        result += tl.load(added + place, mask=inside[:, None], other=0.0)
    if NORM:
        tl.store(out + pixel, tl.sqrt(tl.sum(result * result, axis=1)), mask=inside)
    else:
        tl.store(out + place, result, mask=inside[:, None])
