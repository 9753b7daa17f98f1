"""RIAD (Zavrtanik et al., "Reconstruction by inpainting for visual anomaly detection", Pattern Recognition 2021).

The cells of a grid are shared out at random among n sets; the cells of one set at a time are blanked, a U-Net inpaints
them from the rest, and the inpainted cells of all sets make one image. What cannot be told from its surroundings is
anomalous.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from asd_cli.data.amplitudes import Amplitudes
from asd_cli.errors import ModelFileError
from asd_cli.methods.base import TrainingBatch
from asd_cli.methods.recipe import Recipe
from asd_cli.methods.restoring import RestoringDetector, RestoringObjective, RestoringSettings, smoothed, trimmed
from asd_cli.methods.scaled import check_within
from asd_cli.nn.masked import inside, masked_mean, whole_cells
from asd_cli.nn.similarity import (
    GRADIENT_WINDOW,
    SSIM_WINDOW,
    gradient_difference,
    ssim_difference,
)
from asd_cli.nn.unet import UNet
from asd_cli.options import TrainOptions

PERIOD = 64
"""Pixels after which the sets repeat themselves at scoring; a divisor of every block's side."""
_LEVELS = 4  # of the gradient magnitudes: full, half, quarter, eighth
_COARSEST = 1 << (_LEVELS - 1)
_PATTERN_SEED = 20210101  # any will do; the sets drawn with it travel in the model


@dataclass(frozen=True)
class RiadSettings(RestoringSettings):
    """cells: sides of the grids' cells in pixels, powers of two up to 32. sets: n, that share out the cells."""

    smooth: int = 21
    cells: tuple[int, ...] = (2, 4, 8, 16)
    sets: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_within(self, sets=(2, 8))
        object.__setattr__(self, "cells", tuple(self.cells))  # JSON has lists only
        shown = ",".join(str(cell) for cell in self.cells)
        if not self.cells or any(cell not in (2, 4, 8, 16, 32) for cell in self.cells):
            raise ValueError(f"cells={shown} are not powers of two within 2..32")
        if len(set(self.cells)) < len(self.cells):
            raise ValueError(f"cells={shown} names one twice")


