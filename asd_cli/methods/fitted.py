"""What methods have in common that are fitted to normal pixels in one pass and not trained step by step."""

from __future__ import annotations

from asd_cli.data.amplitudes import Amplitudes
from asd_cli.errors import InputError
from asd_cli.methods.recipe import Recipe
from asd_cli.options import TrainOptions


def fitted_recipe(options: TrainOptions, *, method: str, crop: int = 512) -> Recipe:
    """The recipe of a method that has nothing to train; `crop` is the side of the pieces that tiles are read in.

    Raises:
        InputError: options that only a training can follow.
    """
    if options.recipe != TrainOptions().recipe:
        raise InputError(f"--recipe {options.recipe}: the method {method} is fitted in one pass; leave the option out")
    for name, value in (("steps", options.steps), ("log", options.log)):
        if value is not None:
            raise InputError(f"--{name} {value}: the method {method} has no training steps; leave the option out")
    return Recipe(
        crop=crop,
        epochs=0,
        steps_per_epoch=None,
        warmup_epochs=0,
        learning_rate=0.0,
        weight_decay=0.0,
        decay="none",
        jitter=False,
        review_pieces=None,
        scaling="robust",
        amplitudes=Amplitudes(),
    )
