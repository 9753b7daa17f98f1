"""RX as a method: raw pixels whitened by the covariance of normal pixels, and what background they are held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from asd_cli.density.gaussian import Gaussian
from asd_cli.errors import InputError
from asd_cli.methods.base import DescriptorDetector
from asd_cli.methods.fitted import fitted_recipe
from asd_cli.methods.recipe import TrainingPlan
from asd_cli.methods.rx.local import Ring
from asd_cli.methods.scaled import ScaledDetector
from asd_cli.methods.settings import read_settings
from asd_cli.nn.devices import placed
from asd_cli.nn.engines import Engine, SingleEngine, torch_engine
from asd_cli.options import TrainOptions

if TYPE_CHECKING:
    from asd_cli.nn.onnx_graph import OnnxGraph

MODES = ("global", "local", "subspace")
_LARGEST_WINDOW = 101
_LEAST_SHARE = 1e-3
_FLOAT, _DOUBLE = 1, 11  # types of ONNX


@dataclass(frozen=True)
class RxSettings:
    """`-O` of RX. mode: global, local or subspace. drop: leading components that `subspace` leaves out. inner, outer:
    sides of the windows of `local`. share: of the global covariance in a local one."""

    mode: str = "global"
    drop: int = 1
    inner: int = 5
    outer: int = 15
    share: float = 0.05


class RxMethod(ScaledDetector, DescriptorDetector):
    """Mahalanobis distance of band vectors from all normal pixels, from their surroundings, or in a subspace.

    The descriptor is the pixel itself, each band scaled linearly so that its normal range is -1 to 1. Pixels are
    computed in float64: hundreds of correlated bands need it.

    - global: distance from the Gaussian of all normal pixels (Reed & Yu 1990).
    - local: from mean and covariance of a ring around the pixel; see `Ring`. Holes in the ring count as what they are
      filled with.
    - subspace: without the `drop` principal components of the normal pixels that vary most (Schaum, "Joint subspace
      detection of hyperspectral targets", 2004).
    """

    name: ClassVar[str] = "rx"
    farthest: ClassVar[float] = 1e6
    """Ranges of normal pixels; farther values count as that, so that squares stay finite."""
    align = 1

    def __init__(self, bands: int, *, mode: str, drop: int, ring: Ring) -> None:
        super().__init__(bands)
        self.hold_gaussian(bands, torch.float64)
        self._mode, self._drop, self._ring = mode, drop, ring
        self.halo = ring.halo if mode == "local" else 0

    @classmethod
    def create(cls, bands: int, **config: Any) -> Self:
        """RX that has seen no pixel; `config` holds the mode and its settings.

        Raises:
            ValueError: no such mode, or settings that are out of range.
        """
        settings = _checked(RxSettings(**config))
        if settings.mode == "subspace" and settings.drop >= bands:
            raise ValueError(f"drop={settings.drop} leaves nothing of {bands} band(s)")
        ring = Ring(settings.inner, settings.outer, settings.share)
        return cls(bands, mode=settings.mode, drop=settings.drop, ring=ring)

    @classmethod
    def plan(cls, options: TrainOptions) -> TrainingPlan:
        """Mode and settings; one pass over the tiles.

        Raises:
            InputError: settings that are out of range, or options of a training.
        """
        settings = read_settings(RxSettings, options.method_options, method=cls.name)
        try:
            config = _config(_checked(settings))
        except ValueError as error:
            raise InputError(f"--option: {error}") from error
        return TrainingPlan(config, fitted_recipe(options, method=cls.name), {})

    def objective(self, options: TrainOptions, *, warmup_epochs: int) -> None:
        """There is nothing to train."""

    @property
    def in_turn(self) -> bool:
        """See `Detector`; nothing but the Gaussian knows the tiles."""
        return True

    def config(self) -> dict[str, Any]:
        """JSON-ready arguments of `create`."""
        ring = self._ring
        return _config(RxSettings(self._mode, self._drop, ring.inner, ring.outer, ring.share))

    def set_gaussian(self, gaussian: Gaussian) -> None:
        """Measure distances from this Gaussian from now on; in a subspace, along its thinner axes alone."""
        super().set_gaussian(gaussian)
        if self._mode == "subspace":
            variances, axes = np.linalg.eigh(gaussian.covariance)
            kept = len(variances) - self._drop
            self.whitening.zero_()
            self.whitening[:kept] = torch.from_numpy((axes[:, :kept] / np.sqrt(variances[:kept])).T)

    def descriptors(self, x: Tensor) -> Tensor:
        """(B, bands, H + 2 halo, W + 2 halo) raw float32 -> (B, bands, H, W)."""
        height, width = x.shape[-2] - self.halo, x.shape[-1] - self.halo
        return self.normalise(x[..., self.halo : height, self.halo : width])

    def whitened(self, x: Tensor) -> Tensor:
        """(B, bands, h, w) raw, any halo kept -> (B, bands, h, w) float64 whose norm is the global distance.

        Scaling and whitening are folded into one matrix, applied to the difference from the raw mean.
        """
        centre, limit, matrix = self._affine()
        pixels = (x.movedim(1, -1).double() - centre).clamp(-limit, limit)
        return (pixels @ matrix).movedim(-1, 1)

    def _affine(self) -> tuple[Tensor, Tensor, Tensor]:
        """What is subtracted from raw pixels (bands,), how far they may be off (bands,), and the matrix."""
        slope = 2.0 / (self.high.double() - self.low.double())
        centre = (self.mean + 1.0) / slope + self.low.double()
        return centre, self.farthest / slope, (self.whitening * slope).T

    def add_distances(self, graph: OnnxGraph, x: str) -> str:
        """See `Detector`; in float64, too."""
        if self._mode == "local":
            return super().add_distances(graph, x)
        centre, limit, matrix = (tensor.numpy() for tensor in self._affine())
        pixels = graph.add("Cast", graph.add("Transpose", x, perm=[0, 2, 3, 1]), to=_DOUBLE)
        apart = graph.add("Sub", pixels, graph.constant(centre, np.float64))
        apart = graph.add(
            "Max", graph.add("Min", apart, graph.constant(limit, np.float64)), graph.constant(-limit, np.float64)
        )
        white = graph.add("MatMul", apart, graph.constant(matrix, np.float64))
        squares = graph.add("ReduceSumSquare", white, graph.constant([3], np.int64), keepdims=1)
        return graph.add("Cast", graph.add("Transpose", graph.add("Sqrt", squares), perm=[0, 3, 1, 2]), to=_FLOAT)

    def distances(self, x: Tensor) -> Tensor:
        """See `Detector`: the square root of Reed & Yu's statistic."""
        white = self.whitened(x)
        squares = self._ring.squared_distances(white) if self._mode == "local" else white.square().sum(dim=1)
        return squares.sqrt().float()

    def distance_engine(self, device: torch.device, side: int) -> Engine:
        """On CUDA devices and the processors; other devices may not know float64."""
        return self._engine("distances", device, side)

    def descriptor_engine(self, device: torch.device, side: int) -> Engine:
        """As `distance_engine`."""
        return self._engine("descriptors", device, side)

    def _engine(self, function: str, device: torch.device, side: int) -> Engine:
        if device.type == "cuda":
            return torch_engine(getattr(placed(self.eval(), device), function), device, side)
        return SingleEngine(getattr(self.eval().cpu(), function), side)


def _config(settings: RxSettings) -> dict[str, Any]:
    """The mode and what it uses; the rest is left at its defaults."""
    used = {"global": (), "local": ("inner", "outer", "share"), "subspace": ("drop",)}[settings.mode]
    return {"mode": settings.mode, **{name: getattr(settings, name) for name in used}}


def _checked(settings: RxSettings) -> RxSettings:
    """The settings, in range."""
    inner, outer = settings.inner, settings.outer
    if not all(isinstance(value, int) for value in (settings.drop, inner, outer)):
        raise ValueError("drop, inner and outer must be whole numbers")
    if settings.mode not in MODES:
        raise ValueError(f"mode={settings.mode} is not one of {', '.join(MODES)}")
    if not (inner % 2 == outer % 2 == 1 and 1 <= inner < outer <= _LARGEST_WINDOW):
        raise ValueError(f"inner={inner}, outer={outer}: both must be odd, 1 <= inner < outer <= {_LARGEST_WINDOW}")
    if not _LEAST_SHARE <= settings.share <= 1:
        raise ValueError(f"share={settings.share:g} is not within {_LEAST_SHARE}..1")
    if settings.drop < 1:
        raise ValueError(f"drop={settings.drop} is not at least 1")
    return settings
