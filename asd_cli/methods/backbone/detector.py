"""What the methods on a frozen network share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray

from asd_cli.data.scaling import Scaling
from asd_cli.errors import ModelFileError
from asd_cli.methods.backbone.features import ALIGN, BLOCK, TOLERANCE, FrozenFeatures
from asd_cli.methods.base import DescribingDetector, Detector
from asd_cli.options import TrainOptions


class BackboneDetector(DescribingDetector):
    """A method whose descriptors come from a frozen network; the weights travel in the model file.

    `config` names the architecture alone; `create` takes `weights` besides, when the detector is new.
    """

    tolerance: ClassVar[float] = TOLERANCE
    align = ALIGN

    def __init__(self, bands: int, features: FrozenFeatures, backbone: str) -> None:
        super().__init__()
        self.bands, self.halo = bands, features.halo
        self.backbone = backbone
        self.features = features

    @classmethod
    def restore(cls, bands: int, config: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Detector:
        """See `Detector.restore`; nothing is read or downloaded.

        Raises:
            ModelFileError: as there, or `config` asks for weights.
            InputError: the architecture cannot be had.
        """
        if "weights" in config:
            raise ModelFileError("the model file asks for weights of its backbone in place of holding them")
        return super().restore(bands, config, arrays)

    def objective(self, options: TrainOptions, *, warmup_epochs: int) -> None:
        """There is nothing to train."""

    def block_side(self, device: torch.device) -> int:
        """The same on every device: what lies beyond the halo has a little say in a score."""
        return BLOCK

    def piece_side(self) -> int:
        """As `block_side`."""
        return BLOCK

    def set_scaling(self, scaling: Scaling) -> None:
        """Take over the range of each band in normal pixels."""
        self.features.set_scaling(scaling)

    def _check_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        super()._check_arrays(arrays)
        self.features.check(arrays, "features")
