"""Deep SVDD (Ruff et al., "Deep One-Class Classification", ICML 2018) on the dense patch network, pixel by pixel.

The paper's conditions against a collapse of the sphere hold: no bias anywhere (Prop. 2), ReLU alone (Prop. 3), a centre
that is none of the network's trivial outputs and stays fixed (Prop. 1), and no trainable normalisation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from asd_cli.data.amplitudes import Amplitudes
from asd_cli.density.sample import PixelSample
from asd_cli.methods.base import TrainingBatch
from asd_cli.methods.recipe import Recipe, TrainingPlan
from asd_cli.methods.scaled import (
    ScaledDetector,
    add_normalised,
    check_within,
    mean_distance,
    pyramid_config,
    settings_of,
)
from asd_cli.nn.engines import Engine, OnnxEngine
from asd_cli.nn.masked import masked_mean
from asd_cli.nn.pyramid import DensePyramid, checked_pyramid
from asd_cli.nn.unet import initialise
from asd_cli.options import TrainOptions

if TYPE_CHECKING:
    import onnxruntime

    from asd_cli.nn.onnx_graph import OnnxGraph

BOUNDARIES = ("one-class", "soft")
_LEAST_CENTER = 0.1  # a coordinate of the centre near 0 is what zero weights would give
_RADIUS_PIXELS = 500_000

RECIPE = Recipe(
    crop=128,
    epochs=16,
    steps_per_epoch=25,
    warmup_epochs=2,
    learning_rate=1e-3,
    weight_decay=1e-6,  # of the paper, Sec. 4
    decay="cosine",
    jitter=True,
    review_pieces=32,
    scaling="robust",
    amplitudes=Amplitudes(),
)


@dataclass(frozen=True)
class DsvddSettings:
    """boundary: ``one-class`` (Eq. 4) or ``soft`` (Eq. 3). nu: share of normal pixels that may lie outside the soft
    boundary."""

    boundary: str = "one-class"
    nu: float = 0.1

    def __post_init__(self) -> None:
        if self.boundary not in BOUNDARIES:
            raise ValueError(f"boundary={self.boundary} is not one of {', '.join(BOUNDARIES)}")
        check_within(self, nu=(1e-4, 1.0))


class DsvddMethod(ScaledDetector):
    """Distance of a pixel's descriptor from a fixed centre, under a network that draws normal pixels towards it."""

    name: ClassVar[str] = "dsvdd"

    def __init__(self, bands: int, *, length: int, scales: tuple[float, ...], patch_size: int) -> None:
        super().__init__(bands)
        self._config = {"length": length, "scales": list(scales), "patch_size": patch_size}
        self.pyramid = DensePyramid(bands, length, scales=scales, patch_size=patch_size, bias=False)
        initialise(self.pyramid, slope=0.0)
        self.halo, self.align = self.pyramid.halo, self.pyramid.align
        self.register_buffer("center", torch.zeros(self.pyramid.out_channels))
        self.register_buffer("radius", torch.zeros(()))
        self.center: Tensor
        self.radius: Tensor

    @classmethod
    def create(cls, bands: int, **config: Any) -> Self:
        """A method with untrained weights; `config` holds length, scales and patch_size.

        Raises:
            ValueError: no scales, a scale that is no power of two, a patch or a length that is out of range.
        """
        return cls(bands, **checked_pyramid(**config))

    @classmethod
    def plan(cls, options: TrainOptions) -> TrainingPlan:
        """Architecture and recipe; the model file is told the boundary.

        Raises:
            InputError: settings or an architecture out of range, or options that mean nothing here.
        """
        settings = settings_of(DsvddSettings, options, method=cls.name, uses=("length", "scales", "patch_size"))
        config = pyramid_config(options, length=5, scales=(0.5, 1.0, 2.0))
        facts = {"boundary": settings.boundary}
        return TrainingPlan(config, RECIPE, facts | ({"nu": settings.nu} if settings.boundary == "soft" else {}))

    def objective(self, options: TrainOptions, *, warmup_epochs: int) -> DsvddObjective:
        """Eq. 4, or Eq. 3 with a radius that is 0 for `warmup_epochs`."""
        settings = settings_of(DsvddSettings, options, method=self.name, uses=("length", "scales", "patch_size"))
        return DsvddObjective(self, settings, warmup_epochs=warmup_epochs, seed=options.seed)

    def config(self) -> dict[str, Any]:
        """JSON-ready arguments of `create`."""
        return dict(self._config)

    def outputs(self, x: Tensor) -> Tensor:
        """(B, bands, H + 2 halo, W + 2 halo) raw float32 -> (B, scales x length, H, W) float32."""
        found: Tensor = self.pyramid(self.normalise(x)).float()
        return found

    def distances(self, x: Tensor) -> Tensor:
        """|f(x) - c| of each pixel (square root of Eq. 5); see `Detector`."""
        distance: Tensor = torch.linalg.vector_norm(self.outputs(x) - self.center.view(1, -1, 1, 1), dim=1)
        return distance

    def distance_engine(self, device: torch.device, side: int) -> Engine:
        """ONNX Runtime on the CPU, torch elsewhere."""
        if device.type == "cpu":
            return OnnxEngine(self._session(side), side)
        return super().distance_engine(device, side)

    def _session(self, side: int) -> onnxruntime.InferenceSession:
        """`distances` of one block (1, bands, side + 2 halo, side + 2 halo) -> (1, 1, side, side)."""
        from asd_cli.nn.onnx_graph import OnnxGraph

        graph, around = OnnxGraph(), side + 2 * self.halo
        return graph.session(self.add_distances(graph, "x"), (1, self.bands, around, around))

    def add_distances(self, graph: OnnxGraph, x: str) -> str:
        """See `Detector`."""
        from asd_cli.nn.onnx_graph import add_pyramid, array

        shape = (1, -1, 1, 1)
        x = add_normalised(graph, x, self.low.view(shape), (2.0 / (self.high - self.low)).view(shape))
        parts = add_pyramid(graph, self.pyramid, x)
        apart = graph.add("Sub", graph.add("Concat", *parts, axis=1), graph.constant(array(self.center.view(shape))))
        return graph.add("ReduceL2", apart, graph.constant([1], "int64"), keepdims=1)


