"""What training ASD minimises, and how its centre and radius follow the descriptors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from asd_cli.methods.asd.losses import LossForm, compact_loss, diverse_loss, feature_rich_loss, squared_distance
from asd_cli.methods.base import TrainingBatch

if TYPE_CHECKING:
    from asd_cli.methods.asd.method import AsdMethod

_KEPT_VALUES = 1 << 24  # 64 MiB of descriptors
_LEAST_RADIUS = 1e-12  # descriptors that are all alike have none


@dataclass(frozen=True)
class AsdLosses:
    """Which losses count, in which form (see `losses`), and for how many epochs reconstruction goes alone."""

    compact: bool = True
    diverse: bool = True
    feature_rich: bool = True
    form: LossForm = "published"
    compact_weight: float = 10.0
    warmup_epochs: int = 10


class AsdObjective:
    """L1 + L2 + L3 with the paper's schedule: reconstruction alone first, then centre and radius renewed each epoch."""

    short_names: ClassVar[Mapping[str, str]] = {
        "loss": "loss",
        "compact": "L1",
        "diverse": "L2",
        "feature_rich": "L3",
        "radius": "R",
        "held_out": "held-out d/R",
    }

    def __init__(self, method: AsdMethod, losses: AsdLosses) -> None:
        self.module = method
        self._losses = losses
        # without the reconstruction loss there is nothing to warm up with
        self._warmup = losses.warmup_epochs if losses.feature_rich else 0

    def losses(self, batch: TrainingBatch, epoch: int) -> dict[str, Tensor]:
        """The active terms for one batch; `epoch` counts from 0."""
        use, method, mask = self._losses, self.module, batch.mask
        alone = epoch < self._warmup
        images, count = batch.image, len(batch.image)
        statistics = mask
        if use.diverse and not alone:
            # virtual anomalies are normalised as scoring would: by the statistics of the normal pixels
            images = torch.cat([images, batch.virtual])
            statistics = torch.cat([mask, torch.zeros_like(mask)])
        normalised = method.normalise(images)
        out = method.encoder(normalised, statistics)
        descriptors = out.descriptors[:count]
        terms: dict[str, Tensor] = {}
        if use.feature_rich:
            inner = normalised[:count, :, method.halo : -method.halo, method.halo : -method.halo]
            terms["feature_rich"] = feature_rich_loss(inner, out.reconstruction[:count], mask, form=use.form)
        if use.diverse and not alone:
            terms["diverse"] = diverse_loss(descriptors, out.descriptors[count:], mask, form=use.form)
        if use.compact and not alone:
            terms["compact"] = compact_loss(descriptors, method.center, method.radius, mask, weight=use.compact_weight)
        return terms

    def review(
        self, epochs_done: int, training: Iterable[TrainingBatch], held_out: Iterable[TrainingBatch]
    ) -> dict[str, float]:
        """Renew centre and radius from all training descriptors; called before the first epoch and after each.

        The centre is first set when the warm-up ends; the radius stays at 3 until the compact loss has run for an
        epoch, then is the mean over images of their largest distance. The held-out figure is the mean distance from
        the centre in units of R.
        """
        method = self.module
        method.eval()
        with torch.inference_mode():
            if epochs_done >= self._warmup:
                described = _Described(self._descriptors, training)
                method.center.copy_(self._mean_descriptor(described))
                if epochs_done > self._warmup:
                    method.radius.copy_(self._mean_of_largest(described))
            held = self._mean_distance(held_out) / max(float(method.radius), _LEAST_RADIUS)
        method.train()
        return {"radius": float(method.radius), "held_out": held}

    def _descriptors(self, batch: TrainingBatch) -> Tensor:
        return self.module.descriptors(batch.image).float()

    def _mean_descriptor(self, described: _Described) -> Tensor:
        total, count = torch.zeros(self.module.length, dtype=torch.float64), 0
        for descriptors, mask in described:
            picked = descriptors.movedim(1, -1)[mask]
            total += picked.sum(dim=0).cpu().double()  # not every device knows float64
            count += picked.shape[0]
        return (total / max(count, 1)).float()

    def _largest(self, descriptors: Tensor, mask: Tensor) -> list[float]:
        squares = squared_distance(descriptors, self.module.center)
        largest = torch.where(mask, squares, squares.new_zeros(())).flatten(1).amax(dim=1)
        return [float(v) for v in largest.sqrt()]

    def _mean_of_largest(self, described: _Described) -> Tensor:
        largest = [value for descriptors, mask in described for value in self._largest(descriptors, mask)]
        return torch.tensor(sum(largest) / max(len(largest), 1))

    def _mean_distance(self, batches: Iterable[TrainingBatch]) -> float:
        total, count = 0.0, 0
        for batch in batches:
            distance = squared_distance(self._descriptors(batch), self.module.center)[batch.mask].sqrt()
            total += float(distance.sum())
            count += distance.numel()
        return total / max(count, 1)


class _Described:
    """Descriptors and masks of batches, to be gone through twice: the first of them, up to a limit, are remembered."""

    def __init__(self, describe: Callable[[TrainingBatch], Tensor], batches: Iterable[TrainingBatch]) -> None:
        self._describe, self._batches = describe, batches
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._room = _KEPT_VALUES

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from self._kept
        if self._kept and self._room > 0:  # the first time through, all found room
            return
        for batch in islice(self._batches, len(self._kept), None):
            described = self._describe(batch), batch.mask
            self._room -= described[0].numel()
            if self._room > 0:
                self._kept.append(described)
            yield described
