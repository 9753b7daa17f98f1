"""What is on a device stays there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asd_cli.nn.devices import Constant
from asd_cli.nn.smoothing import GaussianSmoothing
from asd_cli.nn.surroundings import Surroundings


def test_a_constant_is_copied_once_and_serves_training_too() -> None:
    constant, x = Constant(np.ones(3, np.float32)), torch.zeros(1, dtype=torch.float64)
    with torch.inference_mode():
        first = constant.like(x)
    assert constant.like(x) is first
    assert first.dtype == x.dtype
    assert not first.is_inference()


@pytest.mark.parametrize("made", [Surroundings(1, 9, blur=1.0, far=24), GaussianSmoothing(1.5)])
def test_a_second_call_takes_nothing_from_the_host(
    made: Surroundings | GaussianSmoothing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A captured CUDA graph must not copy from there."""
    x = torch.ones((1, 1, 8 + 2 * made.margin, 8 + 2 * made.margin))
    first = made(x)
    monkeypatch.delattr(torch, "from_numpy")
    assert torch.equal(made(x), first)
