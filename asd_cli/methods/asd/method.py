"""ASD as a method: input convention, encoder and Gaussian in one module whose buffers travel in the model file."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from asd_cli.data.scaling import Scaling
from asd_cli.density.gaussian import Gaussian
from asd_cli.methods.asd.encoder import EncoderOutput, PyramidEncoder
from asd_cli.methods.base import DescriptorDetector

_RANGE = 3.0  # network inputs are clamped to +-3: far outside the normal range, yet no single pixel can swamp a patch


class AsdMethod(DescriptorDetector):
    """Pyramid-patch encoder, compact centre and radius, normal Gaussian (AAAI 2023)."""

    name: ClassVar[str] = "asd"

    def __init__(self, bands: int, *, length: int, scales: tuple[float, ...], patch_size: int) -> None:
        super().__init__()
        self.bands, self.length = bands, length
        self._config = {"length": length, "scales": list(scales), "patch_size": patch_size}
        self.encoder = PyramidEncoder(bands, length=length, scales=scales, patch_size=patch_size)
        self.halo, self.align = self.encoder.halo, self.encoder.align
        for name, value in {
            "low": torch.zeros(bands),
            "high": torch.ones(bands),
            "center": torch.zeros(length),
            "radius": torch.tensor(3.0),
            "mean": torch.zeros(length),
            "whitening": torch.eye(length),
        }.items():
            self.register_buffer(name, value)
        self.low: Tensor
        self.high: Tensor
        self.center: Tensor
        self.radius: Tensor
        self.mean: Tensor
        self.whitening: Tensor

    @classmethod
    def create(cls, bands: int, **config: Any) -> AsdMethod:
        """A method with untrained weights; `config` holds length, scales and patch_size.

        Raises:
            ValueError: no scales, a scale that is no power of two, a patch or a length that is too small.
        """
        length, scales = int(config["length"]), tuple(float(s) for s in config["scales"])
        if not (1 <= length <= 1024 and 1 <= len(scales) <= 8 and all(1 / 64 <= s <= 64 for s in scales)):
            raise ValueError(f"length {length} or scales {scales} are out of range")
        if not 10 <= int(config["patch_size"]) <= 255:
            raise ValueError(f"patch size {config['patch_size']} is not within 10..255")
        return cls(bands, length=length, scales=scales, patch_size=int(config["patch_size"]))

    def config(self) -> dict[str, Any]:
        """JSON-ready arguments of `create`."""
        return dict(self._config)

    def set_scaling(self, scaling: Scaling) -> None:
        """Take over the range of each band in normal pixels."""
        self.low.copy_(torch.from_numpy(scaling.low))
        self.high.copy_(torch.from_numpy(scaling.high))

    def normalise(self, x: Tensor) -> Tensor:
        """Raw pixels to the network's range: low -> -1, high -> 1, clamped far outside."""
        low, high = self.low.view(1, -1, 1, 1), self.high.view(1, -1, 1, 1)
        return ((x - low) * (2.0 / (high - low)) - 1.0).clamp(-_RANGE, _RANGE)

    def encode(self, x: Tensor, mask: Tensor | None = None) -> EncoderOutput:
        """Raw pixels with halo -> descriptors and reconstruction; see `PyramidEncoder`."""
        out: EncoderOutput = self.encoder(self.normalise(x), mask)
        return out

    def descriptors(self, x: Tensor) -> Tensor:
        """(B, bands, H + 2 halo, W + 2 halo) raw float32 -> (B, length, H, W)."""
        return self.encoder.describe(self.normalise(x))

    def distances(self, x: Tensor) -> Tensor:
        """Mahalanobis distance of each pixel's descriptor from the normal Gaussian (AAAI 2023, Eq. 7)."""
        weight = self.whitening.view(self.length, self.length, 1, 1)
        distance: Tensor = nn.functional.conv2d(self.descriptors(x) - self.mean.view(1, -1, 1, 1), weight).norm(dim=1)
        return distance

    def set_gaussian(self, gaussian: Gaussian) -> None:
        """Measure distances from this Gaussian from now on."""
        self.mean.copy_(torch.from_numpy(gaussian.mean))
        self.whitening.copy_(torch.from_numpy(gaussian.whitening))
