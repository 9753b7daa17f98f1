"""ASD taught with localised virtual anomalies: several of the paper's encoders, narrower, and what surrounds a pixel.

Two signs of an anomaly, each a Mahalanobis distance (Eq. 7): that of the descriptors that the networks give a pixel,
and that of its surroundings, colours near and far and roughness (RX, Reed and Yu 1990). Each is weighed by how rarely
normal pixels show as much, and by how little that depends on the tile (`evidence`).

The networks learn to describe pixels by telling virtual anomalies apart, with heads that scoring does not need. Such
that start from other weights and see other crops agree on what they were taught and differ at random on anything else,
so that their mean is steadier (Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty Estimation using
Deep Ensembles", 2017).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from asd_cli.density.gaussian import Gaussian
from asd_cli.density.normal import NormalPixels
from asd_cli.density.unseen import fit_for_unseen
from asd_cli.errors import InputError
from asd_cli.methods.asd.encoder import PyramidEncoder, check_variances
from asd_cli.methods.asd.evidence import Evidence, check_evidence, steady_weights
from asd_cli.methods.asd.localised_objective import LocalisedObjective
from asd_cli.methods.asd.recipes import RECIPES
from asd_cli.methods.asd.sign_settings import SignSettings
from asd_cli.methods.asd.signs import FoldedSigns
from asd_cli.methods.base import EvidenceDetector
from asd_cli.methods.recipe import TrainingPlan
from asd_cli.methods.scaled import ScaledDetector, pyramid_config
from asd_cli.nn.devices import identity
from asd_cli.nn.engines import Engine
from asd_cli.nn.pyramid import HIDDEN, checked_pyramid
from asd_cli.nn.smoothing import GaussianSmoothing
from asd_cli.nn.surroundings import Surroundings
from asd_cli.options import TrainOptions

if TYPE_CHECKING:
    from asd_cli.nn.onnx_graph import OnnxGraph

_log = logging.getLogger(__name__)
_LENGTH, _SCALES, _HIDDEN, _MEMBERS = 16, (0.25, 0.5, 1.0, 2.0), 32, 2
# weights of surroundings and networks, and `SignSettings`: chosen by cross-validation within the training halves of
# the sets of `benchmarks/accuracy.py`, whose other halves were looked at between versions
_WEIGHTS, _SIGNS = (1.0, 0.35), SignSettings(smoothing=4.0, blur=1.0, far=72, texture=21, caution=0.6)
# without labels the network has seen the anomalies as normal, and there are no other tiles to be careful of; found on
# scenes of 128 x 128 px cut from the same halves, but that there .25 to .5 is a better weight of the network: of the
# 200 bands of `benchmarks/unlabelled.py` it sees little more than mixtures
_UNLABELLED = {"members": 1, "weights": (1.0, 0.1), "blur": 0.0, "far": 0, "caution": 0.01}
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
    """Two signs of an anomaly: the distance of a pixel's surroundings from their Gaussian, and the mean distance of the
    members' descriptors from theirs, smoothed.

    All of these are described together, one after another, by a Gaussian of independent parts.
    """

    name: ClassVar[str] = "asd"
    signs: ClassVar[int] = 2

    def __init__(
        self,
        bands: int,
        *,
        network: Mapping[str, Any],
        members: int,
        settings: SignSettings,
        weights: tuple[float, ...],
    ) -> None:
        super().__init__(bands)
        self._network, self._settings, self._weights = dict(network), settings, weights
        self.members = nn.ModuleList(Member(bands, **network) for _ in range(members))
        encoder = self._encoders[0]
        self.evidence = Evidence(self.signs)
        self.around = Surroundings(bands, settings.texture, blur=settings.blur, far=settings.far)
        self.align = max(encoder.align, self.around.align)
        self.smoothing = GaussianSmoothing(settings.smoothing, spacing=encoder.align)
        reach = max(encoder.halo + self.smoothing.margin, self.around.margin)
        self.halo = -(-reach // self.align) * self.align
        self.hold_gaussian(sum(self._parts))

    @classmethod
    def create(
        cls,
        bands: int,
        *,
        hidden: int = HIDDEN,
        members: int = 1,
        weights: Sequence[float] = _WEIGHTS,
        **config: Any,
    ) -> Self:
        """A method with untrained weights; `hidden` is the width of the networks, `members` their number, `weights`
        those of the evidence of surroundings and networks (see `steady_weights`); `config` holds length, scales and
        patch_size, and what `SignSettings` has.

        Raises:
            ValueError: no scales, a scale that is no power of two, or a number that is out of range.
        """
        if not (type(hidden) is int and hidden in _HIDDEN_CHOICES):
            raise ValueError(f"hidden {hidden} is none of {', '.join(map(str, _HIDDEN_CHOICES))}")
        if not (type(members) is int and 1 <= members <= _MOST_MEMBERS):
            raise ValueError(f"members {members} is not within 1..{_MOST_MEMBERS}")
        each = tuple(weights)
        plain = len(each) == cls.signs and all(type(weight) in (int, float) for weight in each)
        if not (plain and all(0 <= weight <= 1 for weight in each) and each[0] > 0):
            raise ValueError(f"weights {list(each)} are not {cls.signs} numbers within 0..1, the first above 0")
        signs = {name: config.pop(name) for name in SignSettings._fields if name in config}
        network = {**checked_pyramid(**config), "hidden": hidden}
        return cls(bands, network=network, members=members, settings=SignSettings(**signs).checked(), weights=each)

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
        config |= {"hidden": _HIDDEN, "members": _MEMBERS, "weights": _WEIGHTS, **_SIGNS._asdict()}
        config |= {"taught": "localised", **(_UNLABELLED if options.unlabelled else {})}
        members = config["members"]
        if options.steps and options.steps < members:
            _log.warning("--steps %d: too few for each of the %d networks; give more", options.steps, members)
        recipe = replace(recipe, steps_per_epoch=members * cast(int, recipe.steps_per_epoch))
        facts = {"virtual_anomalies": recipe.amplitudes.as_json()}
        return TrainingPlan(config, recipe, facts)

    def objective(self, options: TrainOptions, *, warmup_epochs: int) -> LocalisedObjective:
        """Telling virtual anomalies from what is normal."""
        return LocalisedObjective(self)

    def config(self) -> dict[str, Any]:
        """JSON-ready arguments of `AsdMethod.create`."""
        network = {**self._network, "scales": list(self._network["scales"]), "members": self.networks}
        return {**network, **self._settings._asdict(), "weights": list(self._weights), "taught": "localised"}

    @property
    def networks(self) -> int:
        """See `Detector`; the members."""
        return len(self.members)

    @property
    def in_turn(self) -> bool:
        """See `Detector`; what a single member is trained on cannot be held out afterwards."""
        return self.networks > 1

    @property
    def _encoders(self) -> list[PyramidEncoder]:
        return [cast(Member, member).encoder for member in self.members]

    @property
    def _parts(self) -> list[int]:
        """How many numbers of a descriptor are of the surroundings, and of each member."""
        return [self.around.channels, *[self._network["length"]] * self.networks]

    def logits(self, x: Tensor, mask: Tensor | None = None, *, member: int) -> Tensor:
        """(B, bands, H + 2 halo, W + 2 halo) raw float32 -> (B, H, W) of one member: above 0 where anomalies are
        likelier.

        `mask` (B, H, W): the pixels that count for the statistics of the normalisation in training.
        """
        logits: Tensor = self.members[member](self._for_members(x, 0), mask)
        return logits[:, 0]

    def _for_members(self, x: Tensor, margin: int) -> Tensor:
        """What members need of raw pixels for a margin around the inner ones."""
        return self._near(x, margin + self._encoders[0].halo)

    def _near(self, x: Tensor, margin: int) -> Tensor:
        """Raw pixels, of whose halo `margin` px stay, on the networks' range."""
        return self.normalise(F.pad(x, (margin - self.halo,) * 4))

    def descriptors(self, x: Tensor) -> Tensor:
        """Surroundings, on the networks' range, and what each member makes of a pixel: raw, with halo -> (B, length, H,
        W)."""
        near = self._for_members(x, 0)
        described = [encoder.describe(near) for encoder in self._encoders]
        return torch.cat([self.around(self._near(x, self.around.margin)), *described], dim=1)

    def all_signs(self, x: Tensor) -> Tensor:
        """Raw, with halo -> (B, signs, H, W); what `FoldedSigns` computes in fewer steps."""
        near = self._for_members(x, self.smoothing.margin)
        described = [self.around(self._near(x, self.around.margin)), *(e.describe(near) for e in self._encoders)]
        own, *deep = [
            torch.linalg.vector_norm(
                F.conv2d(values - mean.view(1, -1, 1, 1), whitening[:, :, None, None]), dim=1, keepdim=True
            )
            for values, (mean, whitening) in zip(described, self._gaussians(), strict=True)
        ]
        return torch.cat([own, self.smoothing(torch.stack(deep).mean(dim=0))], dim=1)

    def _gaussians(self) -> list[tuple[Tensor, Tensor]]:
        """Mean and whitening of each part."""
        return [(self.mean[part], self.whitening[part, part]) for part in self._places()]

    def _places(self) -> list[slice]:
        """Where in a descriptor each part is."""
        ends = np.cumsum(self._parts).tolist()
        return [slice(end - size, end) for end, size in zip(ends, self._parts, strict=True)]

    def distances(self, x: Tensor) -> Tensor:
        """Weighted sum of the -log p of both signs; see `Detector` and `Evidence`."""
        distance: Tensor = self.evidence(self.all_signs(x))
        return distance

    def distance_engine(self, device: torch.device, side: int) -> Engine:
        """The folded networks; see `FoldedSigns.engine`."""
        return self.folded().engine(device, side, "evidence")

    def sign_engine(self, device: torch.device, side: int) -> Engine:
        """As `distance_engine`, with both signs as they are."""
        return self.folded().engine(device, side, "signs")

    def descriptor_engine(self, device: torch.device, side: int) -> Engine:
        """As `distance_engine`, without a Gaussian."""
        plain = [(torch.zeros_like(mean), identity(len(mean), device=mean.device)) for mean, _ in self._gaussians()]
        return self.folded(plain).engine(device, side, "parts")

    def add_distances(self, graph: OnnxGraph, x: str) -> str:
        """See `Detector`."""
        return self.folded().add_to(graph, x, "evidence")

    def folded(self, gaussians: Sequence[tuple[Tensor, Tensor]] | None = None) -> FoldedSigns:
        """Everything that scoring needs, with the Gaussian or other means and whitenings of its parts."""
        return FoldedSigns(
            self._encoders,
            self.around,
            self.smoothing,
            self.evidence,
            scaling=(self.low, self.high),
            gaussians=self._gaussians() if gaussians is None else gaussians,
            halo=self.halo,
        )

    def gaussian_of(self, normal: NormalPixels) -> Gaussian:
        """See `DescriptorDetector`; careful of tiles that are unlike these, its parts independent."""
        return fit_for_unseen(normal, self._parts, caution=self._settings.caution)

    def set_evidence(self, tiles: Sequence[NDArray[np.float32]]) -> None:
        """See `EvidenceDetector`. A single network may know the tiles, so that it looks steady there."""
        weights = steady_weights(tiles, self._weights) if self.in_turn else self._weights
        self.evidence.fit(np.concatenate(tiles), weights)

    def part(self, networks: Sequence[int]) -> Self:
        """See `EvidenceDetector`."""
        part = self._twin()
        own, *of_members = self._places()
        kept = torch.cat([torch.arange(self.length)[place] for place in (own, *(of_members[i] for i in networks))])
        mean, whitening = part.mean[kept], part.whitening[kept][:, kept]
        part.members = nn.ModuleList(part.members[i] for i in networks)
        part.length, part.mean, part.whitening = len(kept), mean, whitening
        return part

    def _check_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        super()._check_arrays(arrays)
        check_variances(arrays)
        check_evidence(arrays)
