"""What the networks of a localised ASD model are trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from asd_cli.methods.base import TrainingBatch
from asd_cli.nn.masked import masked_mean

if TYPE_CHECKING:
    from asd_cli.methods.asd.localised import LocalisedAsd


class LocalisedObjective:
    """The logistic loss of the head whose turn it is, normal pixels and virtual anomalies counting the same."""

    short_names: ClassVar[Mapping[str, str]] = {"loss": "loss", "held_out": "held-out"}

    def __init__(self, method: LocalisedAsd) -> None:
        self.module = method

    def losses(self, batch: TrainingBatch, epoch: int) -> dict[str, Tensor]:
        """Mean over unchanged normal pixels plus mean over changed ones."""
        logits = self.module.logits(batch.virtual, batch.mask, member=batch.network).float()
        changed = torch.ones_like(batch.mask) if batch.changed is None else batch.changed
        return {
            "normal": masked_mean(F.softplus(logits), batch.mask & ~changed),
            "virtual": masked_mean(F.softplus(-logits), batch.mask & changed),
        }

    def review(
        self, epochs_done: int, training: Iterable[TrainingBatch], held_out: Iterable[TrainingBatch]
    ) -> dict[str, float]:
        """Mean loss of held-out normal pixels, under a network that does not know them."""
        total, count = 0.0, 0
        self.module.eval()
        with torch.inference_mode():
            for batch in held_out:
                logits = self.module.logits(batch.image, member=batch.network).float()
                values = F.softplus(logits[batch.mask])
                total += float(values.sum())
                count += values.numel()
        self.module.train()
        return {"held_out": total / max(count, 1)}
