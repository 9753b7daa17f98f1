"""ASD taught with localised virtual anomalies: the paper's encoder with an anomaly head, and a Gaussian of the bands.

The head says how much a place looks like a virtual anomaly, smoothed over neighbouring pixels; the Mahalanobis distance
of the bands (RX, Reed and Yu 1990) says how odd its colour is. Each is weighed by how rarely normal pixels show as much
(`evidence`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from asd_cli.density.gaussian import Gaussian
from asd_cli.errors import InputError
from asd_cli.methods.asd.encoder import PyramidEncoder, check_variances
from asd_cli.methods.asd.evidence import Evidence, check_evidence
from asd_cli.methods.asd.recipes import RECIPES
from asd_cli.methods.asd.signs import FoldedSigns
from asd_cli.methods.base import EvidenceDetector, TrainingBatch
from asd_cli.methods.recipe import TrainingPlan
from asd_cli.methods.scaled import ScaledDetector, pyramid_config
from asd_cli.nn.devices import identity
from asd_cli.nn.engines import Engine
from asd_cli.nn.masked import masked_mean
from asd_cli.nn.pyramid import checked_pyramid
from asd_cli.nn.smoothing import GaussianSmoothing
from asd_cli.options import TrainOptions

if TYPE_CHECKING:
    from asd_cli.nn.onnx_graph import OnnxGraph

_LENGTH, _SCALES = 16, (0.25, 0.5, 1.0, 2.0)
# weights of colour and head, and the standard deviation of the smoothing (px): found by cross-validation within the
# training halves of four sets
_WEIGHTS, _SMOOTHING = (0.5, 1.0), 4.0
_MOST_SMOOTHING = 32.0


class LocalisedAsd(ScaledDetector, EvidenceDetector):
    """Two signs of an anomaly: the distance of a pixel's bands from their Gaussian, and the logit of the head."""

    name: ClassVar[str] = "asd"
    signs: ClassVar[int] = 2

    def __init__(
        self, bands: int, *, length: int, scales: tuple[float, ...], patch_size: int, smoothing: float = 0.0
    ) -> None:
        super().__init__(bands)
        self.length = bands
        pyramid = {"length": length, "scales": list(scales), "patch_size": patch_size}
        self._config = {"taught": "localised", **pyramid, "smoothing": smoothing}
        self.encoder = PyramidEncoder(bands, length=length, scales=scales, patch_size=patch_size)
        self.anomaly_head = nn.Conv2d(length, 1, 1)
        self.evidence = Evidence(self.signs)
        self.smoothing, self.align = GaussianSmoothing(smoothing), self.encoder.align
        self._margin = -(-self.smoothing.reach // self.align) * self.align
        self.halo = self.encoder.halo + self._margin
        self.register_buffer("mean", torch.zeros(bands))
        self.register_buffer("whitening", identity(bands))
        self.mean: Tensor
        self.whitening: Tensor

    @classmethod
    def create(cls, bands: int, *, smoothing: float = 0.0, **config: Any) -> Self:
        """A method with untrained weights; `config` holds length, scales and patch_size, `smoothing` is that of the
        logit in pixels.

        Raises:
            ValueError: no scales, a scale that is no power of two, or a number that is out of range.
        """
        smoothing = float(smoothing)
        if not 0 <= smoothing <= _MOST_SMOOTHING:
            raise ValueError(f"smoothing {smoothing:g} is not within 0..{_MOST_SMOOTHING:g}")
        return cls(bands, **checked_pyramid(**config), smoothing=smoothing)

    @classmethod
    def plan(cls, options: TrainOptions) -> TrainingPlan:
        """Architecture and recipe; the model file is told the virtual anomalies.

        Raises:
            InputError: options of the paper's losses, or an architecture out of range.
        """
        if options.without or options.loss_form != TrainOptions().loss_form:
            raise InputError("--without and --loss-form change the paper's losses; add --recipe quick or paper")
        config = pyramid_config(options, length=_LENGTH, scales=_SCALES)
        recipe = RECIPES[options.recipe]
        facts = {"virtual_anomalies": recipe.amplitudes.as_json()}
        return TrainingPlan({"taught": "localised", **config, "smoothing": _SMOOTHING}, recipe, facts)

    def objective(self, options: TrainOptions, *, warmup_epochs: int) -> LocalisedObjective:
        """Telling virtual anomalies from what is normal."""
        return LocalisedObjective(self)

    def config(self) -> dict[str, Any]:
        """JSON-ready arguments of `AsdMethod.create`."""
        return dict(self._config)

    def logits(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, bands, H + 2 halo, W + 2 halo) raw float32 -> (B, H, W): above 0 where anomalies are likelier.

        `mask` (B, H, W): the pixels that count for the statistics of the normalisation in training.
        """
        return self._logits(F.pad(x, (-self._margin,) * 4), mask)[:, 0]

    def smoothed_logits(self, x: Tensor) -> Tensor:
        """As `logits`, smoothed."""
        spare = self._margin - self.smoothing.reach
        return self.smoothing(F.pad(self._logits(x, None), (-spare,) * 4))[:, 0]

    def _logits(self, x: Tensor, mask: Tensor | None) -> Tensor:
        found: Tensor = self.anomaly_head(self.encoder(self.normalise(x), mask).descriptors)
        return found

    def descriptors(self, x: Tensor) -> Tensor:
        """The bands of each pixel on the network's range: raw, with halo -> (B, bands, H, W)."""
        rows, cols = (slice(self.halo, n - self.halo) for n in x.shape[-2:])
        return self.normalise(x[..., rows, cols])

    def whitened(self, x: Tensor) -> Tensor:
        """Raw, with halo -> (B, bands, H, W) whose norm is the Mahalanobis distance of the bands."""
        weight = self.whitening.view(self.bands, self.bands, 1, 1)
        return F.conv2d(self.descriptors(x) - self.mean.view(1, -1, 1, 1), weight)

    def distances(self, x: Tensor) -> Tensor:
        """Weighted sum of the -log p of both signs; see `Detector` and `Evidence`."""
        distance: Tensor = self.evidence(torch.stack([self.whitened(x).norm(dim=1), self.smoothed_logits(x)], dim=1))
        return distance

    def distance_engine(self, device: torch.device, side: int) -> Engine:
        """The folded encoder; see `FoldedSigns.engine`."""
        return self.folded().engine(device, side, weighed=True)

    def sign_engine(self, device: torch.device, side: int) -> Engine:
        """As `distance_engine`, with both signs as they are."""
        return self.folded().engine(device, side, weighed=False)

    def add_distances(self, graph: OnnxGraph, x: str) -> str:
        """See `Detector`."""
        return self.folded().add_to(graph, x, weighed=True)

    def folded(self) -> FoldedSigns:
        """Everything that scoring needs."""
        return FoldedSigns(
            (self.encoder, self.anomaly_head),
            self.evidence,
            self.smoothing,
            scaling=(self.low, self.high),
            gaussian=(self.mean, self.whitening),
            halo=self.halo,
        )

    def set_gaussian(self, gaussian: Gaussian) -> None:
        """Measure the distance of the bands from this Gaussian from now on."""
        self.mean.copy_(torch.from_numpy(gaussian.mean).float())
        self.whitening.copy_(torch.from_numpy(gaussian.whitening).float())

    def set_evidence(self, rows: NDArray[np.float32]) -> None:
        """Weigh signs from now on by those of held-out normal pixels (n, 2)."""
        self.evidence.fit(rows, _WEIGHTS)

    def _check_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        super()._check_arrays(arrays)
        check_variances(arrays)
        check_evidence(arrays)


class LocalisedObjective:
    """The logistic loss of the head, normal pixels and virtual anomalies counting the same."""

    short_names: ClassVar[Mapping[str, str]] = {"loss": "loss", "held_out": "held-out"}

    def __init__(self, method: LocalisedAsd) -> None:
        self.module = method

    def losses(self, batch: TrainingBatch, epoch: int) -> dict[str, Tensor]:
        """Mean over unchanged normal pixels plus mean over changed ones."""
        logits = self.module.logits(batch.virtual, batch.mask).float()
        changed = torch.ones_like(batch.mask) if batch.changed is None else batch.changed
        return {
            "normal": masked_mean(F.softplus(logits), batch.mask & ~changed),
            "virtual": masked_mean(F.softplus(-logits), batch.mask & changed),
        }

    def review(
        self, epochs_done: int, training: Iterable[TrainingBatch], held_out: Iterable[TrainingBatch]
    ) -> dict[str, float]:
        """Mean loss of held-out normal pixels."""
        total, count = 0.0, 0
        self.module.eval()
        with torch.inference_mode():
            for batch in held_out:
                values = F.softplus(self.module.smoothed_logits(batch.image).float()[batch.mask])
                total += float(values.sum())
                count += values.numel()
        self.module.train()
        return {"held_out": total / max(count, 1)}
