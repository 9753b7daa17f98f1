"""What computes the blocks of a map: NumPy in, NumPy out, whatever library does the work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    import onnxruntime

Blocks = NDArray[np.float32]
Function = Callable[[Tensor], Tensor]
_GPU_SIDE, _GPU_BATCH, _GPU_CALLERS = 256, 4, 3  # the smallest write window, 512 px, is one batch
_CPU_SIDE = 128  # 64 to 256 are within a tenth of each other; smaller ones waste halo, larger ones memory


class Engine(Protocol):
    """Maps blocks: (batch, C, side + 2 halo, side + 2 halo) raw float32 -> (batch, K, side, side) float32.

    side: of a block in pixels, as the engine was built for. batch: blocks of every call. callers: threads that may call
    it at once: 1 is the thread that made it, None as many as there are processors.
    """

    @property
    def side(self) -> int:
        """See the class."""
        ...

    @property
    def batch(self) -> int:
        """See the class."""
        ...

    @property
    def callers(self) -> int | None:
        """See the class."""
        ...

    def __call__(self, blocks: Blocks) -> Blocks:
        """See the class."""
        ...


def block_side(device: torch.device) -> int:
    """Side in pixels of the blocks that suit a device; a divisor of every write window."""
    return _CPU_SIDE if device.type == "cpu" else _GPU_SIDE


def torch_engine(function: Function, device: torch.device, side: int) -> Engine:
    """The engine that runs a torch function, (B, C, h, w) -> (B, side, side) or (B, K, side, side), on a device.

    On the processors each block is one thread's: torch's own threads would share out its sums in another way for every
    number of them, and the map would depend on it.
    """
    if device.type == "cuda":
        return CudaEngine(function, device, side)
    if device.type == "cpu":
        return SingleEngine(lambda x: function(x.contiguous(memory_format=torch.channels_last)), side)
    return TorchEngine(function, device, side)


class TorchEngine:
    """Runs a torch function on a device, from one thread."""

    callers = 1

    def __init__(self, function: Function, device: torch.device, side: int) -> None:
        self._function, self._device, self.side = function, device, side
        self.batch = 1 if device.type == "cpu" else _GPU_BATCH

    @torch.inference_mode()
    def __call__(self, blocks: Blocks) -> Blocks:
        """See `Engine`."""
        tensor = torch.from_numpy(blocks).to(self._device, memory_format=torch.channels_last)
        return _with_channels(self._function(tensor).float().cpu().numpy())


class SingleEngine:
    """Runs a torch function on the processors, each call on the calling thread alone; on one made for it where the
    engine's maker calls, whose own number of threads stays."""

    batch = 1
    callers = None

    def __init__(self, function: Function, side: int) -> None:
        self._function, self.side = function, side
        self._threads, self._maker = torch.get_num_threads(), threading.get_ident()
        self._own = threading.local()

    def __call__(self, blocks: Blocks) -> Blocks:
        """See `Engine`."""
        if threading.get_ident() != self._maker:
            return self._run(blocks)
        with ThreadPoolExecutor(1, "asd-block") as pool:
            return pool.submit(self._run, blocks).result()

    @torch.inference_mode()
    def _run(self, blocks: Blocks) -> Blocks:
        if not hasattr(self._own, "alone"):
            self._own.alone = True
            torch.get_num_threads()  # has torch set up this thread, which would undo the next line later
            torch.set_num_threads(1)
            # the number is the thread's own, but threads to come take the last one set
            reset = threading.Thread(target=torch.set_num_threads, args=(self._threads,))
            reset.start()
            reset.join()
        return _with_channels(self._function(torch.from_numpy(blocks)).float().numpy())


class CudaEngine:
    """Runs a torch function on a CUDA device; each calling thread has a `_Lane` of its own.

    So while one thread computes, others move their blocks to and from the device.
    """

    batch = _GPU_BATCH
    callers = _GPU_CALLERS

    def __init__(self, function: Function, device: torch.device, side: int) -> None:
        self._function, self._device, self.side = function, device, side
        self._own, self._capturing = threading.local(), threading.Lock()

    @torch.inference_mode()
    def __call__(self, blocks: Blocks) -> Blocks:
        """See `Engine`."""
        lane: _Lane | None = getattr(self._own, "lane", None)
        if lane is None:
            with self._capturing:  # the device is made to wait while a graph is captured
                lane = self._own.lane = _Lane(self._function, self._device, blocks.shape)
        return lane(blocks)


class _Lane:
    """A stream with pinned memory, and a function captured as a CUDA graph: one launch a batch instead of dozens."""

    def __init__(self, function: Function, device: torch.device, shape: tuple[int, ...]) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._given = _pinned(shape)
        self._placed = torch.zeros(shape, device=device)
        torch.cuda.synchronize(device)  # the zeros were written in another stream

        def compute() -> Tensor:
            # by default cuDNN rounds what convolutions get to TF32, 10 bits of mantissa
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                return function(self._placed.contiguous(memory_format=torch.channels_last)).float()

        self._replay, self._result = _captured(compute, self._stream)
        self._taken = _pinned(self._result.shape)

    def __call__(self, blocks: Blocks) -> Blocks:
        """See `Engine`."""
        with torch.cuda.stream(self._stream):
            self._given.copy_(torch.from_numpy(blocks))
            self._placed.copy_(self._given, non_blocking=True)
            self._replay()
            self._taken.copy_(self._result, non_blocking=True)
        self._stream.synchronize()
        return _with_channels(self._taken.numpy().copy())


def _pinned(shape: tuple[int, ...]) -> Tensor:
    """Memory that a device can read while the processor goes on."""
    return torch.empty(shape, pin_memory=True)


def _captured(compute: Callable[[], Tensor], stream: Any) -> tuple[Callable[[], None], Tensor]:
    """What computes again, into the same tensor, from what lies in the same memory."""
    with torch.cuda.stream(stream):
        compute()  # kernels are compiled and chosen before the capture, which allows neither
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            result = compute()
    return graph.replay, result


class OnnxEngine:
    """Runs an ONNX Runtime session, one block at a time on the calling thread."""

    batch = 1
    callers = None

    def __init__(self, session: onnxruntime.InferenceSession, side: int) -> None:
        self._session, self.side = session, side

    def __call__(self, blocks: Blocks) -> Blocks:
        """See `Engine`."""
        result: Blocks = self._session.run(None, {"x": blocks})[0]
        return result


def _with_channels(result: Blocks) -> Blocks:
    return result if result.ndim == 4 else result[:, None]
