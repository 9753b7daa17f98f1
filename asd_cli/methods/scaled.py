"""What the trained methods share: the input convention, settings with ranges, and figures of held-out pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from asd_cli.data.scaling import Scaling
from asd_cli.errors import InputError, ModelFileError
from asd_cli.methods.base import Detector, TrainingBatch
from asd_cli.methods.settings import read_settings
from asd_cli.nn.pyramid import checked_pyramid
from asd_cli.options import TrainOptions

if TYPE_CHECKING:
    from asd_cli.nn.onnx_graph import OnnxGraph

RANGE = 3.0
"""Network inputs are clamped to +-3: far outside the normal range, yet no single pixel can swamp a patch."""
_ASD_OPTIONS = ("length", "scales", "patch_size", "without", "loss_form")
S = TypeVar("S")


def normalised(x: Tensor, low: Tensor, slope: Tensor, limit: float = RANGE) -> Tensor:
    """Raw pixels to the network's range: low -> -1, low + 2 / slope -> 1, clamped far outside."""
    return ((x - low) * slope - 1.0).clamp(-limit, limit)


def add_normalised(graph: OnnxGraph, x: str, low: Tensor, slope: Tensor) -> str:
    """`normalised` as nodes; low and slope (1, bands, 1, 1)."""
    from asd_cli.nn.onnx_graph import array

    x = graph.add("Mul", graph.add("Sub", x, graph.constant(array(low))), graph.constant(array(slope)))
    x = graph.add("Sub", x, graph.constant(1.0))
    return graph.add("Clip", x, graph.constant(-RANGE), graph.constant(RANGE))


class BandRanges(nn.Module):
    """Holds each band's range of normal pixels, which travels in the model file."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(bands))
        self.register_buffer("high", torch.ones(bands))
        self.low: Tensor
        self.high: Tensor

    def set_scaling(self, scaling: Scaling) -> None:
        """Take over the range of each band in normal pixels."""
        self.low.copy_(torch.from_numpy(scaling.low))
        self.high.copy_(torch.from_numpy(scaling.high))


def check_ranges(arrays: Mapping[str, NDArray[Any]], prefix: str = "") -> None:
    """Refuse arrays of `BandRanges` that cannot be.

    Raises:
        ModelFileError: the range of a band is empty.
    """
    if not (arrays[f"{prefix}high"] > arrays[f"{prefix}low"]).all():
        raise ModelFileError("the scaling of the bands is damaged: a range is empty")


class ScaledDetector(BandRanges, Detector):
    """A method that sees each band's range of normal pixels as -1 to 1, and farther values up to `farthest`."""

    farthest: ClassVar[float] = RANGE

    def __init__(self, bands: int) -> None:
        super().__init__(bands)
        self.bands = bands

    def normalise(self, x: Tensor) -> Tensor:
        """Raw pixels to the network's range: low -> -1, high -> 1, clamped far outside."""
        slope = 2.0 / (self.high - self.low)
        return normalised(x, self.low.view(1, -1, 1, 1), slope.view(1, -1, 1, 1), self.farthest)

    def _check_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        super()._check_arrays(arrays)
        check_ranges(arrays)


def settings_of(kind: type[S], options: TrainOptions, *, method: str, uses: Iterable[str] = ()) -> S:
    """The settings of a method that has one recipe alone, and of the options made for ASD those in `uses`.

    Raises:
        InputError: another recipe, an option that the method would ignore, or a setting that it refuses.
    """
    if options.recipe != TrainOptions().recipe:
        raise InputError(f"--recipe {options.recipe}: is one of the method asd; leave it out for {method}")
    for name in _ASD_OPTIONS:
        if name not in uses and getattr(options, name) != getattr(TrainOptions(), name):
            raise InputError(f"--{name.replace('_', '-')}: means nothing to the method {method}; leave it out")
    try:
        return read_settings(kind, options.method_options, method=method)
    except ValueError as error:
        raise InputError(f"--option {error}") from error


def pyramid_config(options: TrainOptions, *, length: int, scales: tuple[float, ...]) -> dict[str, Any]:
    """Architecture of a pyramid: what the options say, else this length and these scales.

    Raises:
        InputError: it is out of range.
    """
    try:
        return checked_pyramid(
            length if options.length is None else options.length,
            scales if options.scales is None else options.scales,
            options.patch_size,
        )
    except ValueError as error:
        raise InputError(f"--scales, --length or --patch-size: {error}") from error


def check_within(settings: object, **ranges: tuple[float, float]) -> None:
    """Refuse settings, by name, that are outside their range, the ends included.

    Raises:
        ValueError: one is; the text says which.
    """
    for name, (least, most) in ranges.items():
        value = getattr(settings, name)
        if not (isinstance(value, (int, float)) and least <= value <= most):
            raise ValueError(f"{name}={value} is not within {least:g}..{most:g}")


def mean_distance(detector: Detector, batches: Iterable[TrainingBatch]) -> float:
    """Mean distance of the pixels that count; 0 without any."""
    total, count = 0.0, 0
    with torch.inference_mode():
        for batch in batches:
            found = detector.distances(batch.image)[batch.mask]
            total += float(found.sum())
            count += found.numel()
    return total / max(count, 1)
