"""The training loop with a toy objective: it knows no method."""

import csv
import os
import signal
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from asd_cli.errors import OutputError, TrainingError
from asd_cli.methods.base import TrainingBatch
from asd_cli.workflows.checkpoint import Checkpoint
from asd_cli.workflows.interrupt import DeferredInterrupt
from asd_cli.workflows.training import Schedule, TrainingLoop


class Toy:
    """Fits one number per band to the mean of the images."""

    def __init__(self) -> None:
        self.module = nn.Conv2d(2, 3, 3)
        with torch.no_grad():
            for index, parameter in enumerate(self.module.parameters()):
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape) + index)
        self.epochs: list[int] = []
        self.reviews: list[tuple[int, int, int]] = []
        self.factor = 1.0

    def losses(self, batch: TrainingBatch, epoch: int) -> dict[str, Tensor]:
        self.epochs.append(epoch)
        out = self.module(batch.image)
        return {"near": self.factor * (out - 1).square().mean(), "small": 0.1 * out.abs().mean()}

    def review(self, epochs_done: int, training: Iterable[Any], held_out: Iterable[Any]) -> dict[str, float]:
        self.reviews.append((epochs_done, len(list(training)), len(list(held_out))))
        assert len(list(training)) == 3  # a second time
        return {"radius": float(self.module.bias.detach().sum())}


