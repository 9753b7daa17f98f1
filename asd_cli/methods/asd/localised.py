"""ASD taught with localised virtual anomalies: several of the paper's encoders, narrower, with anomaly heads, and a
Gaussian of bands and texture.

The heads say how much a place looks like a virtual anomaly; their mean is smoothed over neighbouring pixels. The
Mahalanobis distance of the bands (RX, Reed and Yu 1990) and of the roughness around the pixel says how odd its colour
and texture are. Each is weighed by how rarely normal pixels show as much (`evidence`).

Networks that start from other weights and see other crops agree on what they were taught and differ at random on
anything else, so that their mean is better and steadier (Lakshminarayanan et al., "Simple and Scalable Predictive
Uncertainty Estimation using Deep Ensembles", 2017).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

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
from asd_cli.nn.engines import Engine
from asd_cli.nn.masked import masked_mean
from asd_cli.nn.pyramid import HIDDEN, checked_pyramid
from asd_cli.nn.smoothing import GaussianSmoothing
from asd_cli.nn.texture import Texture
from asd_cli.options import TrainOptions

if TYPE_CHECKING:
    from asd_cli.nn.onnx_graph import OnnxGraph

_log = logging.getLogger(__name__)
_LENGTH, _SCALES, _HIDDEN, _MEMBERS = 16, (0.25, 0.5, 1.0, 2.0), 32, 3
# weights of Gaussian and head, the standard deviation of the smoothing and the side of the squares of the texture (px):
# found by cross-validation within the training halves of the sets of `benchmarks/accuracy.py`
_WEIGHTS, _SMOOTHING, _TEXTURE = (0.5, 1.0), 4.0, 21
# without labels the head has seen the anomalies as normal, while the Gaussian leaves odd pixels out; found on scenes of
# 128 x 128 px cut from the same halves, with one network
_UNLABELLED_WEIGHTS, _UNLABELLED_MEMBERS = (0.5, 0.25), 1
_MOST_SMOOTHING, _LARGEST_TEXTURE = 32.0, 63
_HIDDEN_CHOICES, _MOST_MEMBERS = (16, 32, 64, 128, 256), 16


class Member(nn.Module):
    """An encoder with the head that tells anomalies."""

    def __init__(self, bands: int, **config: Any) -> None:
        super().__init__()
        self.encoder = PyramidEncoder(bands, **config)
        self.anomaly_head = nn.Conv2d(config["length"], 1, 1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, bands, H + 2 halo, W + 2 halo), roughly [-1, 1] -> logits (B, 1, H, W); `mask` as for the encoder."""
        logits: Tensor = self.anomaly_head(self.encoder.describe(x, mask))
        return logits


