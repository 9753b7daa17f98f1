"""Choosing the device that computes."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from asd_cli.errors import InputError

M = TypeVar("M", bound=nn.Module)
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


def resolve_device(name: str) -> torch.device:
    """Device for ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        InputError: the device is unknown or not there; the text lists those that are.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name}: not a device; use auto, cpu, cuda, cuda:N or mps") from error
    if str(device) in available_devices() or (device.type in available_devices() and device.index is None):
        return device
    raise InputError(f"--device {name}: not on this machine; here are: {', '.join(available_devices())}")


def resolve_devices(names: str) -> list[torch.device]:
    """Devices for names separated by commas, of one kind; each GPU once, as it is as fast alone.

    Raises:
        InputError: as of `resolve_device`, or they do not go together.
    """
    devices = [resolve_device(name.strip()) for name in names.split(",")]
    if len({device.type for device in devices}) > 1:
        raise InputError(f"--device {names}: of several kinds, whose maps differ in the last digits; name one kind")
    if devices[0].type != "cpu" and len(set(devices)) < len(devices):
        raise InputError(f"--device {names}: names a device twice; name each once")
    if len(devices) > 1 and any(device.type == "cuda" and device.index is None for device in devices):
        raise InputError(f"--device {names}: cuda is any of them; name each by its number, such as cuda:0,cuda:1")
    return devices


def available_devices() -> list[str]:
    """Names of the devices of this machine."""
    names = ["cpu"]
    if torch.cuda.is_available():
        names += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        names.append("mps")
    return names


def placed(module: M, device: torch.device) -> M:
    """The module, moved to a device in channels-last layout."""
    moved: M = module.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


class Constant:
    """An array for torch functions, copied to each device once: a captured CUDA graph must not copy from the host."""

    def __init__(self, values: NDArray[np.float32]) -> None:
        self.values = values
        self._placed: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def like(self, x: Tensor) -> Tensor:
        """The array on the device and in the type of `x`."""
        key = x.device, x.dtype
        if key not in self._placed:
            with torch.inference_mode(mode=False):  # it may be first needed there, and then in training
                self._placed[key] = torch.from_numpy(self.values).to(*key)
        return self._placed[key]


def identity(size: int, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Tensor:
    """(size, size) identity matrix; on the meta device it takes no memory, and torch.eye would load torch's compiler
    there: 75 MiB."""
    found = torch.zeros(size, size, dtype=dtype, device=device)
    return found if found.is_meta else found.fill_diagonal_(1)


def cpu_count() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: respects taskset and most job schedulers
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """So many threads for torch's own operations meanwhile; None leaves them as they are."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Have the C library (glibc) keep what this process frees, for good.

    Training allocates the same large arrays at every step; handing them back in between costs a third of its time. More
    than 32 MiB glibc does not allow everywhere.
    """
    _tune_malloc(mmap_threshold=32 << 20, trim_threshold=(1 << 31) - 1)


def return_freed_memory() -> None:
    """Have the C library (glibc) hand large arrays back once they are freed.

    By default each thread keeps up to 64 MiB of them, which makes a fifth of the peak memory of mapping a scene.
    """
    _tune_malloc(mmap_threshold=4 << 20, trim_threshold=8 << 20)


def _tune_malloc(*, mmap_threshold: int, trim_threshold: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # musl has none
        mallopt(_MMAP_THRESHOLD, mmap_threshold)
        mallopt(_TRIM_THRESHOLD, trim_threshold)
