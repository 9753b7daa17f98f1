"""The one training loop. It knows no method: the objective gives the losses, the batches come by step number."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
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
from asd_cli.workflows.ranks import Ranks

_RISE = 0.2


@dataclass(frozen=True)
class Schedule:
    """Steps, epochs and learning rate; `crops` batches make a step, of the mean of their gradients.

    With decay ``cosine`` the rate falls from `learning_rate` to 2 % of it; with ``one-cycle`` it first rises from
    4 % of it during a fifth of the steps and then falls to 0 (Smith and Topin 2019).
    """

    steps: int
    steps_per_epoch: int
    learning_rate: float
    weight_decay: float
    decay: Literal["none", "cosine", "one-cycle"]
    crops: int = 1

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
    """Training data: every batch is a function of its number alone, so that a resumed run sees the same."""

    def batch(self, number: int) -> TrainingBatch:
        """A batch by its number (counted from 0); each step takes as many as it has crops."""
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
        if self.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
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
        ranks: processes that share the batches of each step; the first alone writes files.
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
        ranks: Ranks | None = None,
        report: Callable[[int, dict[str, float]], None] = lambda step, figures: None,
    ) -> None:
        self._ranks = ranks or Ranks()
        self._crops, self._mine = schedule.crops, self._ranks.share(schedule.crops)
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
            for step, some in batches:
                values = self._step(step, some)
                progress = Progress(step + 1, progress.rows, _added(progress.sums, values))
                figures = {**figures, **values}
                if (step + 1) % self._schedule.steps_per_epoch == 0 or step + 1 == self._schedule.steps:
                    progress = self._end_epoch(progress)
                    figures = dict(progress.rows[-1])
                self._report(step + 1, figures)
                if self._ranks.any(interrupt.requested, self._device):
                    self._save(progress)
                    raise KeyboardInterrupt
        self._write_log(progress)
        return figures

    def _ahead(self, first: int) -> Generator[tuple[int, list[TrainingBatch]]]:
        """Steps from `first` to the last with this process's batches, read one step ahead in a thread."""
        last = self._schedule.steps - 1

        def read(step: int) -> list[TrainingBatch]:
            return [self._batches.batch(step * self._crops + place) for place in self._mine]

        with ThreadPoolExecutor(1, "asd-batch") as pool:
            upcoming = pool.submit(read, first) if first <= last else None
            for step in range(first, last + 1):
                assert upcoming is not None
                some = upcoming.result()
                upcoming = pool.submit(read, step + 1) if step < last else None
                yield step, some

    def _step(self, step: int, batches: list[TrainingBatch]) -> dict[str, float]:
        for group in self._optimizer.param_groups:
            group["lr"] = self._schedule.rate(step)
        self._optimizer.zero_grad(set_to_none=True)
        averaged = _Averaged(self._module, self._crops)
        sums: dict[str, float] = {}
        for batch in batches:
            with averaged.one():
                sums = _added(sums, self._backward(batch.to(self._device), step))
        told = torch.tensor([value / len(batches) for value in sums.values()], device=self._device)
        averaged.settle(self._ranks, told)
        self._optimizer.step()
        return dict(zip(sums, told.tolist(), strict=True)) if self._crops > 1 else sums

    def _backward(self, batch: TrainingBatch, step: int) -> dict[str, float]:
        """Add a batch's part of the gradients; its losses."""
        with self._devices.autocast():
            terms = self._objective.losses(batch, step // self._schedule.steps_per_epoch)
            loss = torch.stack([t.float() for t in terms.values()]).sum()
        values = {"loss": loss.item(), **{name: term.item() for name, term in terms.items()}}
        if not math.isfinite(values["loss"]):
            raise TrainingError(
                f"the loss is no longer finite at step {step + 1}; check the tiles for odd values (--bands, --nodata)"
            )
        (loss / self._crops if self._crops > 1 else loss).backward()  # type: ignore[no-untyped-call]
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
        self._save(progress)
        self._write_log(progress)
        return progress

    def _save(self, progress: Progress) -> None:
        if self._ranks.first:
            self._checkpoint.save(self._module, self._optimizer, progress)

    def _write_log(self, progress: Progress) -> None:
        if self._log is None or not self._ranks.first:
            return
        columns = list(dict.fromkeys(key for row in progress.rows for key in row))
        with StagedFiles(overwrite=True) as staged:
            with staged.stage(self._log).open("w", newline="") as file:
                writer = csv.DictWriter(file, columns, restval="")
                writer.writeheader()
                writer.writerows(progress.rows)
            staged.commit()


class _Averaged:
    """What one step of several batches leaves: the mean of their gradients and of their running statistics.

    Each batch starts from the statistics before the step, so that it does not matter which process has it.
    """

    def __init__(self, module: torch.nn.Module, count: int) -> None:
        self._count = count
        self._parameters = list(module.parameters())
        self._buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()] if count > 1 else []
        self._before = [buffer.clone() for buffer in self._buffers]
        self._changes = [torch.zeros_like(buffer) for buffer in self._buffers]

    @contextmanager
    def one(self) -> Iterator[None]:
        """A batch."""
        yield
        for buffer, before, change in zip(self._buffers, self._before, self._changes, strict=True):
            change.add_((buffer - before) / self._count)
            buffer.copy_(before)

    def settle(self, ranks: Ranks, losses: torch.Tensor) -> None:
        """Take the means over all processes, those of the losses, too."""
        if self._count == 1:
            return
        concerned = torch.tensor([float(p.grad is not None) for p in self._parameters], device=losses.device)
        ranks.total([concerned])
        for parameter, wanted in zip(self._parameters, concerned.tolist(), strict=True):
            # what no process has a gradient of, such as networks whose turn it is not, must not move
            if wanted and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        ranks.total([*(p.grad for p in self._parameters if p.grad is not None), *self._changes])
        ranks.average([losses])
        for buffer, change in zip(self._buffers, self._changes, strict=True):
            buffer.add_(change)


def _half_wave(part: float) -> float:
    """From 1 at 0 to 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * part))


def _added(sums: Mapping[str, float], values: Mapping[str, float]) -> dict[str, float]:
    return {name: sums.get(name, 0.0) + value for name, value in values.items()}
