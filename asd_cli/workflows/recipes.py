"""The recipes of `asd train`: schedule and virtual anomalies by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from asd_cli.data.augment import PAPER_AMPLITUDES, Amplitudes
from asd_cli.workflows.training import Schedule


@dataclass(frozen=True)
class Recipe:
    """What `--recipe` stands for; `paper` is the paper's schedule to the letter."""

    crop: int
    epochs: int
    steps_per_epoch: int | None
    warmup_epochs: int
    learning_rate: float
    weight_decay: float
    decay: Literal["none", "cosine"]
    jitter: bool
    review_pieces: int | None
    amplitudes: Amplitudes


RECIPES = {
    "quick": Recipe(128, 16, 25, 3, 1e-3, 1e-5, "cosine", True, 96, Amplitudes()),
    "paper": Recipe(256, 100, None, 10, 1e-4, 1e-5, "none", False, None, PAPER_AMPLITUDES),
}


def schedule_of(recipe: Recipe, *, steps: int | None, pieces: int) -> tuple[Schedule, int]:
    """Steps and rates, and the number of warm-up epochs; `steps` replaces the recipe's number.

    An epoch without a fixed number of steps sees every one of the `pieces`.
    """
    steps_per_epoch = recipe.steps_per_epoch or pieces
    steps = steps or recipe.epochs * steps_per_epoch
    epochs = -(-steps // steps_per_epoch)
    warmup = min(recipe.warmup_epochs, epochs * recipe.warmup_epochs // recipe.epochs)
    return Schedule(steps, steps_per_epoch, recipe.learning_rate, recipe.weight_decay, recipe.decay), warmup
