"""The recipes of ASD: `paper` is the paper's schedule to the letter, `quick` its losses in minutes on a CPU, `standard`
teaches with localised virtual anomalies."""

from __future__ import annotations

from asd_cli.data.amplitudes import PAPER_AMPLITUDES, Amplitudes
from asd_cli.data.localised import LocalAmplitudes
from asd_cli.methods.recipe import Recipe

RECIPES = {
    "standard": Recipe(
        crop=192,
        epochs=10,
        steps_per_epoch=30,  # of each network
        warmup_epochs=0,
        learning_rate=2e-3,
        weight_decay=1e-5,
        decay="one-cycle",
        jitter=True,
        review_pieces=12,
        scaling="robust",
        amplitudes=LocalAmplitudes(),
    ),
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
