"""ASD taught with localised virtual anomalies: the paper's encoder with an anomaly head, and a Gaussian of bands and
texture.

The head says how much a place looks like a virtual anomaly, smoothed over neighbouring pixels; the Mahalanobis distance
of the bands (RX, Reed and Yu 1990) and of the roughness around the pixel says how odd its colour and texture are. Each
is weighed by how rarely normal pixels show as much (`evidence`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from asd_cli.errors import InputError
from asd_cli.methods.asd.encoder import PyramidEncoder, check_variances
from asd_cli.methods.asd.evidence import Evidence, check_evidence
from asd_cli.methods.asd.recipes import RECIPES
from asd_cli.methods.asd.signs import FoldedSigns
from asd_cli.methods.base import EvidenceDetector, TrainingBatch
from asd_cli.methods.recipe import TrainingPlan
from asd_cli.methods.scaled import ScaledDetector, pyramid_config
from asd_cli.nn.engines import Engine
from asd_cli.nn.masked import masked_mean
from asd_cli.nn.pyramid import checked_pyramid
from asd_cli.nn.smoothing import GaussianSmoothing
from asd_cli.nn.texture import Texture
from asd_cli.options import TrainOptions

if TYPE_CHECKING:
    from asd_cli.nn.onnx_graph import OnnxGraph

_LENGTH, _SCALES = 16, (0.25, 0.5, 1.0, 2.0)
# weights of Gaussian and head, the standard deviation of the smoothing and the side of the squares of the texture (px):
# found by cross-validation within the training halves of the sets of `benchmarks/accuracy.py`
_WEIGHTS, _SMOOTHING, _TEXTURE = (0.5, 1.0), 4.0, 21
# without labels the head has seen the anomalies as normal, while the Gaussian leaves odd pixels out; found on scenes of
# 128 x 128 px cut from the same halves
_UNLABELLED_WEIGHTS = (0.5, 0.25)
_MOST_SMOOTHING, _LARGEST_TEXTURE = 32.0, 63


class LocalisedAsd(ScaledDetector, EvidenceDetector):
    """Two signs of an anomaly: the distance of a pixel's bands and texture from their Gaussian, and the logit of the
    head."""

    name: ClassVar[str] = "asd"
    signs: ClassVar[int] = 2

    def __init__(
        self,
        bands: int,
        *,
        pyramid: Mapping[str, Any],
        smoothing: float,
        texture: int,
        weights: tuple[float, float],
    ) -> None:
        super().__init__(bands)
        length = pyramid["length"]
        self._config = {**pyramid, "scales": list(pyramid["scales"]), "smoothing": smoothing, "texture": texture}
        self._weights = weights
        self.encoder = PyramidEncoder(bands, **pyramid)
        self.anomaly_head = nn.Conv2d(length, 1, 1)
        self.evidence = Evidence(self.signs)
        self.texture = Texture(bands, texture)
        self.align = max(self.encoder.align, self.texture.align)
        self.smoothing = GaussianSmoothing(smoothing, align=self.encoder.align)
        reach = max(self.encoder.halo + self.smoothing.margin, self.texture.margin)
        self.halo = -(-reach // self.align) * self.align
        self.hold_gaussian(bands + self.texture.channels)

    @classmethod
    def create(
        cls,
        bands: int,
        *,
        smoothing: float = 0.0,
        texture: int = 0,
        weights: Sequence[float] = _WEIGHTS,
        **config: Any,
    ) -> Self:
        """A method with untrained weights; `config` holds length, scales and patch_size, `smoothing` is that of the
        logit in pixels, `texture` the side of the squares of the texture, 0 for bands alone, `weights` those of the
        evidence of Gaussian and head.

        Raises:
            ValueError: no scales, a scale that is no power of two, or a number that is out of range.
        """
        smoothing = float(smoothing)
        if not 0 <= smoothing <= _MOST_SMOOTHING:
            raise ValueError(f"smoothing {smoothing:g} is not within 0..{_MOST_SMOOTHING:g}")
        if not (type(texture) is int and 0 <= texture <= _LARGEST_TEXTURE and (texture % 2 or not texture)):
            raise ValueError(f"texture {texture} is not 0 or an odd number up to {_LARGEST_TEXTURE}")
        gaussian, head = (float(weight) for weight in weights)
        if not (0 < gaussian <= 1 and 0 < head <= 1):
            raise ValueError(f"weights {gaussian:g}, {head:g} are not within 0..1")
        pyramid = checked_pyramid(**config)
        return cls(bands, pyramid=pyramid, smoothing=smoothing, texture=texture, weights=(gaussian, head))

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
        weights = _UNLABELLED_WEIGHTS if options.unlabelled else _WEIGHTS
        config = {**config, "smoothing": _SMOOTHING, "texture": _TEXTURE, "weights": weights, "taught": "localised"}
        return TrainingPlan(config, recipe, facts)

    def objective(self, options: TrainOptions, *, warmup_epochs: int) -> LocalisedObjective:
        """Telling virtual anomalies from what is normal."""
        return LocalisedObjective(self)

    def config(self) -> dict[str, Any]:
        """JSON-ready arguments of `AsdMethod.create`."""
        return {**self._config, "weights": list(self._weights), "taught": "localised"}

    def logits(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, bands, H + 2 halo, W + 2 halo) raw float32 -> (B, H, W): above 0 where anomalies are likelier.

        `mask` (B, H, W): the pixels that count for the statistics of the normalisation in training.
        """
        return self._logits(x, 0, mask)[:, 0]

    def smoothed_logits(self, x: Tensor) -> Tensor:
        """As `logits`, smoothed."""
        return self.smoothing(self._logits(x, self.smoothing.margin))[:, 0]

    def _logits(self, x: Tensor, margin: int, mask: Tensor | None = None) -> Tensor:
        """(B, 1, H + 2 margin, W + 2 margin)."""
        spare = self.halo - self.encoder.halo - margin
        found: Tensor = self.anomaly_head(self.encoder.describe(self.normalise(F.pad(x, (-spare,) * 4)), mask))
        return found

    def descriptors(self, x: Tensor) -> Tensor:
        """Bands of each pixel on the network's range, and its texture: raw, with halo -> (B, length, H, W)."""
        return self.texture(self.normalise(F.pad(x, (self.texture.margin - self.halo,) * 4)))

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
            (self.texture, self.smoothing),
            scaling=(self.low, self.high),
            gaussian=(self.mean, self.whitening),
            halo=self.halo,
        )

    def set_evidence(self, rows: NDArray[np.float32]) -> None:
        """Weigh signs from now on by those of held-out normal pixels (n, 2)."""
        self.evidence.fit(rows, self._weights)

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
