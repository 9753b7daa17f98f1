"""Engines that compute on the calling thread."""

from __future__ import annotations

import threading

import numpy as np
import torch

from asd_cli.nn.engines import SingleEngine


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
