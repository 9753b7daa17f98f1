"""What computes the blocks of a map: NumPy in, NumPy out, whatever library does the work."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    import onnxruntime

Blocks = NDArray[np.float32]


class Engine(Protocol):
    """Maps blocks: (batch, C, side + 2 halo, side + 2 halo) raw float32 -> (batch, K, side, side) float32.

    batch: the number of blocks of every call. concurrent: whether several threads may call it at once, each of them
    computing alone.
    """

    batch: int
    concurrent: bool

    def __call__(self, blocks: Blocks) -> Blocks:
        """See the class."""
        ...


class TorchEngine:
    """Runs a torch function, (B, C, h, w) -> (B, side, side) or (B, K, side, side), on a device."""

    concurrent = False  # torch spreads one call over the threads

    def __init__(self, function: Callable[[Tensor], Tensor], device: torch.device) -> None:
        self._function, self._device = function, device
        self.batch = 1 if device.type == "cpu" else 16  # one block fills a CPU's cache; many keep a GPU busy

    @torch.inference_mode()
    def __call__(self, blocks: Blocks) -> Blocks:
        """See `Engine`."""
        tensor = torch.from_numpy(blocks).to(self._device, memory_format=torch.channels_last)
        result: Blocks = self._function(tensor).float().cpu().numpy()
        return result if result.ndim == 4 else result[:, None]


class OnnxEngine:
    """Runs an ONNX Runtime session, one block at a time on the calling thread."""

    batch = 1
    concurrent = True

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session

    def __call__(self, blocks: Blocks) -> Blocks:
        """See `Engine`."""
        result: Blocks = self._session.run(None, {"x": blocks})[0]
        return result
