"""Processes that train together, one a device, as torchrun starts them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from asd_cli.errors import InputError


@dataclass(frozen=True)
class Ranks:
    """This process is number `rank` of `count`."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def share(self, total: int) -> range:
        """Which of `total` equal pieces of work are this process's.

        Raises:
            InputError: there is not as much for each.
        """
        if total % self.count:
            raise InputError(f"--crops {total}: cannot be shared by {self.count} processes; give a multiple of that")
        each = total // self.count
        return range(self.rank * each, (self.rank + 1) * each)

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether it is true in any process."""
        if self.count == 1:
            return flag
        told = torch.tensor(float(flag), device=device)
        dist.all_reduce(told)
        return bool(told.item())

    def total(self, tensors: Sequence[Tensor]) -> None:
        """Put the sum over all processes into each tensor, in one exchange for all of a type."""
        if self.count == 1:
            return
        for dtype in {tensor.dtype: None for tensor in tensors}:
            some = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in some])
            dist.all_reduce(flat)
            parts = torch.split(flat, [tensor.numel() for tensor in some])
            for tensor, part in zip(some, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Put the mean over all processes into each tensor."""
        self.total(tensors)
        for tensor in tensors:
            tensor.div_(self.count)


@contextmanager
def joined(device: torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """The processes that torchrun has started, and the device of this one; alone without torchrun.

    On CUDA each process of a machine takes the device of its number there.
    """
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield Ranks(), device
        return
    if device.type == "cuda":
        local = dist.get_node_local_rank()
        if local >= torch.cuda.device_count():
            raise InputError(f"process {local} of this machine has no CUDA device of its own; start fewer processes")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size()), device
    finally:
        dist.destroy_process_group()
