"""Engines give what their function gives. The CUDA engine runs here with a stand-in for streams and graphs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from asd_cli.nn import engines, fused
from asd_cli.nn.engines import CudaEngine, SingleEngine, TorchEngine, torch_engine

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
    assert isinstance(torch_engine(middle, CPU, 16), SingleEngine)
    assert isinstance(torch_engine(middle, torch.device("mps"), 16), TorchEngine)
    assert isinstance(torch_engine(middle, torch.device("cuda"), 16), CudaEngine)


def test_torch_engine_adds_the_channel_that_distances_lack() -> None:
    engine = TorchEngine(middle, CPU, 16)
    np.testing.assert_array_equal(engine(blocks(0, 1)), blocks(0, 1).sum(axis=1, keepdims=True)[..., 2:-2, 2:-2])


def test_the_maker_of_a_single_engine_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        inside: list[int] = []
        engine = SingleEngine(lambda x: (inside.append(torch.get_num_threads()), middle(x))[1], 16)
        engine(blocks(0, 1))
        assert (inside, torch.get_num_threads()) == ([1], 3)
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("cuda")
def test_every_replay_computes_from_its_own_blocks() -> None:
    engine = CudaEngine(middle, CPU, 16)
    first, second = engine(blocks(1)), engine(blocks(2))
    for seed, found in ((1, first), (2, second)):  # the first result is not overwritten by the second
        np.testing.assert_allclose(found[:, 0], blocks(seed).sum(axis=1)[:, 2:-2, 2:-2], rtol=1e-6)
    assert len(captures) == 1


@pytest.mark.usefixtures("cuda")
def test_convolutions_keep_the_precision_of_float32() -> None:
    seen: list[bool] = []

    def function(x: torch.Tensor) -> torch.Tensor:
        seen.append(torch.backends.cudnn.allow_tf32)
        return middle(x)

    before = torch.backends.cudnn.allow_tf32
    CudaEngine(function, CPU, 16)(blocks(1))
    assert set(seen) == {False}
    assert torch.backends.cudnn.allow_tf32 == before


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


def test_a_fused_kernel_that_does_not_run_is_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any, **kwargs: Any) -> torch.Tensor:
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC.")

    real = torch.nn.Module.to
    monkeypatch.setattr(fused, "find_spec", lambda name: True)
    monkeypatch.setattr(fused, "fused_hidden_layer", broken)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: real(self, CPU))
    monkeypatch.setattr(torch, "zeros", lambda shape, dtype, device: torch.empty(shape, dtype=dtype))
    fused.available.cache_clear()
    assert not fused.available(torch.device("cuda"))
    assert "cannot be used on cuda (Failed to find C compiler. Please specify via CC.)" in caplog.text
    fused.available.cache_clear()


def test_the_fused_kernel_is_for_cuda_and_small_networks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "find_spec", lambda name: True)
    assert not fused.available(CPU)
    assert not fused.available(torch.device("cuda"), kernel=30)
    assert not fused.available(torch.device("cuda"), rows=256)


def threads_of_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def test_a_single_engine_computes_on_the_calling_thread_and_leaves_the_others_alone() -> None:
    seen: list[int] = []

    def function(x: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return x.sum(dim=1)

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        engine = SingleEngine(function, 8)
        blocks = np.random.default_rng(0).normal(size=(1, 2, 8, 8)).astype(np.float32)
        results: list[np.ndarray] = []
        callers = [threading.Thread(target=lambda: results.append(engine(blocks))) for _ in range(2)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert seen == [1, 1]
        assert (torch.get_num_threads(), threads_of_a_new_thread()) == (3, 3)
    finally:
        torch.set_num_threads(before)
    assert engine.callers is None
    for result in results:
        np.testing.assert_array_equal(result, blocks.sum(axis=1, keepdims=True))