class Numbers:
    """Batches that are a function of their number."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.fail_at = fail_at
        self.asked: list[int] = []
        self.threads: set[str] = set()

    def batch(self, number: int) -> TrainingBatch:
        self.asked.append(number)
        self.threads.add(threading.current_thread().name)
        if number == self.fail_at:
            raise OutputError("the disk is gone")
        image = torch.full((1, 2, 4, 4), float(number % 5))
        return TrainingBatch(image, image, torch.ones(1, 2, 2, dtype=torch.bool))

    def training(self) -> Iterable[TrainingBatch]:
        return [self.batch(-1) for _ in range(3)]

    def held_out(self) -> Iterable[TrainingBatch]:
        return [self.batch(-1)]


SCHEDULE = Schedule(steps=10, steps_per_epoch=4, learning_rate=0.1, weight_decay=0.0, decay="cosine")


def loop(folder: Path, toy: Toy, batches: Numbers | None = None, **options: Any) -> TrainingLoop:
    checkpoint = Checkpoint(folder / "toy.checkpoint", {"seed": 1})
    given = {"device": torch.device("cpu"), "checkpoint": checkpoint, "log": folder / "log.csv", **options}
    return TrainingLoop(toy, batches or Numbers(), SCHEDULE, **given)  # type: ignore[arg-type]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_rates_fall_along_a_cosine_or_stay() -> None:
    rates = [SCHEDULE.rate(step) for step in range(11)]
    assert rates[0] == 0.1
    assert rates == sorted(rates, reverse=True)
    assert rates[5] == pytest.approx(0.051)
    assert rates[10] == pytest.approx(0.002)
    assert Schedule(10, 4, 0.1, 0.0, "none").rate(9) == 0.1


def test_every_step_once_in_order_and_a_review_after_each_epoch(tmp_path: Path) -> None:
    toy, batches, seen = Toy(), Numbers(), []
    figures = loop(tmp_path, toy, batches, report=lambda step, figures: seen.append((step, dict(figures)))).run()
    assert [step for step in batches.asked if step >= 0] == list(range(10))
    assert toy.epochs == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert toy.reviews == [(0, 3, 1), (1, 3, 1), (2, 3, 1), (3, 3, 1)]
    assert [step for step, _ in seen] == list(range(1, 11))
    assert set(seen[0][1]) == {"radius", "near", "small", "loss"}
    assert figures == seen[-1][1]


def test_a_step_takes_as_many_batches_as_it_has_crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy, batches = Toy(), Numbers()
    monkeypatch.setitem(globals(), "SCHEDULE", replace(SCHEDULE, crops=2))
    loop(tmp_path, toy, batches).run()
    assert [number for number in batches.asked if number >= 0] == list(range(20))
    assert toy.epochs == [epoch for epoch in (0, 0, 0, 0, 1, 1, 1, 1, 2, 2) for _ in range(2)]


def test_the_log_holds_the_means_of_each_epoch(tmp_path: Path) -> None:
    steps: list[dict[str, float]] = []
    toy = Toy()
    original = toy.losses

    def recording(batch: TrainingBatch, epoch: int) -> dict[str, Tensor]:
        terms = original(batch, epoch)
        steps.append({name: term.item() for name, term in terms.items()})
        return terms

    toy.losses = recording  # type: ignore[method-assign]
    loop(tmp_path, toy).run()
    table = rows(tmp_path)
    assert list(table[0]) == ["epoch", "step", "learning_rate", "loss", "near", "small", "radius"]
    assert [(row["epoch"], row["step"]) for row in table] == [("1", "4"), ("2", "8"), ("3", "10")]
    for row, part in zip(table, (steps[:4], steps[4:8], steps[8:]), strict=True):
        for name in ("near", "small"):
            assert float(row[name]) == pytest.approx(sum(step[name] for step in part) / len(part))
        assert float(row["loss"]) == pytest.approx(float(row["near"]) + float(row["small"]))
    assert float(table[-1]["learning_rate"]) == SCHEDULE.rate(9)


@pytest.mark.parametrize("stop", [1, 3, 4, 6, 9, 10])
def test_interrupted_anywhere_and_resumed_it_ends_the_same(tmp_path: Path, stop: int) -> None:
    whole = Toy()
    (tmp_path / "whole").mkdir()
    last = loop(tmp_path / "whole", whole).run()

    def interrupt(step: int, figures: dict[str, float]) -> None:
        if step == stop:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        loop(tmp_path, Toy(), report=interrupt).run()
    resumed, batches = Toy(), Numbers()
    assert loop(tmp_path, resumed, batches).run(resume=True) == last
    assert [step for step in batches.asked if step >= 0] == list(range(stop, 10))
    for mine, theirs in zip(resumed.module.parameters(), whole.module.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert (tmp_path / "log.csv").read_text() == (tmp_path / "whole" / "log.csv").read_text()
    assert (tmp_path / "toy.checkpoint").exists()


def test_a_crash_leaves_the_last_epoch(tmp_path: Path) -> None:
    whole = Toy()
    loop(tmp_path, whole, log=None).run()
    (tmp_path / "toy.checkpoint").unlink()
    with pytest.raises(OutputError, match="the disk is gone"):
        loop(tmp_path, Toy(), Numbers(fail_at=7)).run()
    assert len(rows(tmp_path)) == 1
    resumed, batches = Toy(), Numbers()
    loop(tmp_path, resumed, batches).run(resume=True)
    assert [step for step in batches.asked if step >= 0] == list(range(4, 10))
    assert torch.equal(resumed.module.weight, whole.module.weight)


def test_a_loss_that_is_not_finite_ends_training_before_it_spoils_the_weights(tmp_path: Path) -> None:
    toy = Toy()
    toy.factor = float("inf")
    before = toy.module.weight.detach().clone()
    with pytest.raises(TrainingError, match=r"the loss is no longer finite at step 1; check the tiles for odd values"):
        loop(tmp_path, toy).run()
    assert torch.equal(toy.module.weight, before)


def test_no_thread_is_left(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    batches = Numbers()
    loop(tmp_path, Toy(), batches).run()
    with pytest.raises(OutputError):
        loop(tmp_path, Toy(), Numbers(fail_at=0)).run()

    def stop(step: int, figures: dict[str, float]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        loop(tmp_path, Toy(), report=stop).run()
    assert any(name.startswith("asd-batch") for name in batches.threads)
    assert set(threading.enumerate()) == before


def test_handlers_are_put_back_and_a_second_ctrl_c_interrupts_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with DeferredInterrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_training_works_outside_the_main_thread(tmp_path: Path) -> None:
    """Signals cannot be caught there."""
    done: list[dict[str, float]] = []
    thread = threading.Thread(target=lambda: done.append(loop(tmp_path, Toy()).run()))
    thread.start()
    thread.join()
    assert set(done[0]) >= {"loss", "radius"}
