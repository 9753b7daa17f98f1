"""Convolutional encoder and decoder with skip connections (Ronneberger et al., "U-Net", MICCAI 2015), valid-mode.

No layer pads and none takes statistics over space, so a value depends on the pixels within the halo alone and the
result does not change with the size of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.1
"""Of the leaky ReLUs: without normalisation, plain ones die by the dozen at learning rates that are of use."""


class Placed(NamedTuple):
    """Values (B, C, h, w) whose first row and column have the number `start` on the grid of their level.

    Number 0 of every level begins at the first pixel of the network's output; pixels of the halo have negative numbers.
    """

    values: Tensor
    start: int

    def pooled(self) -> Placed:
        """Largest of each 2 x 2 values of the coarser grid; rows and columns that fill half a cell are dropped."""
        odd = self.start % 2
        return Placed(F.max_pool2d(self.values[..., odd:, odd:], 2), (self.start + odd) // 2)

    def enlarged(self) -> Placed:
        """On the finer grid, by nearest neighbour."""
        return Placed(F.interpolate(self.values, scale_factor=2, mode="nearest"), 2 * self.start)

    def beside(self, other: Placed) -> Placed:
        """The channels of both where both have values."""
        start = max(self.start, other.start)
        mine, theirs = (p.values[..., start - p.start :, start - p.start :] for p in (self, other))
        height, width = (min(pair) for pair in zip(mine.shape[-2:], theirs.shape[-2:], strict=True))
        return Placed(torch.cat([mine[..., :height, :width], theirs[..., :height, :width]], dim=1), start)

    def cut(self, height: int, width: int) -> Tensor:
        """Rows 0 .. height - 1 and columns 0 .. width - 1."""
        return self.values[..., -self.start : height - self.start, -self.start : width - self.start]


class ConvLevel(nn.Sequential):
    """Convolutions 3 x 3 without padding, each with a leaky ReLU: (B, in, h, w) -> (B, out, h - 2 n, w - 2 n)."""

    def __init__(self, channels_in: int, channels_out: int, convolutions: int) -> None:
        layers: list[nn.Module] = []
        for number in range(convolutions):
            layers += [
                nn.Conv2d(channels_out if number else channels_in, channels_out, 3),
                nn.LeakyReLU(SLOPE, inplace=True),
            ]
        super().__init__(*layers)
        self.convolutions = convolutions

    def place(self, x: Placed) -> Placed:
        """As `forward`, with the place."""
        return Placed(self(x.values), x.start + self.convolutions)


class ConvEncoder(nn.Module):
    """Levels 0 .. depth with width 2^level channels, each half as fine as the one before."""

    def __init__(self, bands: int, *, width: int, depth: int, convolutions: int) -> None:
        super().__init__()
        self.widths = tuple(width << level for level in range(depth + 1))
        ins = (bands, *self.widths)
        self.levels = nn.ModuleList(ConvLevel(a, b, convolutions) for a, b in zip(ins[:-1], self.widths, strict=True))

    def forward(self, x: Placed) -> list[Placed]:
        """What each level gives, the finest first."""
        found: list[Placed] = []
        for level in self.levels:
            found.append(level.place(found[-1].pooled() if found else x))  # type: ignore[operator]
        return found


class ConvDecoder(nn.Module):
    """Back from the coarsest level to pixels; with `skips` each level also sees what the encoder gave there."""

    def __init__(self, widths: Sequence[int], bands: int, *, convolutions: int, skips: bool) -> None:
        super().__init__()
        self.skips = skips
        pairs = [(widths[i + 1], widths[i]) for i in reversed(range(len(widths) - 1))]
        self.narrow = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for coarse, fine in pairs)
        self.levels = nn.ModuleList(ConvLevel(fine * (1 + skips), fine, convolutions) for _, fine in pairs)
        self.head = nn.Conv2d(widths[0], bands, 1)

    def forward(self, encoded: Sequence[Placed]) -> Placed:
        """What `ConvEncoder` gave (without skips the last alone counts) -> (B, bands, h, w)."""
        x = encoded[-1]
        for number, (narrow, level) in enumerate(zip(self.narrow, self.levels, strict=True)):
            # the 1 x 1 convolution commutes with the enlargement, and is a quarter of the work before it
            x = Placed(narrow(x.values), x.start).enlarged()
            x = level.place(x.beside(encoded[-2 - number]) if self.skips else x)  # type: ignore[operator]
        return Placed(self.head(x.values), x.start)


class UNet(nn.Module):
    """Image to image: (B, bands, H + 2 halo, W + 2 halo) -> (B, bands, H, W) float32, any H and W of at least 1.

    Shifts by multiples of `align` = 2^depth px change nothing. Weights are He's (2015), the biases 0.
    """

    def __init__(self, bands: int, *, width: int = 16, depth: int = 3, convolutions: int = 1) -> None:
        super().__init__()
        self.encoder = ConvEncoder(bands, width=width, depth=depth, convolutions=convolutions)
        self.decoder = ConvDecoder(self.encoder.widths, bands, convolutions=convolutions, skips=True)
        self.halo, self.align = unet_halo(depth, convolutions), 1 << depth
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        height, width = (n - 2 * self.halo for n in x.shape[-2:])
        return self.decoder(self.encoder(Placed(x, -self.halo))).cut(height, width).float()  # type: ignore[no-any-return]


def unet_halo(depth: int, convolutions: int) -> int:
    """Pixels around the output of encoder and decoder that they need, a multiple of 2^depth, for outputs of any size.

    On the left the cells of all levels begin with the output. On the right they may end behind it, and the worst case
    counts.
    """
    align = 1 << depth
    reach = max(_stop_needed(stop, depth, convolutions) - stop for stop in range(align))
    return -(-reach // align) * align


def _stop_needed(stop: int, depth: int, convolutions: int) -> int:
    """End of the input that an output ending before pixel `stop` needs."""
    for _ in range(depth):  # down through the decoder
        stop = -(-(stop + convolutions) // 2)
    stop += convolutions
    for _ in range(depth):  # up through the encoder; skips need less
        stop = 2 * stop + convolutions
    return stop


def initialise(module: nn.Module, generator: torch.Generator | None = None, *, slope: float = SLOPE) -> None:
    """He's weights for all convolutions, the last included, for ReLUs of that slope (2015, Eq. 15); biases 0."""
    for layer in module.modules():
        # on the meta device there is nothing to draw, and trying would load torch's compiler: 75 MiB
        if isinstance(layer, nn.Conv2d) and not layer.weight.is_meta:
            nn.init.kaiming_normal_(layer.weight, a=slope, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
