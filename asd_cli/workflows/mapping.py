"""The one windowed loop: read, compute, hand on, overlapping through bounded queues. It knows no task."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from itertools import cycle
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from asd_cli.nn.devices import cpu_count
from asd_cli.nn.engines import Engine
from asd_cli.raster.context import ChipReader, read_with_halo
from asd_cli.raster.scene import Chip
from asd_cli.raster.windows import Window
from asd_cli.workflows.stages import StageClock

Map = NDArray[np.float32]
Corner = tuple[int, int]


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

    @property
    def block(self) -> int:
        """Pixels that the sides of a chip, less its halo, are multiples of."""
        ...

    @property
    def ahead(self) -> int:
        """Windows that may wait for their blocks while those of the next are handed out, one for each device."""
        ...

    def submit(self, chip: Chip) -> Callable[[], Map]:
        """Chip of (C, H + 2 halo, W + 2 halo) -> what waits for and returns its (channels, H, W)."""
        ...


class BlockMapper:
    """Runs an engine over chips in blocks of one fixed shape, so that every window size does the same arithmetic.

    Leaving its context ends its threads.

    Args:
        engine: maps the blocks.
        halo: pixels of context on each side.
        channels: bands of the map.
        threads: that compute on the processors, where the engine leaves it open; None: one for each.
        clock: is told the stage "compute".
    """

    def __init__(
        self,
        engine: Engine,
        halo: int,
        *,
        channels: int = 1,
        threads: int | None = None,
        clock: StageClock | None = None,
    ) -> None:
        self.halo, self.channels, self.block, self.ahead = halo, channels, engine.side, 1
        self._engine = engine
        self._clock = clock or StageClock()
        self.callers = engine.callers or threads or cpu_count()
        """Threads that compute."""
        self._pool = None if engine.callers == 1 else ThreadPoolExecutor(self.callers, "asd-compute")
        self._buffers = threading.local()

    def __enter__(self) -> BlockMapper:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __call__(self, chip: Chip) -> Map:
        """See `Mapper.submit`; waits."""
        return self.submit(chip)()

    def submit(self, chip: Chip) -> Callable[[], Map]:
        """See `Mapper`."""
        height, width = (n - 2 * self.halo for n in chip.valid.shape)
        out = np.empty((self.channels, height, width), np.float32)
        n, valid = self.block, chip.valid[self.halo :, self.halo :]
        corners = [(r, c) for r in range(0, height, n) for c in range(0, width, n)]
        needed = [(r, c) for r, c in corners if valid[r : r + n, c : c + n].any()]
        for row, col in set(corners) - set(needed):
            out[:, row : row + n, col : col + n] = np.nan
        groups = [needed[i : i + self._engine.batch] for i in range(0, len(needed), self._engine.batch)]
        if self._pool is None:
            for group in groups:
                self._compute(chip, group, out)
            return lambda: out
        return _Pending([self._pool.submit(self._compute, chip, group, out) for group in groups], out)

    def _compute(self, chip: Chip, corners: Sequence[Corner], out: Map) -> None:
        with self._clock.busy("compute"):
            n, side = self.block, self.block + 2 * self.halo
            shape = (self._engine.batch, len(chip.pixels), side, side)
            blocks = getattr(self._buffers, "blocks", None)
            if blocks is None or blocks.shape != shape:
                blocks = self._buffers.blocks = np.zeros(shape, np.float32)
            for block, (row, col) in zip(blocks, corners, strict=False):
                block[:] = chip.pixels[:, row : row + side, col : col + side]
            for (row, col), values in zip(corners, self._engine(blocks), strict=False):
                out[:, row : row + n, col : col + n] = values


class InTurns:
    """Mappers on devices of their own that take chips in turns; leaving the context ends their threads."""

    def __init__(self, mappers: Sequence[BlockMapper]) -> None:
        self._mappers = mappers
        self._turns = cycle(mappers)
        self.halo, self.channels, self.block = mappers[0].halo, mappers[0].channels, mappers[0].block
        self.ahead = len(mappers)
        self.callers = sum(mapper.callers for mapper in mappers)
        """Threads that compute."""

    def submit(self, chip: Chip) -> Callable[[], Map]:
        """See `Mapper`."""
        return next(self._turns).submit(chip)

    def __enter__(self) -> InTurns:
        return self

    def __exit__(self, *_: object) -> None:
        for mapper in self._mappers:
            mapper.__exit__()


class _Pending:
    """A map whose blocks are being computed."""

    def __init__(self, blocks: Sequence[Future[None]], out: Map) -> None:
        self._blocks, self._out = blocks, out

    def __call__(self) -> Map:
        """Wait for all blocks; after an error the others are not begun any more."""
        try:
            for block in self._blocks:
                block.result()
        except BaseException:
            for block in self._blocks:
                block.cancel()
            raise
        return self._out


def map_scene(
    open_reader: Callable[[], AbstractContextManager[ChipReader]],
    mapper: Mapper,
    windows: Iterable[Window],
    sink: Callable[[Window, Map], None],
    *,
    workers: int = 1,
    clock: StageClock | None = None,
    progress: Callable[[int], None] = lambda pixels: None,
    kept: Callable[[Window], Map | None] = lambda window: None,
) -> None:
    """Map a scene window by window, in order: ``sink(window, map)`` gets (channels, h, w) float32, NaN where the
    scene is invalid. What `kept` gives for a window, in a reading thread, is handed on in place of a map.

    `workers` threads read ahead, each from a reader of its own; the sink runs behind in one thread. At most
    ``workers + 2`` chips and three maps of windows are in memory, and one of each more for every window ahead. An error
    in any stage stops all of them and is raised here. `clock` is told the stage "read".
    """
    with (
        _Readers(open_reader, mapper, workers, clock or StageClock(), kept) as readers,
        Behind(sink) as behind,
    ):
        for window, values in _computed(readers.chips(windows), mapper):
            behind.put(window, values)
            del values  # not to be kept while the next is waited for
            progress(window.height * window.width)


def _computed(chips: Iterable[tuple[Window, Chip | Map]], mapper: Mapper) -> Iterator[tuple[Window, Map]]:
    """Windows with their maps; the blocks of the next ones are begun meanwhile."""
    waiting: deque[tuple[Window, Callable[[], Map]]] = deque()

    def first() -> tuple[Window, Map]:
        window, pending = waiting.popleft()
        return window, pending()

    for window, given in chips:
        waiting.append((window, begin_map(window, given, mapper) if isinstance(given, Chip) else partial(_same, given)))
        del given
        if len(waiting) > mapper.ahead:
            yield first()
    while waiting:
        yield first()


def begin_map(window: Window, chip: Chip, mapper: Mapper) -> Callable[[], Map]:
    """Begin the map of a window from its chip (see `read_window`); what waits for it and makes NaN what is invalid."""
    invalid = ~chip.valid[mapper.halo :, mapper.halo :][: window.height, : window.width]
    pending = mapper.submit(chip)

    def finished() -> Map:
        values = pending()[:, : window.height, : window.width]
        values[:, invalid] = np.nan
        return values

    return finished


def read_window(reader: ChipReader, window: Window, mapper: Mapper) -> Chip:
    """The chip of a window, in whole blocks, with the halo."""
    return read_with_halo(reader, window.round_up(mapper.block), mapper.halo)


def _same(values: Map) -> Map:
    return values


class _Readers:
    """Reads chips in threads, each with a reader of its own. Leaving the context ends the threads."""

    def __init__(
        self,
        open_reader: Callable[[], AbstractContextManager[ChipReader]],
        mapper: Mapper,
        workers: int,
        clock: StageClock,
        kept: Callable[[Window], Map | None] = lambda window: None,
    ) -> None:
        self._open, self._clock, self._kept = open_reader, clock, kept
        self._mapper, self._workers = mapper, workers
        self._pool = ThreadPoolExecutor(workers, "asd-read")
        self._own = threading.local()
        self._opened = ExitStack()
        self._lock = threading.Lock()
        self._failure: BaseException | None = None

    def chips(self, windows: Iterable[Window]) -> Iterator[tuple[Window, Chip | Map]]:
        """The chips of windows, or what is kept of them, in their order; one more than there are threads is begun
        before it is asked for."""
        waiting: deque[tuple[Window, Future[Chip | Map]]] = deque()
        for window in windows:
            waiting.append((window, self._pool.submit(self._read, window)))
            if len(waiting) > self._workers:
                yield waiting[0][0], waiting.popleft()[1].result()
        while waiting:
            yield waiting[0][0], waiting.popleft()[1].result()

    def _read(self, window: Window) -> Chip | Map:
        if self._failure is not None:  # of a later window, perhaps: it is what the caller must hear of
            raise self._failure
        try:
            with self._clock.busy("read"):
                if (kept := self._kept(window)) is not None:
                    return kept
                return read_window(self._reader(), window, self._mapper)
        except BaseException as error:
            self._failure = error
            raise

    def _reader(self) -> ChipReader:
        if not hasattr(self._own, "reader"):
            context = self._open()
            with self._lock:
                self._own.reader = self._opened.enter_context(context)
        reader: ChipReader = self._own.reader
        return reader

    def __enter__(self) -> _Readers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._opened.close()


class Behind:
    """Calls a function in one thread, in order, at most one call behind; its error is raised at the next `put` or at
    the end."""

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        self._slots: queue.Queue[tuple[Any, ...] | None] = queue.Queue(maxsize=1)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="asd-behind", daemon=True)

    def _run(self) -> None:
        while (arguments := self._slots.get()) is not None:
            if self._error is None:
                try:
                    self._function(*arguments)
                except BaseException as error:
                    self._error = error
            del arguments

    def put(self, *arguments: Any) -> None:
        """Have the function called with these; waits while another call waits."""
        if self._error is not None:
            raise self._error
        self._slots.put(arguments)

    def __enter__(self) -> Behind:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._slots.put(None)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error
