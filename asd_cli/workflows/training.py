"""The one training loop. It knows no method: the objective gives the losses, the batches come by step number."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from asd_cli.errors import TrainingError
from asd_cli.methods.base import Objective, TrainingBatch
from asd_cli.nn.devices import placed
from asd_cli.staging import StagedFiles
from asd_cli.workflows.checkpoint import Checkpoint, Progress
from asd_cli.workflows.interrupt import DeferredInterrupt

_RISE = 0.2


@dataclass(frozen=True)
class Schedule:
    """Steps, epochs and learning rate.

    With decay ``cosine`` the rate falls from `learning_rate` to 2 % of it; with ``one-cycle`` it first rises from
    4 % of it during a fifth of the steps and then falls to 0 (Smith and Topin 2019).
    """

    steps: int
    steps_per_epoch: int
    learning_rate: float
    weight_decay: float
    decay: Literal["none", "cosine", "one-cycle"]

    def rate(self, step: int) -> float:
        """Learning rate of a step (counted from 0)."""
        if self.decay == "none":
            return self.learning_rate
        if self.decay == "one-cycle":
            rise = _RISE * self.steps
            if step < rise:
                return self.learning_rate * (0.04 + 0.96 * _half_wave(1 - step / rise))
            return self.learning_rate * _half_wave((step - rise) / (self.steps - rise))
        return self.learning_rate * (0.02 + 0.98 * _half_wave(step / self.steps))


class Batches(Protocol):
    """Training data: every batch is a function of its step number alone, so that a resumed run sees the same."""

    def batch(self, step: int) -> TrainingBatch:
        """The batch of a step (counted from 0)."""
        ...

    def training(self) -> Iterable[TrainingBatch]:
        """All training pixels, piece by piece, unchanged; can be iterated more than once."""
        ...

    def held_out(self) -> Iterable[TrainingBatch]:
        """All held-out pixels, piece by piece; can be iterated more than once."""
        ...


@dataclass(frozen=True)
class Devices:
    """Where to compute, and in which precision the networks run there."""

    device: torch.device

    def autocast(self) -> Any:
        """Context of a forward pass: bfloat16 on GPUs that know it, float32 elsewhere."""
        if self.device.type == "cuda" and torch.cuda.is_bf16_supported():
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return nullcontext()


class _OnDevice:
    def __init__(self, batches: Callable[[], Iterable[TrainingBatch]], device: torch.device) -> None:
        self._batches, self._device = batches, device

    def __iter__(self) -> Any:
        return (batch.to(self._device) for batch in self._batches())


class TrainingLoop:
    """Runs the schedule, with checkpoints after every epoch and on Ctrl-C.

    Args:
        objective: the losses and the module they train.
        batches: the data.
        schedule: steps and rates.
        device: where to compute.
        checkpoint: where an unfinished state is kept.
        log: CSV file that gets one row an epoch, or none.
        report: called after every step with its step number and the latest figures.
    """

    def __init__(
        self,
        objective: Objective,
        batches: Batches,
        schedule: Schedule,
        *,
        device: torch.device,
        checkpoint: Checkpoint,
        log: Path | None = None,
        report: Callable[[int, dict[str, float]], None] = lambda step, figures: None,
    ) -> None:
        self._objective, self._batches, self._schedule = objective, batches, schedule
        self._device, self._checkpoint, self._log, self._report = device, checkpoint, log, report
        self._module = placed(objective.module, device)
        self._optimizer = torch.optim.Adam(
            self._module.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True
        )
        self._devices = Devices(device)

    def run(self, *, resume: bool = False) -> dict[str, float]:
        """Train to the end of the schedule; returns the figures of the last epoch.

        Raises:
            TrainingError: the loss is no longer finite, or the checkpoint does not fit.
            KeyboardInterrupt: interrupted; the state is in the checkpoint.
        """
        progress = Progress()
        if resume and self._checkpoint.path.exists():
            progress = self._checkpoint.restore(self._module, self._optimizer)
        figures: dict[str, float] = dict(progress.rows[-1]) if progress.rows else {}
        with DeferredInterrupt() as interrupt, closing(self._ahead(progress.step)) as batches:
            if not progress.step:
                figures = self._review(0)
            self._module.train()
            for step, batch in batches:
                values = self._step(step, batch.to(self._device))
                progress = Progress(step + 1, progress.rows, _added(progress.sums, values))
                figures = {**figures, **values}
                if (step + 1) % self._schedule.steps_per_epoch == 0 or step + 1 == self._schedule.steps:
                    progress = self._end_epoch(progress)
                    figures = dict(progress.rows[-1])
                self._report(step + 1, figures)
                if interrupt.requested:
                    break
            if interrupt.requested:
                self._checkpoint.save(self._module, self._optimizer, progress)
                raise KeyboardInterrupt
        self._write_log(progress)
        return figures

    def _ahead(self, first: int) -> Generator[tuple[int, TrainingBatch]]:
        """Steps from `first` to the last with their batches, read one step ahead in a thread."""
        last = self._schedule.steps - 1
        with ThreadPoolExecutor(1, "asd-batch") as pool:
            upcoming = pool.submit(self._batches.batch, first) if first <= last else None
            for step in range(first, last + 1):
                assert upcoming is not None
                batch = upcoming.result()
                upcoming = pool.submit(self._batches.batch, step + 1) if step < last else None
                yield step, batch

    def _step(self, step: int, batch: TrainingBatch) -> dict[str, float]:
        for group in self._optimizer.param_groups:
            group["lr"] = self._schedule.rate(step)
        self._optimizer.zero_grad(set_to_none=True)
        with self._devices.autocast():
            terms = self._objective.losses(batch, step // self._schedule.steps_per_epoch)
            loss = torch.stack([t.float() for t in terms.values()]).sum()
        values = {"loss": loss.item(), **{name: term.item() for name, term in terms.items()}}
        if not math.isfinite(values["loss"]):
            raise TrainingError(
                f"the loss is no longer finite at step {step + 1}; check the tiles for odd values (--bands, --nodata)"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return values

    def _review(self, epochs_done: int) -> dict[str, float]:
        return self._objective.review(
            epochs_done,
            _OnDevice(self._batches.training, self._device),
            _OnDevice(self._batches.held_out, self._device),
        )

    def _end_epoch(self, progress: Progress) -> Progress:
        """Add a row to the log: the means of the epoch's losses and what the review says."""
        epochs_done = math.ceil(progress.step / self._schedule.steps_per_epoch)
        count = progress.step - (epochs_done - 1) * self._schedule.steps_per_epoch
        row: dict[str, float] = {
            "epoch": epochs_done,
            "step": progress.step,
            "learning_rate": self._schedule.rate(progress.step - 1),
            **{name: total / count for name, total in progress.sums.items()},
            **self._review(epochs_done),
        }
        progress = Progress(progress.step, (*progress.rows, row))
        self._checkpoint.save(self._module, self._optimizer, progress)
        self._write_log(progress)
        return progress

    def _write_log(self, progress: Progress) -> None:
        if self._log is None:
            return
        columns = list(dict.fromkeys(key for row in progress.rows for key in row))
        with StagedFiles(overwrite=True) as staged:
            with staged.stage(self._log).open("w", newline="") as file:
                writer = csv.DictWriter(file, columns, restval="")
                writer.writeheader()
                writer.writerows(progress.rows)
            staged.commit()


def _half_wave(part: float) -> float:
    """From 1 at 0 to 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * part))


def _added(sums: Mapping[str, float], values: Mapping[str, float]) -> dict[str, float]:
    return {name: sums.get(name, 0.0) + value for name, value in values.items()}
