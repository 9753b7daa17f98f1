"""ARNet (Fei et al., "Attribute Restoration Framework for Anomaly Detection", IEEE TMM 2020), pixel by pixel.

A U-Net restores an image from which attributes were erased. As in the comparison of the ASD paper, what erases them are
the transforms of ASD's virtual anomalies (AAAI 2023, Sec. 3.2); what was never seen in training is restored badly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from asd_cli.data.amplitudes import Amplitudes
from asd_cli.methods.base import TrainingBatch
from asd_cli.methods.recipe import Recipe
from asd_cli.methods.restoring import RestoringDetector, RestoringObjective, RestoringSettings, smoothed, trimmed
from asd_cli.methods.scaled import check_within
from asd_cli.nn.masked import masked_mean
from asd_cli.nn.unet import UNet
from asd_cli.options import TrainOptions

_AMPLITUDES = Amplitudes()
_SHIFT = _AMPLITUDES.brightness  # on [-1, 1], half of the largest shift that training sees
_THRESHOLD = 2 * _AMPLITUDES.solarize - 1  # on [-1, 1]


@dataclass(frozen=True)
class ArnetSettings(RestoringSettings):
    """views: of the image as it is, solarised, darker and brighter, so many are restored and their errors averaged."""

    views: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_within(self, views=(1, len(VIEWS)))


VIEWS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x,
    lambda x: torch.where(x > _THRESHOLD, -x, x),
    lambda x: x - _SHIFT,
    lambda x: x + _SHIFT,
)
"""The transforms at scoring, each a function of one pixel on the network's range, with nothing left to chance."""


class ArnetMethod(RestoringDetector):
    """Mean absolute error of the restored image, over bands and views; on the network's range."""

    name: ClassVar[str] = "arnet"
    settings_kind = ArnetSettings
    settings: ArnetSettings
    recipe = Recipe(
        crop=128,
        epochs=16,
        steps_per_epoch=25,
        warmup_epochs=0,
        learning_rate=1e-3,
        weight_decay=1e-5,
        decay="cosine",
        jitter=True,
        review_pieces=8,
        scaling="robust",
        amplitudes=_AMPLITUDES,
    )

    def __init__(self, bands: int, settings: ArnetSettings) -> None:
        super().__init__(bands, settings)
        self.network = UNet(bands, width=settings.width, depth=settings.depth, convolutions=settings.convolutions)
        self.halo, self.align = self.network.halo + settings.smooth // 2, self.network.align

    @classmethod
    def facts(cls) -> dict[str, Any]:
        """The virtual anomalies."""
        return {"virtual_anomalies": _AMPLITUDES.as_json()}

    def objective(self, options: TrainOptions, *, warmup_epochs: int) -> ArnetObjective:
        """L1 between image and what is restored from its virtual anomaly."""
        return ArnetObjective(self)

    def errors(self, given: Tensor, wanted: Tensor) -> Tensor:
        """|restored - wanted|, the mean over bands: both (B, bands, H + 2 halo, W + 2 halo) -> (B, H, W)."""
        error: Tensor = (self.network(given) - trimmed(wanted, self.network.halo)).abs().mean(dim=1)
        return error

    def distances(self, x: Tensor) -> Tensor:
        """See `Detector`."""
        x = self.normalise(x)
        views = VIEWS[: self.settings.views]
        error = torch.stack([self.errors(view(x), x) for view in views]).mean(dim=0)
        return smoothed(error, self.settings.smooth)


class ArnetObjective(RestoringObjective[ArnetMethod]):
    """L1 between the image and what is restored (the restoration loss of the paper)."""

    short_names: ClassVar[Mapping[str, str]] = {"loss": "L1", "held_out": "held-out error"}

    def losses(self, batch: TrainingBatch, epoch: int) -> dict[str, Tensor]:
        """Mean absolute error of the pixels that count."""
        method = self.method
        image, virtual = (
            trimmed(method.normalise(pixels), method.halo - method.network.halo)
            for pixels in (batch.image, batch.virtual)
        )
        return {"restoration": masked_mean(method.errors(virtual, image), batch.mask)}
