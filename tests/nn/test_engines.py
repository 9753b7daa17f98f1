"""Engines give what their function gives. The CUDA engine runs here with a stand-in for streams and graphs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from asd_cli.nn import engines
from asd_cli.nn.engines import CudaEngine, TorchEngine, torch_engine

CPU = torch.device("cpu")
captures: list[int] = []


class Stream:
    def __init__(self, device: Any) -> None:
        self.synchronized = 0

    def synchronize(self) -> None:
        self.synchronized += 1


@contextmanager
def current(stream: Stream) -> Iterator[None]:
    yield


def captured(compute: Callable[[], torch.Tensor], stream: Stream) -> tuple[Callable[[], None], torch.Tensor]:
    """As a graph does: the result stays in one place, and a replay computes from what the input holds then."""
    captures.append(threading.get_ident())
    result = compute()
    return lambda: result.copy_(compute()), result


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    captures.clear()
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", current)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(engines, "_pinned", torch.empty)
    monkeypatch.setattr(engines, "_captured", captured)


def blocks(seed: int, batch: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 9, (batch, 3, 20, 20)).astype(np.float32)


def middle(x: torch.Tensor) -> torch.Tensor:
    return x.sum(dim=1)[:, 2:-2, 2:-2]


def test_the_device_chooses_the_engine() -> None:
    assert isinstance(torch_engine(middle, CPU, 16), TorchEngine)
    assert isinstance(torch_engine(middle, torch.device("cuda"), 16), CudaEngine)


def test_torch_engine_adds_the_channel_that_distances_lack() -> None:
    engine = TorchEngine(middle, CPU, 16)
    np.testing.assert_array_equal(engine(blocks(0, 1)), blocks(0, 1).sum(axis=1, keepdims=True)[..., 2:-2, 2:-2])


@pytest.mark.usefixtures("cuda")
def test_every_replay_computes_from_its_own_blocks() -> None:
    engine = CudaEngine(middle, CPU, 16)
    first, second = engine(blocks(1)), engine(blocks(2))
    for seed, found in ((1, first), (2, second)):  # the first result is not overwritten by the second
        np.testing.assert_allclose(found[:, 0], blocks(seed).sum(axis=1)[:, 2:-2, 2:-2], rtol=1e-6)
    assert len(captures) == 1


@pytest.mark.usefixtures("cuda")
def test_each_thread_captures_for_itself() -> None:
    engine, found = CudaEngine(lambda x: x[:, :2, 2:-2, 2:-2], CPU, 16), {}
    threads = [threading.Thread(target=lambda seed=seed: found.update({seed: engine(blocks(seed))})) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (1, 2):
        np.testing.assert_array_equal(found[seed], blocks(seed)[:, :2, 2:-2, 2:-2])
    assert len(captures) == 2
