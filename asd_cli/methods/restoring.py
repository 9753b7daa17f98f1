"""What the methods share that restore an image and score by how badly they do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from asd_cli.methods.base import TrainingBatch
from asd_cli.methods.recipe import Recipe, TrainingPlan
from asd_cli.methods.scaled import ScaledDetector, check_within, mean_distance, settings_of
from asd_cli.nn.engines import block_side
from asd_cli.options import TrainOptions

_LEAST_BLOCK = 256  # in smaller ones the halo would be most of the work


@dataclass(frozen=True)
class RestoringSettings:
    """Of every method here: width: channels of the finest level; depth: times that the image is halved; convolutions:
    on each level; smooth: side in pixels of the mean filter over the map, odd, 1 for none."""

    width: int = 16
    depth: int = 3
    convolutions: int = 1
    smooth: int = 1

    def __post_init__(self) -> None:
        check_within(self, width=(1, 128), depth=(1, 5), convolutions=(1, 4), smooth=(1, 63))
        if self.smooth % 2 == 0:
            raise ValueError(f"smooth={self.smooth} is even; give an odd number of pixels")


class RestoringDetector(ScaledDetector):
    """A method whose configuration is its settings; the distance is the error of a restored image."""

    settings_kind: ClassVar[type[RestoringSettings]]
    recipe: ClassVar[Recipe]

    def __init__(self, bands: int, settings: RestoringSettings) -> None:
        super().__init__(bands)
        self.settings = settings

    @classmethod
    def create(cls, bands: int, **config: Any) -> Self:
        """A method with untrained weights; `config` holds its settings.

        Raises:
            ValueError: a setting is out of range.
        """
        return cls(bands, cls.settings_kind(**config))

    @classmethod
    def plan(cls, options: TrainOptions) -> TrainingPlan:
        """Settings and the recipe `quick`; the model file is told the virtual anomalies.

        Raises:
            InputError: a setting out of range, or options that mean nothing here.
        """
        settings = settings_of(cls.settings_kind, options, method=cls.name)
        return TrainingPlan(asdict(settings), cls.recipe, cls.facts())

    @classmethod
    def facts(cls) -> dict[str, Any]:
        """What the model file is told of the training."""
        return {}

    def config(self) -> dict[str, Any]:
        """JSON-ready arguments of `create`."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.settings).items()}

    def block_side(self, device: torch.device) -> int:
        """See `Detector`; at least 256."""
        return max(block_side(device), _LEAST_BLOCK)


M = TypeVar("M", bound=RestoringDetector)


class RestoringObjective(Generic[M]):
    """Base of the objectives: nothing changes between epochs, and the log gets the mean distance of held-out pixels."""

    short_names: ClassVar[Mapping[str, str]]

    def __init__(self, method: M) -> None:
        self.method = method

    @property
    def module(self) -> nn.Module:
        """What is trained."""
        return self.method

    def review(
        self, epochs_done: int, training: Iterable[TrainingBatch], held_out: Iterable[TrainingBatch]
    ) -> dict[str, float]:
        """See `Objective`."""
        return {"held_out": mean_distance(self.method, held_out)}


def trimmed(x: Tensor, margin: int) -> Tensor:
    """(..., h, w) without `margin` px on each side."""
    return x[..., margin : x.shape[-2] - margin, margin : x.shape[-1] - margin]


def smoothed(values: Tensor, side: int) -> Tensor:
    """(B, h, w) -> (B, h - side + 1, w - side + 1): means of side x side px."""
    across = avg_pool2d(values[:, None], (1, side), stride=1)
    return avg_pool2d(across, (side, 1), stride=1)[:, 0]
