"""ASD taught with localised virtual anomalies: several of the paper's encoders, narrower, with anomaly heads, and two
views of what surrounds a pixel.

Three signs of an anomaly. The heads say how much a place looks like a virtual anomaly. What surrounds a pixel, colour
and roughness, has a Mahalanobis distance (RX, Reed and Yu 1990), which knows one normal cloud, and so generalises; and
a distance from the nearest of remembered normal surroundings (Cover and Hart 1967; as PatchCore's from learned
features, Roth et al. 2022), which knows as many looks of the normal as there are. Each is weighed by how rarely normal
pixels show as much (`evidence`).

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

from asd_cli.density.gaussian import fit_ledoit_wolf
from asd_cli.density.normal import NormalPixels
from asd_cli.errors import InputError
from asd_cli.methods.asd.encoder import PyramidEncoder, check_variances
from asd_cli.methods.asd.evidence import Evidence, check_evidence
from asd_cli.methods.asd.localised_objective import LocalisedObjective
from asd_cli.methods.asd.recipes import RECIPES
from asd_cli.methods.asd.sign_settings import SignSettings
from asd_cli.methods.asd.signs import Beside, FoldedSigns
from asd_cli.methods.base import EvidenceDetector
from asd_cli.methods.recipe import TrainingPlan
from asd_cli.methods.scaled import ScaledDetector, pyramid_config
from asd_cli.nn.engines import Engine
from asd_cli.nn.nearest import Nearest, check_memory
from asd_cli.nn.pyramid import HIDDEN, checked_pyramid
from asd_cli.nn.smoothing import GaussianSmoothing
from asd_cli.nn.surroundings import Surroundings
from asd_cli.options import TrainOptions

if TYPE_CHECKING:
    from asd_cli.nn.onnx_graph import OnnxGraph

_log = logging.getLogger(__name__)
_LENGTH, _SCALES, _HIDDEN, _MEMBERS = 16, (0.25, 0.5, 1.0, 2.0), 32, 3
# weights of Gaussian, memory and heads, and `SignSettings`: chosen by cross-validation within the training halves of
# the sets of `benchmarks/accuracy.py`, whose other halves were looked at between versions
_WEIGHTS, _SMOOTHING, _BLUR, _TEXTURE, _MEMORY = (0.5, 0.25, 1.0), 4.0, 2.0, 21, 512
# without labels networks have seen the anomalies as normal, and the memory those of no odd colour; found on scenes of
# 128 x 128 px cut from the same halves
_UNLABELLED = {"weights": (0.5, 0.25, 0.25), "members": 1, "blur": 0.0}
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
    """Three signs of an anomaly: the distance of a pixel's surroundings from their Gaussian, that from the nearest
    remembered ones, and the mean logit of the members, smoothed."""

    name: ClassVar[str] = "asd"
    signs: ClassVar[int] = 3

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
        self._config = {**network, "scales": list(network["scales"]), **settings._asdict()}
        self._weights = weights
        self.members = nn.ModuleList(Member(bands, **network) for _ in range(members))
        encoder = cast(Member, self.members[0]).encoder
        self.evidence = Evidence(self.signs)
        self.around = Surroundings(bands, settings.texture, blur=settings.blur)
        self.nearest = Nearest(settings.memory, self.around.channels)
        self.align = max(encoder.align, self.around.align, self.nearest.align)
        self.smoothing = GaussianSmoothing(settings.smoothing, align=encoder.align)
        reach = max(encoder.halo + self.smoothing.margin, self.around.margin + self.nearest.margin)
        self.halo = -(-reach // self.align) * self.align
        self.hold_gaussian(self.around.channels)

    @classmethod
    def create(
        cls,
        bands: int,
        *,
        hidden: int = HIDDEN,
        members: int = 1,
        weights: Sequence[float] = _WEIGHTS,
        smoothing: float = 0.0,
        blur: float = 0.0,
        texture: int = 0,
        memory: int = 1,
        **config: Any,
    ) -> Self:
        """A method with untrained weights; `config` holds length, scales and patch_size, `hidden` is the width of the
        networks, `members` their number, `weights` those of the evidence of Gaussian, memory and heads; for the rest
        see `SignSettings`.

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
        network = {**checked_pyramid(**config), "hidden": hidden}
        signs = SignSettings.checked(smoothing, blur, texture, memory)
        return cls(bands, network=network, members=members, settings=signs, weights=each)

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
        signs = {"smoothing": _SMOOTHING, "blur": _BLUR, "texture": _TEXTURE, "memory": _MEMORY}
        config |= {"hidden": _HIDDEN, "members": _MEMBERS, "weights": _WEIGHTS, **signs, "taught": "localised"}
        if options.unlabelled:
            config |= _UNLABELLED
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
        logits: Tensor = self.members[member](self._for_members(x, 0), mask)
        return logits[:, 0]

    def smoothed_logits(self, x: Tensor, members: Sequence[int] | None = None) -> Tensor:
        """As `logits`, the mean of some members or all, smoothed."""
        near = self._for_members(x, self.smoothing.margin)
        chosen = range(self.networks) if members is None else members
        return self.smoothing(torch.stack([self.members[i](near) for i in chosen]).mean(dim=0))[:, 0]

    def _for_members(self, x: Tensor, margin: int) -> Tensor:
        """What members need of raw pixels for a margin of logits around the inner ones."""
        return self._near(x, margin + cast(Member, self.members[0]).encoder.halo)

    def _near(self, x: Tensor, margin: int) -> Tensor:
        """Raw pixels, of whose halo `margin` px stay, on the networks' range."""
        return self.normalise(F.pad(x, (margin - self.halo,) * 4))

    def descriptors(self, x: Tensor) -> Tensor:
        """What surrounds each pixel, on the networks' range: raw, with halo -> (B, length, H, W)."""
        return self.around(self._near(x, self.around.margin))

    def all_signs(self, x: Tensor) -> Tensor:
        """Raw, with halo -> (B, signs, H, W); what `FoldedSigns` computes in fewer steps."""
        distance = torch.linalg.vector_norm(self.whitened(x), dim=1, keepdim=True)
        nearest = self.nearest(self.around(self._near(x, self.around.margin + self.nearest.margin)))
        return torch.cat([distance, nearest, self.smoothed_logits(x)[:, None]], dim=1)

    def distances(self, x: Tensor) -> Tensor:
        """Weighted sum of the -log p of all signs; see `Detector` and `Evidence`."""
        distance: Tensor = self.evidence(self.all_signs(x))
        return distance

    def distance_engine(self, device: torch.device, side: int) -> Engine:
        """The folded encoder; see `FoldedSigns.engine`."""
        return self.folded().engine(device, side, weighed=True)

    def sign_engine(self, device: torch.device, side: int) -> Engine:
        """As `distance_engine`, with all signs as they are."""
        return self.folded().engine(device, side, weighed=False)

    def add_distances(self, graph: OnnxGraph, x: str) -> str:
        """See `Detector`."""
        return self.folded().add_to(graph, x, weighed=True)

    def folded(self) -> FoldedSigns:
        """Everything that scoring needs."""
        return FoldedSigns(
            [(member.encoder, member.anomaly_head) for member in cast(Iterable[Member], self.members)],
            self.evidence,
            Beside(self.around, self.nearest, self.smoothing),
            scaling=(self.low, self.high),
            gaussian=(self.mean, self.whitening),
            halo=self.halo,
        )

    def set_evidence(self, rows: NDArray[np.float32]) -> None:
        """See `EvidenceDetector`."""
        self.evidence.fit(rows, self._weights)

    @property
    def remembered(self) -> NDArray[np.float32]:
        """See `DescriptorDetector`."""
        rows: NDArray[np.float32] = self.nearest.rows.cpu().numpy()
        return rows

    def remember(self, rows: NDArray[np.float32]) -> None:
        """See `DescriptorDetector`."""
        self.nearest.remember(rows)

    def part(self, networks: Sequence[int], normal: NormalPixels | None) -> Self:
        """See `EvidenceDetector`."""
        part = deepcopy(self)
        part.members = nn.ModuleList(part.members[i] for i in networks)
        if normal is not None:
            part.set_gaussian(fit_ledoit_wolf(normal.moments))
            part.remember(normal.rows)
        return part

    def _check_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        super()._check_arrays(arrays)
        check_variances(arrays)
        check_evidence(arrays)
        check_memory(arrays, "nearest")