class RiadMethod(RestoringDetector):
    """1 - MSGMS (multi-scale gradient magnitude similarity) of image and inpainted image, averaged over cell sizes.

    At scoring the sets are a fixed pattern that repeats every 64 px, counted from the first pixel of the output. So the
    map is equivariant to shifts by `align` = 64 px, or by the U-Net's 2^depth px where that is more; blocks begin at
    multiples of 128 px of the scene.
    """

    name: ClassVar[str] = "riad"
    settings_kind = RiadSettings
    settings: RiadSettings
    recipe = Recipe(
        crop=128,
        epochs=10,
        steps_per_epoch=25,
        warmup_epochs=0,
        learning_rate=1e-3,
        weight_decay=0.0,
        decay="cosine",
        jitter=True,
        review_pieces=2,
        scaling="robust",
        amplitudes=Amplitudes(),
    )

    def __init__(self, bands: int, settings: RiadSettings) -> None:
        super().__init__(bands, settings)
        self.network = UNet(bands, width=settings.width, depth=settings.depth, convolutions=settings.convolutions)
        # of the map around the output: the mean filter, and two of the coarsest cells, one of them perhaps cut
        around = settings.smooth // 2 + 2 * _COARSEST - 1
        self.margin = -(-around // _COARSEST) * _COARSEST
        self.halo = self.network.halo + self.margin
        self.align = max(PERIOD, self.network.align)
        pattern = np.stack([fixed_sets(cell, settings.sets) for cell in settings.cells])
        self.register_buffer("pattern", torch.tensor(pattern, dtype=torch.uint8))
        self.pattern: Tensor

    def objective(self, options: TrainOptions, *, warmup_epochs: int) -> RiadObjective:
        """Squared error, MSGMS and SSIM of the inpainted image."""
        return RiadObjective(self)

    def inpainted(self, x: Tensor, sets: Tensor) -> Tensor:
        """(B, bands, H + 2 h, W + 2 h) on the network's range, sets (H + 2 h, W + 2 h) -> (B, bands, H, W).

        `sets` says which set each pixel belongs to; h is the network's halo. Every pixel comes from the pass in which
        it was blanked.
        """
        inner = trimmed(sets, self.network.halo)
        result = torch.zeros_like(trimmed(x, self.network.halo))
        for number in range(self.settings.sets):
            result = torch.where(inner == number, self.network(x.masked_fill(sets == number, 0.0)), result)
        return result

    def distances(self, x: Tensor) -> Tensor:
        """See `Detector`; in [0, 1]."""
        x = self.normalise(x)
        height, width = (n - 2 * self.halo for n in x.shape[-2:])
        target = trimmed(x, self.network.halo)
        side = self.settings.smooth // 2
        shape = (height + 2 * side, width + 2 * side)
        total = x.new_zeros((len(x), *shape))
        for pattern in self.pattern:
            result = self.inpainted(x, self._sets(pattern, x))
            for level, difference in _levels(target, result):
                step = 1 << level
                fine = interpolate(difference[:, None], scale_factor=step, mode="nearest")[:, 0]
                first = self.margin - side - step  # the first window begins with the region, its centre a cell later
                total += fine[:, first : first + shape[0], first : first + shape[1]]
        return smoothed(total / (_LEVELS * len(self.pattern)), self.settings.smooth)

    def _sets(self, pattern: Tensor, x: Tensor) -> Tensor:
        """The pattern (64, 64) over all of x, so that its corner falls on the first pixel of the output."""
        rows, cols = (torch.arange(n, device=x.device).sub(self.halo).remainder(PERIOD) for n in x.shape[-2:])
        return pattern[rows[:, None], cols]

    def _check_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        super()._check_arrays(arrays)
        if arrays["pattern"].max() >= self.settings.sets:
            raise ModelFileError("tensor pattern is damaged: it names a set that there is not")


class RiadObjective(RestoringObjective[RiadMethod]):
    """L2 + MSGMS + SSIM, each with weight 1, of one cell size a step (Sec. 3 of the paper)."""

    short_names: ClassVar[Mapping[str, str]] = {
        "loss": "loss", "squares": "L2", "gradients": "MSGMS", "structure": "SSIM", "held_out": "held-out d",
    }  # fmt: skip

    def losses(self, batch: TrainingBatch, epoch: int) -> dict[str, Tensor]:
        """The three terms; windows that touch a pixel that does not count are left out."""
        method, mask = self.method, batch.mask
        x = trimmed(method.normalise(batch.image), method.margin)
        random = np.random.default_rng(batch.seed)
        cell = method.settings.cells[int(random.integers(len(method.settings.cells)))]
        height, width = x.shape[-2:]
        sets = drawn_sets(height, width, cell, method.settings.sets, random)
        result = method.inpainted(x, torch.from_numpy(sets).to(x.device))
        target = trimmed(x, method.network.halo)
        return {
            "squares": masked_mean((result - target).square().mean(dim=1), mask),
            "gradients": _gradient_loss(target, result, mask),
            "structure": _structure_loss(target, result, mask),
        }


def drawn_sets(height: int, width: int, cell: int, count: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """(height, width): the cells of a grid shared out at random among `count` sets of equal size, as far as it goes."""
    rows, cols = -(-height // cell), -(-width // cell)
    grid = random.permutation(rows * cols).astype(np.int64) % count
    return grid.astype(np.uint8).reshape(rows, cols).repeat(cell, 0).repeat(cell, 1)[:height, :width]


def fixed_sets(cell: int, count: int) -> NDArray[np.uint8]:
    """(64, 64): the sets of scoring, always the same."""
    return drawn_sets(PERIOD, PERIOD, cell, count, np.random.default_rng([_PATTERN_SEED, cell, count]))


def _levels(x: Tensor, y: Tensor) -> Iterator[tuple[int, Tensor]]:
    """1 - GMS of two images at full, half, quarter and eighth size; levels that are too small are left out."""
    for level in range(_LEVELS):
        if min(x.shape[-2:]) >> level >= GRADIENT_WINDOW:
            yield level, gradient_difference(avg_pool2d(x, 1 << level), avg_pool2d(y, 1 << level))


def _gradient_loss(x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    total = y.sum() * 0.0
    for level, difference in _levels(x, y):
        total = total + masked_mean(difference, inside(whole_cells(mask, 1 << level), GRADIENT_WINDOW))
    return total / _LEVELS


def _structure_loss(x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    if min(x.shape[-2:]) < SSIM_WINDOW:
        return y.sum() * 0.0
    return masked_mean(ssim_difference(x, y), inside(mask, SSIM_WINDOW))
