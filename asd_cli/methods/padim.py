"""PaDiM: Mahalanobis distance of the features of a frozen network.

Defard et al., "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and Localization", ICPR 2020
Workshops (2021). The paper fits a Gaussian to each position of images that are all laid out alike. Rasters have no such
layout: here one Gaussian holds for all positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from numpy.typing import NDArray
from torch import Tensor

from asd_cli.errors import InputError, ModelFileError
from asd_cli.methods.backbone.detector import BackboneDetector
from asd_cli.methods.backbone.features import (
    BLOCK,
    BackboneSettings,
    FrozenFeatures,
    channel_error,
    checked_halo,
    described,
    random_channels,
)
from asd_cli.methods.backbone.loading import check_weights
from asd_cli.methods.base import DescriptorDetector
from asd_cli.methods.fitted import fitted_recipe
from asd_cli.methods.recipe import TrainingPlan
from asd_cli.methods.settings import read_settings
from asd_cli.options import TrainOptions

_MOST_CHANNELS = 1024


@dataclass(frozen=True)
class PadimSettings(BackboneSettings):
    """channels: how many of all channels are used, chosen at random (Sec. III-B of the paper)."""

    channels: int = 100


class Padim(BackboneDetector, DescriptorDetector):
    """The descriptor of a pixel is a random choice of the channels of three stages, interpolated to the pixel; the
    distance is that of Eq. 2 of the paper."""

    name: ClassVar[str] = "padim"

    def __init__(self, bands: int, features: FrozenFeatures, *, backbone: str, length: int) -> None:
        total = sum(features.channels)
        if length > total:
            raise ValueError(f"channels={length} is more than the {total} of {backbone}")
        super().__init__(bands, features, backbone)
        self.hold_gaussian(length)
        self.register_buffer("chosen", random_channels(features.channels, length))
        self.chosen: Tensor

    @classmethod
    def create(cls, bands: int, **config: Any) -> Self:
        """A detector on a backbone; `config` holds backbone, halo, channels and, when it is new, weights.

        Raises:
            ValueError: a setting is out of range.
            InputError: the backbone cannot be had.
        """
        settings = _checked(PadimSettings(**{"weights": "random", **config}))
        backbone = settings.backbone
        features = FrozenFeatures(bands, backbone=backbone, halo=settings.halo, weights=settings.weights)
        return cls(bands, features, backbone=backbone, length=settings.channels)

    @classmethod
    def plan(cls, options: TrainOptions) -> TrainingPlan:
        """Backbone and settings; one pass over the tiles.

        Raises:
            InputError: settings that are out of range, no weights, or options of a training.
        """
        settings = read_settings(PadimSettings, options.method_options, method=cls.name)
        facts = check_weights(settings.weights)
        try:
            _checked(settings)
        except ValueError as error:
            raise InputError(f"--option {error}") from error
        config = {**_config(settings), "weights": settings.weights}
        return TrainingPlan(config, fitted_recipe(options, method=cls.name, crop=BLOCK), facts)

    @property
    def in_turn(self) -> bool:
        """See `Detector`; nothing but the Gaussian knows the tiles."""
        return True

    def config(self) -> dict[str, Any]:
        """JSON-ready arguments of `create`; the weights are among the arrays."""
        return _config(PadimSettings(self.backbone, "", self.halo, self.length))

    def descriptors(self, x: Tensor) -> Tensor:
        """(B, bands, H + 2 halo, W + 2 halo) raw float32 -> (B, length, H, W)."""
        shape = x.shape[-2] - 2 * self.halo, x.shape[-1] - 2 * self.halo
        return described(self.features(x), self.chosen, self.halo, shape)

    def _check_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        super()._check_arrays(arrays)
        error = channel_error(arrays["chosen"], self.features.channels)
        if error:
            raise ModelFileError(error)


def _config(settings: PadimSettings) -> dict[str, Any]:
    return {"backbone": settings.backbone, "halo": settings.halo, "channels": settings.channels}


def _checked(settings: PadimSettings) -> PadimSettings:
    """The settings, in range."""
    checked_halo(settings.halo)
    if not 1 <= settings.channels <= _MOST_CHANNELS:
        raise ValueError(f"channels={settings.channels} is not within 1..{_MOST_CHANNELS}")
    return settings
