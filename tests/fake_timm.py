"""A small network with the interface of timm's `features_only` ones, for tests of what is built on them."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

CHANNELS, STRIDES = (6, 8, 10), (4, 8, 16)


class Info:
    def __init__(self, strides: tuple[int, ...]) -> None:
        self._strides = strides

    def channels(self) -> list[int]:
        return list(CHANNELS)

    def reduction(self) -> list[int]:
        return list(self._strides)


class TinyNet(nn.Module):
    """Strides and centres of a ResNet; pixels farther than 21 px have no say in a feature."""

    def __init__(self, bands: int, strides: tuple[int, ...] = STRIDES) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(bands, 4, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Conv2d(4, CHANNELS[0], 3, padding=1)
        self.layer2 = nn.Conv2d(CHANNELS[0], CHANNELS[1], 3, stride=2, padding=1)
        self.layer3 = nn.Conv2d(CHANNELS[1], CHANNELS[2], 3, stride=2, padding=1)
        self.feature_info = Info(strides)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        first = torch.relu(self.layer1(x))
        second = torch.relu(self.layer2(first))
        return [first, second, torch.relu(self.layer3(second))]


def create_model(
    name: str, *, features_only: bool, out_indices: tuple[int, ...], in_chans: int, pretrained: bool
) -> nn.Module:
    if not features_only or out_indices != (1, 2, 3):
        raise ValueError("not as a backbone")
    if name not in ("resnet18", "shallow"):
        raise RuntimeError(f"Unknown model ({name})\nand more")
    if pretrained:
        raise ConnectionError("no way to the hub\nand more")
    return TinyNet(in_chans, STRIDES if name == "resnet18" else (2, 4, 8))


def install(patch: Any) -> None:
    """Put it in place of timm."""
    module = ModuleType("timm")
    module.create_model = create_model  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "timm", module)
