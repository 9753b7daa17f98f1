"""`asd train` with each method that is trained step by step: the same bytes from a broken and an unbroken run."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asd_cli.options import TileOptions, TrainOptions
from asd_cli.workflows.models import load_model
from asd_cli.workflows.train import train

SETTINGS = {
    "dsvdd": (("boundary", "soft"),),
    "arnet": (("width", "4"),),
    "riad": (("width", "4"), ("cells", "2,8"), ("smooth", "5")),
    "ganomaly": (("width", "4"),),
}


class Stop:
    """Progress that sends Ctrl-C after some steps."""

    def __init__(self, step: int) -> None:
        self._step = step

    def __call__(self, done: int, total: int, figures: Any = None) -> None:
        if done == self._step:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("method", SETTINGS)
def test_interrupted_and_resumed_it_ends_with_the_same_file(method: str, tiny_tiles: Path, tmp_path: Path) -> None:
    """Seeded weights, what a step draws, and the networks that only help in training are there again."""
    options = TrainOptions(
        tiles=TileOptions(tiles=(str(tiny_tiles),), normal=("forest",)),
        method=method,
        method_options=SETTINGS[method],
        output=tmp_path / "whole.safetensors",
        steps=3,
        crop=48,
        device="cpu",
    )
    state = torch.random.get_rng_state()
    train(options)
    assert torch.equal(state, torch.random.get_rng_state())
    broken = replace(options, output=tmp_path / "broken.safetensors")
    with pytest.raises(KeyboardInterrupt):
        train(broken, progress=Stop(1))
    train(replace(broken, resume=True))
    assert broken.output.read_bytes() == options.output.read_bytes()
    model = load_model(options.output)
    assert (model.detector.name, model.normal, model.header["training"]["steps"]) == (method, None, 3)
    assert np.isfinite(model.header["held_out"]["median"])
