"""The recipes of ASD: `paper` is the paper's schedule to the letter, `quick` takes minutes on a CPU."""

from __future__ import annotations

from asd_cli.data.amplitudes import PAPER_AMPLITUDES, Amplitudes
from asd_cli.methods.recipe import Recipe

RECIPES = {
    "quick": Recipe(
        crop=128,
        epochs=16,
        steps_per_epoch=25,
        warmup_epochs=3,
        learning_rate=1e-3,
        weight_decay=1e-5,
        decay="cosine",
        jitter=True,
        review_pieces=96,
        scaling="robust",
        amplitudes=Amplitudes(),
    ),
    "paper": Recipe(
        crop=256,
        epochs=100,
        steps_per_epoch=None,
        warmup_epochs=10,
        learning_rate=1e-4,
        weight_decay=1e-5,
        decay="none",
        jitter=False,
        review_pieces=None,
        scaling="maximum",
        amplitudes=PAPER_AMPLITUDES,
    ),
}
