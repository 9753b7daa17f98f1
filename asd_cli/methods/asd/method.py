"""ASD as a method: input convention, encoder and Gaussian in one module whose buffers travel in the model file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from asd_cli.data.localised import LocalAmplitudes
from asd_cli.errors import InputError
from asd_cli.methods.asd.encoder import EncoderOutput, ReconstructingEncoder, check_variances
from asd_cli.methods.asd.folded import FoldedEncoder
from asd_cli.methods.asd.half import HalfScorer
from asd_cli.methods.asd.localised import LocalisedAsd
from asd_cli.methods.asd.objective import AsdLosses, AsdObjective
from asd_cli.methods.asd.recipes import RECIPES
from asd_cli.methods.base import DescriptorDetector, Detector
from asd_cli.methods.recipe import TrainingPlan
from asd_cli.methods.scaled import ScaledDetector, pyramid_config
from asd_cli.methods.settings import NoSettings, read_settings
from asd_cli.nn.devices import identity, placed
from asd_cli.nn.engines import Engine, OnnxEngine, torch_engine
from asd_cli.nn.fused import available
from asd_cli.nn.pyramid import checked_pyramid
from asd_cli.options import LOSSES, TrainOptions

if TYPE_CHECKING:
    from asd_cli.nn.onnx_graph import OnnxGraph


class AsdMethod(ScaledDetector, DescriptorDetector):
    """Pyramid-patch encoder, compact centre and radius; distance from the normal Gaussian (AAAI 2023, Eq. 7)."""

    name: ClassVar[str] = "asd"

    def __init__(self, bands: int, *, length: int, scales: tuple[float, ...], patch_size: int) -> None:
        super().__init__(bands)
        self._config = {"length": length, "scales": list(scales), "patch_size": patch_size}
        self.encoder = ReconstructingEncoder(bands, length=length, scales=scales, patch_size=patch_size)
        self.halo, self.align = self.encoder.halo, self.encoder.align
        self.hold_gaussian(length)
        self.register_buffer("center", torch.zeros(length))
        self.register_buffer("radius", torch.tensor(3.0))
        self.center: Tensor
        self.radius: Tensor

    @classmethod
    def create(cls, bands: int, **config: Any) -> Detector:
        """A method with untrained weights; `config` holds length, scales and patch_size, and how it was ``taught``.

        Raises:
            ValueError: no scales, a scale that is no power of two, a patch or a length that is out of range.
        """
        taught = config.pop("taught", None)
        if taught not in (None, "localised"):
            raise ValueError(f"taught={taught!r} is not known")
        if taught:
            return LocalisedAsd.create(bands, **config)
        return cls(bands, **checked_pyramid(**config))

    @classmethod
    def plan(cls, options: TrainOptions) -> TrainingPlan:
        """Architecture and recipe; the model file is told the losses, their form and the virtual anomalies.

        Raises:
            InputError: all losses are off, or the architecture is out of range.
        """
        read_settings(NoSettings, options.method_options, method=cls.name)
        if isinstance(RECIPES[options.recipe].amplitudes, LocalAmplitudes):
            return LocalisedAsd.plan(options)
        used = [name for name in LOSSES if name not in options.without]
        if not used:
            raise InputError("--without: all three losses are switched off; keep at least one")
        config = pyramid_config(options, length=5, scales=(0.5, 1.0, 2.0))  # the paper's
        recipe = RECIPES[options.recipe]
        facts = {
            "losses": used,
            "loss_form": options.loss_form,
            "virtual_anomalies": recipe.amplitudes.as_json(),
        }
        return TrainingPlan(config, recipe, facts)

    def objective(self, options: TrainOptions, *, warmup_epochs: int) -> AsdObjective:
        """The losses that are switched on, after `warmup_epochs` of reconstruction alone."""
        used = {name.replace("-", "_"): name not in options.without for name in LOSSES}
        return AsdObjective(self, AsdLosses(**used, form=options.loss_form, warmup_epochs=warmup_epochs))

    def config(self) -> dict[str, Any]:
        """JSON-ready arguments of `create`."""
        return dict(self._config)

    def encode(self, x: Tensor, mask: Tensor | None = None) -> EncoderOutput:
        """Raw pixels with halo -> descriptors and reconstruction; see `ReconstructingEncoder`."""
        out: EncoderOutput = self.encoder(self.normalise(x), mask)
        return out

    def descriptors(self, x: Tensor) -> Tensor:
        """(B, bands, H + 2 halo, W + 2 halo) raw float32 -> (B, length, H, W)."""
        return self.encoder.describe(self.normalise(x))

    def distance_engine(self, device: torch.device, side: int) -> Engine:
        """The folded encoder: ONNX Runtime on the CPU, half precision on CUDA devices, plain torch elsewhere."""
        folded = self.folded()
        if device.type == "cpu":
            return OnnxEngine(folded.session(side, distances=True), side)
        folded = placed(folded, device)
        if device.type == "cuda":
            fused = available(device, kernel=folded.kernel, rows=self.length)
            return torch_engine(HalfScorer(folded, fused=fused), device, side)
        return torch_engine(folded.distances, device, side)

    def descriptor_engine(self, device: torch.device, side: int) -> Engine:
        """As `distance_engine`, without a Gaussian and not in half precision."""
        standard = torch.zeros_like(self.mean), identity(self.length, device=self.mean.device)
        folded = FoldedEncoder(self.encoder, self.low, self.high, *standard)
        if device.type == "cpu":
            return OnnxEngine(folded.session(side, distances=False), side)
        return torch_engine(placed(folded, device), device, side)

    def add_distances(self, graph: OnnxGraph, x: str) -> str:
        """See `Detector`."""
        return self.folded().add_distances(graph, x)

    def folded(self) -> FoldedEncoder:
        """Encoder and Gaussian in one."""
        return FoldedEncoder(self.encoder, self.low, self.high, self.mean, self.whitening)

    def _check_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        super()._check_arrays(arrays)
        check_variances(arrays)
