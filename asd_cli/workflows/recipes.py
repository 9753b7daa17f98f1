"""From a recipe to the schedule of one training."""

from __future__ import annotations

from asd_cli.methods.recipe import Recipe
from asd_cli.workflows.training import Schedule


def schedule_of(recipe: Recipe, *, steps: int | None, pieces: int) -> tuple[Schedule, int]:
    """Steps and rates, and the number of warm-up epochs; `steps` replaces the recipe's number.

    An epoch without a fixed number of steps sees every one of the `pieces`. A shorter training warms up for the same
    share of its epochs.
    """
    steps_per_epoch = recipe.steps_per_epoch or pieces
    steps = steps or recipe.epochs * steps_per_epoch
    epochs = -(-steps // steps_per_epoch)
    warmup = min(recipe.warmup_epochs, epochs * recipe.warmup_epochs // max(recipe.epochs, 1))
    return Schedule(steps, steps_per_epoch, recipe.learning_rate, recipe.weight_decay, recipe.decay), warmup
