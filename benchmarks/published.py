"""The published architecture in its plain dense form, for comparison: every scale at full rate, channels first.

After Li et al. (AAAI 2023) and the fast dense evaluation of Bailer et al. (2018): each pooling is done at all four
offsets, which are stacked as a batch, and what comes out is woven together again. No identity of this project is used:
the image is doubled and all of its positions are computed, descriptors are concatenated, normalised and multiplied.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HALO = 16


class PlainPatchNetwork(nn.Module):
    """One scale; (B, bands, H + 13, W + 13) -> (B, length, H, W), H and W multiples of 4."""

    def __init__(self, bands: int, length: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(bands, 8, 3), nn.Conv2d(8, 16, 3)
        self.conv3, self.conv4 = nn.Conv2d(16, 128, 2), nn.Conv2d(128, length, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = pool_at_all_offsets(F.relu(self.conv1(x)))
        x = pool_at_all_offsets(F.relu(self.conv2(x)))
        return weave(weave(self.conv4(F.relu(self.conv3(x)))))


def pool_at_all_offsets(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (4 B, C, ...): 2 x 2 max-pooling from each of the four corners."""
    height, width = (n - 1 - (n - 1) % 2 for n in x.shape[-2:])
    return torch.cat([F.max_pool2d(x[..., i : i + height, j : j + width], 2) for i in (0, 1) for j in (0, 1)])


def weave(x: Tensor) -> Tensor:
    """Undo what `pool_at_all_offsets` did to the positions."""
    batch, (channels, height, width) = len(x) // 4, x.shape[1:]
    x = x.view(2, 2, batch, channels, height, width).permute(2, 3, 4, 0, 5, 1)
    return x.reshape(batch, channels, 2 * height, 2 * width)


class PlainEncoder(nn.Module):
    """Scales 0.5, 1 and 2 with both heads; images with a halo of 16 px, H and W multiples of 8."""

    def __init__(self, bands: int = 3, length: int = 5) -> None:
        super().__init__()
        self.networks = nn.ModuleList(PlainPatchNetwork(bands, length) for _ in range(3))
        self.norm = nn.BatchNorm2d(3 * length)
        self.descriptor_head = nn.Conv2d(3 * length, length, 1)
        self.reconstruction_head = nn.Conv2d(3 * length, bands, 1)

    def features(self, x: Tensor) -> Tensor:
        height, width = (n - 2 * HALO for n in x.shape[-2:])
        parts = []
        for network, scale in zip(self.networks, (0.5, 1.0, 2.0), strict=True):
            scaled = F.interpolate(x, scale_factor=scale, mode="nearest") if scale != 1 else x
            start = int(HALO * scale) - 7
            rows, cols = int(height * scale) + 13, int(width * scale) + 13
            out = network(scaled[..., start : start + rows, start : start + cols])
            parts.append(F.interpolate(out, size=(height, width), mode="nearest"))
        return self.norm(torch.cat(parts, dim=1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        return self.descriptor_head(features), self.reconstruction_head(features)

    def distances(self, x: Tensor, mean: Tensor, precision: Tensor) -> Tensor:
        """(B, bands, H + 32, W + 32) -> (B, H, W): Mahalanobis distances of all descriptors."""
        difference = self.descriptor_head(self.features(x)).movedim(1, -1) - mean
        return torch.einsum("bhwi,ij,bhwj->bhw", difference, precision, difference).clamp_min(0).sqrt()