class LocalisedAsd(ScaledDetector, EvidenceDetector):
    """Two signs of an anomaly: the distance of a pixel's bands and texture from their Gaussian, and the mean logit of
    the members."""

    name: ClassVar[str] = "asd"
    signs: ClassVar[int] = 2

    def __init__(
        self,
        bands: int,
        *,
        network: Mapping[str, Any],
        members: int,
        smoothing: float,
        texture: int,
        weights: tuple[float, float],
    ) -> None:
        super().__init__(bands)
        around = {"smoothing": smoothing, "texture": texture}
        self._config = {**network, "scales": list(network["scales"]), **around}
        self._weights = weights
        self.members = nn.ModuleList(Member(bands, **network) for _ in range(members))
        encoder = cast(Member, self.members[0]).encoder
        self.evidence = Evidence(self.signs)
        self.texture = Texture(bands, texture)
        self.align = max(encoder.align, self.texture.align)
        self.smoothing = GaussianSmoothing(smoothing, align=encoder.align)
        reach = max(encoder.halo + self.smoothing.margin, self.texture.margin)
        self.halo = -(-reach // self.align) * self.align
        self._spare = self.halo - encoder.halo
        self.hold_gaussian(bands + self.texture.channels)

    @classmethod
    def create(
        cls,
        bands: int,
        *,
        hidden: int = HIDDEN,
        members: int = 1,
        smoothing: float = 0.0,
        texture: int = 0,
        weights: Sequence[float] = _WEIGHTS,
        **config: Any,
    ) -> Self:
        """A method with untrained weights; `config` holds length, scales and patch_size, `hidden` is the width of the
        networks, `members` their number, `smoothing` that of the logit in pixels, `texture` the side of the squares of
        the texture, 0 for bands alone, `weights` those of the evidence of Gaussian and heads.

        Raises:
            ValueError: no scales, a scale that is no power of two, or a number that is out of range.
        """
        if not (type(hidden) is int and hidden in _HIDDEN_CHOICES):
            raise ValueError(f"hidden {hidden} is none of {', '.join(map(str, _HIDDEN_CHOICES))}")
        if not (type(members) is int and 1 <= members <= _MOST_MEMBERS):
            raise ValueError(f"members {members} is not within 1..{_MOST_MEMBERS}")
        smoothing = float(smoothing)
        if not 0 <= smoothing <= _MOST_SMOOTHING:
            raise ValueError(f"smoothing {smoothing:g} is not within 0..{_MOST_SMOOTHING:g}")
        if not (type(texture) is int and 0 <= texture <= _LARGEST_TEXTURE and (texture % 2 or not texture)):
            raise ValueError(f"texture {texture} is not 0 or an odd number up to {_LARGEST_TEXTURE}")
        gaussian, head = (float(weight) for weight in weights)
        if not (0 < gaussian <= 1 and 0 < head <= 1):
            raise ValueError(f"weights {gaussian:g}, {head:g} are not within 0..1")
        network = {**checked_pyramid(**config), "hidden": hidden}
        return cls(
            bands, network=network, members=members, smoothing=smoothing, texture=texture, weights=(gaussian, head)
        )

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
        weights, members = (_UNLABELLED_WEIGHTS, _UNLABELLED_MEMBERS) if options.unlabelled else (_WEIGHTS, _MEMBERS)
        if options.steps and options.steps < members:
            _log.warning("--steps %d: too few for each of the %d networks; give more", options.steps, members)
        recipe = replace(recipe, steps_per_epoch=members * cast(int, recipe.steps_per_epoch))
        facts = {"virtual_anomalies": recipe.amplitudes.as_json()}
        config = {**config, "hidden": _HIDDEN, "members": members, "smoothing": _SMOOTHING, "texture": _TEXTURE}
        config |= {"weights": weights, "taught": "localised"}
        return TrainingPlan(config, recipe, facts)

    def objective(self, options: TrainOptions, *, warmup_epochs: int) -> LocalisedObjective:
        """Telling virtual anomalies from what is normal."""
        return LocalisedObjective(self)

    def config(self) -> dict[str, Any]:
        """JSON-ready arguments of `AsdMethod.create`."""
        return {**self._config, "members": self.networks, "weights": list(self._weights), "taught": "localised"}

    @property
    def networks(self) -> int:
        """See `Detector`; the members."""
        return len(self.members)

    def logits(self, x: Tensor, mask: Tensor | None = None, *, member: int) -> Tensor:
        """(B, bands, H + 2 halo, W + 2 halo) raw float32 -> (B, H, W) of one member: above 0 where anomalies are
        likelier.

        `mask` (B, H, W): the pixels that count for the statistics of the normalisation in training.
        """
        logits: Tensor = self.members[member](self._trimmed(x, 0), mask)
        return logits[:, 0]

    def smoothed_logits(self, x: Tensor, members: Sequence[int] | None = None) -> Tensor:
        """As `logits`, the mean of some members or all, smoothed."""
        near = self._trimmed(x, self.smoothing.margin)
        chosen = range(self.networks) if members is None else members
        return self.smoothing(torch.stack([self.members[i](near) for i in chosen]).mean(dim=0))[:, 0]

    def _trimmed(self, x: Tensor, margin: int) -> Tensor:
        """What members need of raw pixels for a margin of logits around the inner ones, on their range."""
        return self.normalise(F.pad(x, (margin - self._spare,) * 4))

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
            [(member.encoder, member.anomaly_head) for member in cast(Iterable[Member], self.members)],
            self.evidence,
            (self.texture, self.smoothing),
            scaling=(self.low, self.high),
            gaussian=(self.mean, self.whitening),
            halo=self.halo,
        )

    def set_evidence(self, rows: NDArray[np.float32]) -> None:
        """Weigh signs from now on by those of held-out normal pixels (n, 2)."""
        self.evidence.fit(rows, self._weights)

    def part(self, networks: Sequence[int], gaussian: Gaussian | None) -> Self:
        """See `EvidenceDetector`."""
        part = deepcopy(self)
        part.members = nn.ModuleList(part.members[i] for i in networks)
        if gaussian is not None:
            part.set_gaussian(gaussian)
        return part

    def _check_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        super()._check_arrays(arrays)
        check_variances(arrays)
        check_evidence(arrays)


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
                values = F.softplus(self.module.smoothed_logits(batch.image, [batch.network]).float()[batch.mask])
                total += float(values.sum())
                count += values.numel()
        self.module.train()
        return {"held_out": total / max(count, 1)}