class DsvddObjective:
    """Mean squared distance from the centre (one-class), or what of it lies outside the radius (soft boundary)."""

    short_names: ClassVar[Mapping[str, str]] = {
        "loss": "loss", "sphere": "sphere", "outside": "outside", "radius": "R", "held_out": "held-out d",
    }  # fmt: skip

    def __init__(self, method: DsvddMethod, settings: DsvddSettings, *, warmup_epochs: int, seed: int) -> None:
        self.module = method
        self._settings, self._warmup, self._seed = settings, warmup_epochs, seed

    def losses(self, batch: TrainingBatch, epoch: int) -> dict[str, Tensor]:
        """Eq. 4, or the terms of Eq. 3; weight decay is the optimizer's."""
        method = self.module
        squares = (method.outputs(batch.image) - method.center.view(1, -1, 1, 1)).square().sum(dim=1)
        if self._settings.boundary == "one-class":
            return {"sphere": masked_mean(squares, batch.mask)}
        outside = (squares - method.radius.square()).clamp_min(0)
        return {
            "sphere": method.radius.square(),
            "outside": masked_mean(outside, batch.mask) / self._settings.nu,
        }

    def review(
        self, epochs_done: int, training: Iterable[TrainingBatch], held_out: Iterable[TrainingBatch]
    ) -> dict[str, float]:
        """Fix the centre before the first epoch; renew the radius after each that follows the warm-up.

        The centre is the mean output of the untrained network, the radius the (1 - nu) quantile of the
        distances of a sample of training pixels (Sec. 3).
        """
        method = self.module
        with torch.inference_mode():
            if not epochs_done:
                method.center.copy_(_apart_from_zero(self._mean_output(training)))
            elif self._settings.boundary == "soft" and epochs_done >= max(self._warmup, 1):
                method.radius.fill_(self._quantile(training))
        figures = {"held_out": mean_distance(method, held_out)}
        return figures if self._settings.boundary == "one-class" else {"radius": float(method.radius), **figures}

    def _mean_output(self, batches: Iterable[TrainingBatch]) -> Tensor:
        total, pixels = torch.zeros(self.module.pyramid.out_channels, dtype=torch.float64), 0
        for batch in batches:
            picked = self.module.outputs(batch.image).movedim(1, -1)[batch.mask]
            total += picked.sum(dim=0).cpu().double()  # not every device knows float64
            pixels += picked.shape[0]
        return (total / max(pixels, 1)).float()

    def _quantile(self, batches: Iterable[TrainingBatch]) -> float:
        sample = PixelSample(_RADIUS_PIXELS, 1, self._seed)
        for number, batch in enumerate(batches):
            sample.add(self.module.distances(batch.image)[batch.mask].cpu().numpy()[:, None], number)
        return float(sample.quantile(1.0 - self._settings.nu)[0])


def _apart_from_zero(center: Tensor) -> Tensor:
    """Coordinates within 0.1 of zero moved to 0.1 or -0.1."""
    least = torch.where(center < 0, -_LEAST_CENTER, _LEAST_CENTER)
    return torch.where(center.abs() < _LEAST_CENTER, least, center)
