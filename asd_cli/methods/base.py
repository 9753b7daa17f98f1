"""What every method is: a module that turns pixels into distances, and what it needs to be trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from asd_cli.data.scaling import Scaling
from asd_cli.density.gaussian import Gaussian, fit_ledoit_wolf
from asd_cli.density.normal import NormalPixels
from asd_cli.errors import InputError, ModelFileError
from asd_cli.methods.recipe import TrainingPlan
from asd_cli.nn.devices import identity, placed
from asd_cli.nn.engines import Engine, block_side, torch_engine
from asd_cli.options import TrainOptions

if TYPE_CHECKING:
    from asd_cli.nn.onnx_graph import OnnxGraph

_PIECE_SIDE = 128


@dataclass(frozen=True)
class TrainingBatch:
    """One step's pixels: raw images with their halo, and the pixels that count.

    image, virtual: (B, bands, H + 2 halo, W + 2 halo) float32 on the raster's own range; `virtual` is the image as a
    virtual anomaly. mask: (B, H, W) bool, True for valid pixels of the normal class. changed: (B, H, W) bool, the
    pixels of `virtual` that are anomalous; None means all. seed: of what else a step draws. network: number of the
    one that the batch trains, counted from 0, or that held-out pixels are shown to.
    """

    image: Tensor
    virtual: Tensor
    mask: Tensor
    changed: Tensor | None = None
    seed: int = 0
    network: int = 0

    def to(self, device: torch.device) -> TrainingBatch:
        """The same batch on a device, images in channels-last layout."""
        layout = torch.channels_last
        image = self.image.to(device, memory_format=layout)
        virtual = self.virtual.to(device, memory_format=layout)
        changed = None if self.changed is None else self.changed.to(device)
        return TrainingBatch(image, virtual, self.mask.to(device), changed, self.seed, self.network)


class Detector(nn.Module, ABC):
    """A method: raw pixels to distances, float32, >= 0, higher = more anomalous.

    `halo` px of context are consumed on each side; the map is equivariant to shifts by multiples of `align` px. In
    blocks of one side it is the same for every window; by `tolerance`, relative to it, a score may differ from that of
    the scene in one piece.
    """

    name: ClassVar[str]
    tolerance: ClassVar[float] = 1e-5
    bands: int
    halo: int
    align: int

    @property
    def networks(self) -> int:
        """How many are trained in turn, step by step."""
        return 1

    @property
    def in_turn(self) -> bool:
        """Whether all tiles can be held out, one part after another; else one part is held out from everything."""
        return False

    @abstractmethod
    def distances(self, x: Tensor) -> Tensor:
        """(B, bands, H + 2 halo, W + 2 halo) raw float32 -> (B, H, W) float32."""

    def block_side(self, device: torch.device) -> int:
        """Side in pixels of the blocks that scenes are computed in on a device; a divisor of 512."""
        return block_side(device)

    def piece_side(self) -> int:
        """As `block_side`, for the pieces of training tiles, on every device: pieces are small."""
        return _PIECE_SIDE

    def distance_engine(self, device: torch.device, side: int) -> Engine:
        """What maps blocks of side x side px to distances on a device, as the detector is now."""
        return torch_engine(placed(self.eval(), device).distances, device, side)

    def add_distances(self, graph: OnnxGraph, x: str) -> str:
        """`distances` as nodes of ONNX for any batch and size: the name of raw pixels -> that of (B, 1, H, W).

        Raises:
            InputError: the method cannot be spelled so.
        """
        raise InputError(f"the method {self.name} cannot be exported as ONNX; asd, dsvdd and rx (but for local) can")

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """JSON-ready keyword arguments that `create` builds the same architecture from."""

    @classmethod
    @abstractmethod
    def create(cls, bands: int, **config: Any) -> Detector:
        """A method with untrained weights, drawn from torch's random state.

        Raises:
            ValueError: a value of `config` is out of range; said before anything large is made.
        """

    @classmethod
    @abstractmethod
    def plan(cls, options: TrainOptions) -> TrainingPlan:
        """What this method makes of the options of a training; cheap, asked before any pixel is read.

        Raises:
            InputError: options that it cannot be trained with.
        """

    @abstractmethod
    def set_scaling(self, scaling: Scaling) -> None:
        """Take over the range of each band in normal pixels."""

    @abstractmethod
    def objective(self, options: TrainOptions, *, warmup_epochs: int) -> Objective | None:
        """What training minimises; its module is or holds this method. None: there is nothing to train step by step."""

    @classmethod
    def restore(cls, bands: int, config: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Detector:
        """The method that `config` and `arrays` describe; no memory is taken before they are known to fit.

        Raises:
            ModelFileError: names, shapes, types or values of the arrays are not those of this architecture.
            TypeError, ValueError: `config` cannot be used.
        """
        with torch.device("meta"):
            method = cls.create(bands, **config)
        method._check_arrays(arrays)
        method.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}, assign=True)
        return method

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Weights and buffers as NumPy arrays, for the model file."""
        return {k: v.detach().cpu().contiguous().numpy() for k, v in self.state_dict().items()}

    def _check_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        expected = self.state_dict()
        if set(expected) != set(arrays):
            odd = sorted(set(expected) ^ set(arrays))
            shown = ", ".join(odd[:5])
            raise ModelFileError(
                f"the tensors do not fit the method {self.name} ({shown}); was it made by another version of asd?"
            )
        for key, tensor in expected.items():
            given = arrays[key]
            wanted = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
            found = f"{given.dtype}{list(given.shape)}"
            if found != wanted:
                raise ModelFileError(f"tensor {key} is {found}, not the {wanted} of the method {self.name}")


