"""The one windowed loop: read, compute, hand on, overlapping through bounded queues. It knows no task."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from asd_cli.raster.context import ChipReader, read_with_halo
from asd_cli.raster.scene import Chip
from asd_cli.raster.windows import Window

T = TypeVar("T")
BLOCK = 128
"""Pixels a side of the blocks that are computed at once: the fastest on CPUs among 64 to 512, and a divisor of every
write window."""
_BLOCKS_AT_ONCE = {"cpu": 1}  # one block fills the CPU's cache; elsewhere many keep the device busy


class Mapper(Protocol):
    """What a map is made with: chips with halo in, `channels` bands out."""

    @property
    def halo(self) -> int:
        """Pixels of context on each side."""
        ...

    @property
    def channels(self) -> int:
        """Bands of the map."""
        ...

    def __call__(self, chip: Chip) -> NDArray[np.float32]:
        """Chip of (C, H + 2 halo, W + 2 halo), H and W multiples of `BLOCK` -> (channels, H, W)."""
        ...


class BlockMapper:
    """Runs a network over a chip in blocks of one fixed shape, so that every window size does the same arithmetic.

    Args:
        function: (B, C, BLOCK + 2 halo, BLOCK + 2 halo) -> (B, BLOCK, BLOCK) or (B, channels, BLOCK, BLOCK), on
        `device`.
        halo: pixels of context on each side.
        device: where to compute.
        channels: bands of the map.
    """

    def __init__(
        self,
        function: Callable[[torch.Tensor], torch.Tensor],
        halo: int,
        device: torch.device,
        *,
        channels: int = 1,
    ) -> None:
        self.halo, self.channels = halo, channels
        self._function, self._device = function, device
        self._batch = _BLOCKS_AT_ONCE.get(device.type, 16)

    def __call__(self, chip: Chip) -> NDArray[np.float32]:
        """See `Mapper`."""
        side = BLOCK + 2 * self.halo
        height, width = (n - 2 * self.halo for n in chip.valid.shape)
        out = np.empty((self.channels, height, width), np.float32)
        corners = [(r, c) for r in range(0, height, BLOCK) for c in range(0, width, BLOCK)]
        needed = [(r, c) for r, c in corners if chip.valid[_inner(r, self.halo), _inner(c, self.halo)].any()]
        for row, col in set(corners) - set(needed):
            out[:, row : row + BLOCK, col : col + BLOCK] = np.nan
        stack = np.zeros((self._batch, chip.pixels.shape[0], side, side), np.float32)
        for start in range(0, len(needed), self._batch):
            group = needed[start : start + self._batch]
            for i, (row, col) in enumerate(group):
                stack[i] = chip.pixels[:, row : row + side, col : col + side]
            result = self._compute(stack)
            for i, (row, col) in enumerate(group):
                out[:, row : row + BLOCK, col : col + BLOCK] = result[i]
        return out

    @torch.inference_mode()
    def _compute(self, stack: NDArray[np.float32]) -> NDArray[np.float32]:
        tensor = torch.from_numpy(stack).to(self._device, memory_format=torch.channels_last)
        result = self._function(tensor).float().cpu().numpy()
        return result.reshape(len(stack), self.channels, BLOCK, BLOCK)


def _inner(start: int, halo: int) -> slice:
    return slice(start + halo, start + halo + BLOCK)


def map_scene(
    scene: ChipReader,
    mapper: Mapper,
    windows: Iterable[Window],
    sink: Callable[[Window, NDArray[np.float32]], None],
    *,
    progress: Callable[[int], None] = lambda pixels: None,
) -> None:
    """Map a scene window by window, in order: ``sink(window, map)`` gets (channels, h, w) float32, NaN where the
    scene is invalid.

    Reading runs one window ahead and the sink one behind, each in its own thread; at most three chips and three maps of
    windows are in memory.
    The sink is called from one thread. An error in any stage stops all of them and is raised here.
    """
    chips = ((window, _read(scene, window, mapper.halo)) for window in windows)
    with _Ahead(chips) as ahead, _Behind(sink) as behind:
        for window, chip in ahead:
            inner = chip.valid[mapper.halo :, mapper.halo :][: window.height, : window.width]
            values = mapper(chip)[:, : window.height, : window.width]
            values[:, ~inner] = np.nan
            behind.put(window, values)
            del chip, inner, values  # not to be kept while the next chip is waited for
            progress(window.height * window.width)


def _read(scene: ChipReader, window: Window, halo: int) -> Chip:
    return read_with_halo(scene, window.round_up(BLOCK), halo)


class _Ahead(Generic[T]):
    """Iterates in a thread, `depth` items ahead; an error there is raised here. Leaving the context ends the thread."""

    def __init__(self, items: Iterator[T], depth: int = 1) -> None:
        self._items = items
        self._slots: queue.Queue[T | BaseException | None] = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asd-read", daemon=True)

    def _run(self) -> None:
        try:
            for item in self._items:
                self._put(item)
                del item
                if self._stop.is_set():
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, entry: T | BaseException | None) -> None:
        while not self._stop.is_set():
            try:
                return self._slots.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def __iter__(self) -> Iterator[T]:
        while (entry := self._slots.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            yield entry
            del entry

    def __enter__(self) -> _Ahead[T]:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


class _Behind:
    """Calls a function in one thread, in order, at most one call behind; its error is raised at the next `put` or at
    the end."""

    def __init__(self, sink: Callable[[Window, NDArray[np.float32]], None]) -> None:
        self._sink = sink
        self._slots: queue.Queue[tuple[Window, NDArray[np.float32]] | None] = queue.Queue(maxsize=1)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="asd-write", daemon=True)

    def _run(self) -> None:
        while (entry := self._slots.get()) is not None:
            if self._error is None:
                try:
                    self._sink(*entry)
                except BaseException as error:
                    self._error = error
            del entry

    def put(self, window: Window, values: NDArray[np.float32]) -> None:
        if self._error is not None:
            raise self._error
        self._slots.put((window, values))

    def __enter__(self) -> _Behind:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._slots.put(None)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error
