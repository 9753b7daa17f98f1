"""How a method is trained: what `--recipe` stands for, and what a method makes of the options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from asd_cli.data.amplitudes import Amplitudes
from asd_cli.data.localised import LocalAmplitudes


@dataclass(frozen=True)
class Recipe:
    """Schedule, scaling and virtual anomalies of a training.

    crop: side of a crop or piece in pixels. epochs: 0 for a method that is fitted, not trained. steps_per_epoch:
    None means every piece once.
    warmup_epochs: epochs in which the objective may hold terms back. learning_rate, weight_decay: of Adam. decay: how
    the rate falls. jitter: crops move at random around the pieces and those with hardly a normal pixel are left out;
    else every piece is taken as it is. review_pieces: pieces looked at after an epoch, None for all. scaling: range of
    the bands, see `Scaling`.
    """

    crop: int
    epochs: int
    steps_per_epoch: int | None
    warmup_epochs: int
    learning_rate: float
    weight_decay: float
    decay: Literal["none", "cosine", "one-cycle"]
    jitter: bool
    review_pieces: int | None
    scaling: Literal["robust", "maximum"]
    amplitudes: Amplitudes | LocalAmplitudes


@dataclass(frozen=True)
class TrainingPlan:
    """What a method makes of the options: keyword arguments of `create`, the recipe, and facts for the model file."""

    config: Mapping[str, Any]
    recipe: Recipe
    facts: Mapping[str, Any]