class DescribingDetector(Detector):
    """A method that gives each pixel a descriptor of `length` numbers first."""

    length: int

    @abstractmethod
    def descriptors(self, x: Tensor) -> Tensor:
        """(B, bands, H + 2 halo, W + 2 halo) raw float32 -> (B, length, H, W) float32."""

    def descriptor_engine(self, device: torch.device, side: int) -> Engine:
        """What maps blocks of side x side px to descriptors on a device, as the detector is now."""
        return torch_engine(placed(self.eval(), device).descriptors, device, side)


class DescriptorDetector(DescribingDetector):
    """A method whose distance is that of a descriptor from a Gaussian, so that `fit-gaussian` can refit it."""

    mean: Tensor
    whitening: Tensor

    def hold_gaussian(self, length: int, dtype: torch.dtype = torch.float32) -> None:
        """Have a standard Gaussian of descriptors, which travels in the model file."""
        self.length = length
        self.register_buffer("mean", torch.zeros(length, dtype=dtype))
        self.register_buffer("whitening", identity(length, dtype))

    def gaussian_of(self, normal: NormalPixels) -> Gaussian:
        """The Gaussian that these normal pixels give; Ledoit and Wolf's, of all of them alike.

        Raises:
            InputError: fewer than two pixels, or descriptors that are not finite.
        """
        return fit_ledoit_wolf(normal.moments)

    def set_gaussian(self, gaussian: Gaussian) -> None:
        """Measure distances from this Gaussian from now on."""
        self.mean.copy_(torch.from_numpy(gaussian.mean))
        self.whitening.copy_(torch.from_numpy(gaussian.whitening))

    def knowing(self, normal: NormalPixels) -> Self:
        """A twin that knows these normal pixels instead, and has what it is trained to in common with this."""
        twin = self._twin()
        twin.set_gaussian(twin.gaussian_of(normal))
        return twin

    def _twin(self) -> Self:
        """One with buffers of its own; networks are the same, but can be exchanged for others."""
        twin = copy(self)
        twin._buffers = {name: None if held is None else held.clone() for name, held in self._buffers.items()}
        twin._modules = dict(self._modules)
        return twin

    def whitened(self, x: Tensor) -> Tensor:
        """(B, bands, H + 2 halo, W + 2 halo) raw float32 -> (B, length, H, W), whose norm is the Mahalanobis distance
        of the descriptor."""
        apart = self.descriptors(x) - self.mean.view(1, -1, 1, 1)
        return nn.functional.conv2d(apart, self.whitening[:, :, None, None])

    def distances(self, x: Tensor) -> Tensor:
        """See `Detector`; the Mahalanobis distance."""
        distance: Tensor = torch.linalg.vector_norm(self.whitened(x), dim=1)
        return distance


class EvidenceDetector(DescriptorDetector):
    """A method that weighs `signs` values of a pixel by how rarely held-out normal pixels show as much."""

    signs: ClassVar[int]

    @abstractmethod
    def sign_engine(self, device: torch.device, side: int) -> Engine:
        """What maps blocks of side x side px to their (batch, signs, side, side) values, as the detector is now."""

    @abstractmethod
    def set_evidence(self, tiles: Sequence[NDArray[np.float32]]) -> None:
        """Weigh signs from now on by those of held-out normal pixels (n, signs), tile by tile."""

    @abstractmethod
    def part(self, networks: Sequence[int]) -> Self:
        """A twin that has some of the networks alone, and these and the evidence in common with this."""


class MemoryDetector(DescribingDetector):
    """A method whose distance is that of a descriptor from remembered ones."""

    @property
    @abstractmethod
    def sample_size(self) -> int:
        """Normal descriptors that it wants to choose from, at most."""

    @abstractmethod
    def set_memory(self, descriptors: NDArray[np.float32], seed: int) -> None:
        """Choose from (n, length) normal descriptors, n >= 1, and measure distances from these from now on."""


class Objective(Protocol):
    """What the training loop minimises; it knows the method, the loop does not.

    `short_names`: the terms and figures that progress shows, and what it calls them.
    """

    short_names: ClassVar[Mapping[str, str]]

    @property
    def module(self) -> nn.Module:
        """What is trained; its state is what a checkpoint keeps."""
        ...

    def losses(self, batch: TrainingBatch, epoch: int) -> dict[str, Tensor]:
        """Terms whose sum is minimised, for one batch of an epoch (counted from 0)."""
        ...

    def review(
        self, epochs_done: int, training: Iterable[TrainingBatch], held_out: Iterable[TrainingBatch]
    ) -> dict[str, float]:
        """Update what changes between epochs, before the first (0 done) and after each; figures for the log.

        Both iterables can be run through more than once.
        """
        ...
