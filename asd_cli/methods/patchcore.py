"""PatchCore: distance from the nearest of remembered features of a frozen network.

Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from asd_cli.density.coreset import greedy_coreset
from asd_cli.errors import InputError, ModelFileError
from asd_cli.methods.backbone.detector import BackboneDetector
from asd_cli.methods.backbone.features import (
    BLOCK,
    BackboneSettings,
    FrozenFeatures,
    checked_halo,
    resampled,
)
from asd_cli.methods.backbone.loading import STRIDES, check_weights
from asd_cli.methods.base import MemoryDetector
from asd_cli.methods.fitted import fitted_recipe
from asd_cli.methods.recipe import TrainingPlan
from asd_cli.methods.settings import read_settings
from asd_cli.options import TrainOptions

_CELL = STRIDES[1]
_MEMORY, _MOST_NEIGHBOURS = (10, 20_000), 50
_CHOICE = 10  # descriptors to choose each remembered one from
_SAMPLE_VALUES = 1 << 25
_CHUNK = 2048  # cells compared with the memory at once


@dataclass(frozen=True)
class PatchCoreSettings(BackboneSettings):
    """memory: descriptors remembered, at most. neighbours: of the nearest one that re-weight the distance (b of Eq. 7),
    0 for none."""

    memory: int = 2000
    neighbours: int = 0


class PatchCore(BackboneDetector, MemoryDetector):
    """The features of the middle two stages, averaged over 3 x 3 cells (Eq. 1-2), on cells of 8 px; the distance of a
    cell is that of its nearest remembered descriptor, and pixels between cells are interpolated."""

    name: ClassVar[str] = "patchcore"

    def __init__(self, bands: int, features: FrozenFeatures, *, backbone: str, memory: int, neighbours: int) -> None:
        super().__init__(bands, features, backbone)
        self.length = sum(features.channels[1:])
        self._wanted, self._around = memory, neighbours
        self.register_buffer("memory", torch.zeros(memory, self.length))
        self.register_buffer("neighbours", torch.zeros(memory, neighbours, dtype=torch.int64))
        self.memory: Tensor
        self.neighbours: Tensor

    @classmethod
    def create(cls, bands: int, **config: Any) -> Self:
        """A detector on a backbone; `config` holds backbone, halo, memory, neighbours and, when it is new, weights.

        Raises:
            ValueError: a setting is out of range.
            InputError: the backbone cannot be had.
        """
        settings = PatchCoreSettings(**{"weights": "random", **config})
        _check(settings, least=1)
        backbone = settings.backbone
        features = FrozenFeatures(bands, backbone=backbone, halo=settings.halo, weights=settings.weights)
        return cls(bands, features, backbone=backbone, memory=settings.memory, neighbours=settings.neighbours)

    @classmethod
    def plan(cls, options: TrainOptions) -> TrainingPlan:
        """Backbone and settings; one pass over the tiles.

        Raises:
            InputError: settings that are out of range, no weights, or options of a training.
        """
        settings = read_settings(PatchCoreSettings, options.method_options, method=cls.name)
        facts = check_weights(settings.weights)
        try:
            _check(settings, least=_MEMORY[0])
        except ValueError as error:
            raise InputError(f"--option {error}") from error
        config = {**_config(settings), "weights": settings.weights}
        return TrainingPlan(config, fitted_recipe(options, method=cls.name, crop=BLOCK), facts)

    def config(self) -> dict[str, Any]:
        """JSON-ready arguments of `create`; weights and memory are among the arrays."""
        count, neighbours = self.neighbours.shape
        return _config(PatchCoreSettings(self.backbone, "", self.halo, count, neighbours))

    @property
    def sample_size(self) -> int:
        """See `MemoryDetector`."""
        return max(self._wanted, min(_CHOICE * self._wanted, _SAMPLE_VALUES // self.length))

    def set_memory(self, descriptors: NDArray[np.float32], seed: int) -> None:
        """See `MemoryDetector`: a greedy coreset (Algorithm 1)."""
        kept = descriptors[greedy_coreset(descriptors, self._wanted, seed)]
        self.memory = torch.from_numpy(kept).to(self.memory.device)
        count = min(self._around, len(kept))
        count = count if count > 1 else 0  # a single neighbour would weigh every distance with 0
        self.neighbours = _nearest(self.memory, self.memory, count)

    def cells(self, x: Tensor, shape: tuple[int, int]) -> Tensor:
        """Descriptors (B, length, *shape) of the cells from the first inside the halo on; `x` is raw."""
        _, middle, coarse = (F.avg_pool2d(f, 3, stride=1, padding=1) for f in self.features(x))
        first = self.halo // _CELL
        own = middle[..., first : first + shape[0], first : first + shape[1]]
        ratio = STRIDES[2] // _CELL
        return torch.cat([own, resampled(coarse, ratio, first // ratio, shape)], dim=1)

    def descriptors(self, x: Tensor) -> Tensor:
        """(B, bands, H + 2 halo, W + 2 halo) raw -> (B, length, H, W): of the cell whose centre is nearest."""
        height, width = x.shape[-2] - 2 * self.halo, x.shape[-1] - 2 * self.halo
        rows, cols = ((torch.arange(n, device=x.device) + _CELL // 2) // _CELL for n in (height, width))
        cells = self.cells(x, (int(rows[-1]) + 1, int(cols[-1]) + 1))
        return cells[:, :, rows[:, None], cols]

    def distances(self, x: Tensor) -> Tensor:
        """See `Detector`: distances of cells (Eq. 6, or Eq. 7 with `neighbours`), bilinear between them."""
        height, width = x.shape[-2] - 2 * self.halo, x.shape[-1] - 2 * self.halo
        cells = self.cells(x, (-(-(height - 1) // _CELL) + 1, -(-(width - 1) // _CELL) + 1))
        rows = cells.movedim(1, -1)
        found = torch.cat([self._of_rows(part) for part in _chunks(rows.reshape(-1, self.length))])
        return resampled(found.view(rows.shape[:-1]).unsqueeze(1), _CELL, 0, (height, width))[:, 0]

    def _of_rows(self, rows: Tensor) -> Tensor:
        """(n, length) -> (n,)"""
        nearest = _nearest(rows, self.memory, 1)[:, 0]
        distance: Tensor = (rows - self.memory[nearest]).norm(dim=1)
        if not self.neighbours.shape[1]:
            return distance
        around = self.memory[self.neighbours[nearest]]
        others = (rows.unsqueeze(1) - around).norm(dim=2)
        weight: Tensor = 1 - 1 / (others - distance.unsqueeze(1)).exp().sum(dim=1)
        return distance * weight

    def _check_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        super()._check_arrays(arrays)
        near = arrays["neighbours"]
        if near.size and not (near.min() >= 0 and near.max() < len(near)):
            raise ModelFileError("tensor neighbours is damaged: it names descriptors that are not there")


def _nearest(rows: Tensor, memory: Tensor, count: int) -> Tensor:
    """(n, count) int64: the nearest rows of `memory` (m, L) for each of `rows` (n, L), by one matrix product a chunk.

    Both are moved to the memory's mean first: the products would cancel digits otherwise.
    """
    centre = memory.mean(dim=0)
    moved = memory - centre
    squares = moved.square().sum(dim=1)
    parts = [
        torch.addmm(squares, part - centre, moved.T, alpha=-2).topk(count, dim=1, largest=False).indices
        for part in _chunks(rows)
    ]
    return torch.cat(parts)


def _chunks(rows: Tensor) -> Sequence[Tensor]:
    return [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]


def _config(settings: PatchCoreSettings) -> dict[str, Any]:
    names = ("backbone", "halo", "memory", "neighbours")
    return {name: getattr(settings, name) for name in names}


def _check(settings: PatchCoreSettings, *, least: int) -> None:
    checked_halo(settings.halo)
    if not least <= settings.memory <= _MEMORY[1]:
        raise ValueError(f"memory={settings.memory} is not within {least}..{_MEMORY[1]}")
    if settings.neighbours == 1 or not 0 <= settings.neighbours <= _MOST_NEIGHBOURS:
        raise ValueError(f"neighbours={settings.neighbours} is neither 0 nor within 2..{_MOST_NEIGHBOURS}")
