"""The pyramid-patch encoder of ASD, without and with its second head (AAAI 2023, Fig. 2 and Eq. 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray
from torch import Tensor, nn

from asd_cli.errors import ModelFileError
from asd_cli.nn.pyramid import HIDDEN, DensePyramid, MaskedBatchNorm2d


def check_variances(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Refuse arrays of a method whose encoder, or one of several, cannot be.

    Raises:
        ModelFileError: a variance is negative.
    """
    for name, array in arrays.items():
        if name.endswith("running_var") and not (array >= 0).all():
            raise ModelFileError(f"tensor {name} is damaged: a variance is negative")


class EncoderOutput(NamedTuple):
    """Descriptors (B, L, H, W) and the reconstructed input (B, bands, H, W) on the network's own range."""

    descriptors: Tensor
    reconstruction: Tensor


class PyramidEncoder(nn.Module):
    """f1 of the paper: pixels to descriptors.

    Scales S_s = {0.5, 1, 2} (any powers of two), patch P = 15, descriptor length L = 5. Valid-mode: the input carries
    `halo` px on each side (16 by default) that the caller pads; shifts by multiples of `align` px change nothing.
    """

    def __init__(
        self,
        bands: int,
        *,
        length: int = 5,
        scales: Sequence[float] = (0.5, 1.0, 2.0),
        patch_size: int = 15,
        hidden: int = HIDDEN,
    ) -> None:
        super().__init__()
        self.pyramid = DensePyramid(bands, length, scales=scales, patch_size=patch_size, hidden=hidden)
        self.norm = MaskedBatchNorm2d(self.pyramid.out_channels)
        self.descriptor_head = nn.Conv2d(self.pyramid.out_channels, length, 1)
        self.halo = self.pyramid.halo
        self.align = self.pyramid.align

    def describe(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, bands, H + 2 halo, W + 2 halo) float, roughly [-1, 1] -> descriptors (B, L, H, W).

        `mask` (B, H, W) bool: the pixels that count for the statistics of the normalisation in training.
        """
        out: Tensor = self.descriptor_head(self.norm(self.pyramid(x), mask))
        return out


class ReconstructingEncoder(PyramidEncoder):
    """f1 with the head that the feature-rich loss of the paper needs: descriptors and the input again."""

    def __init__(
        self, bands: int, *, length: int = 5, scales: Sequence[float] = (0.5, 1.0, 2.0), patch_size: int = 15
    ) -> None:
        super().__init__(bands, length=length, scales=scales, patch_size=patch_size)
        self.reconstruction_head = nn.Conv2d(self.pyramid.out_channels, bands, 1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> EncoderOutput:
        """As `describe` -> `EncoderOutput`."""
        features = self.norm(self.pyramid(x), mask)
        return EncoderOutput(self.descriptor_head(features), self.reconstruction_head(features))
