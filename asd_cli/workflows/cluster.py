"""A map from many processes or machines: Dask distributed hands out parts, and this process keeps their order."""

from __future__ import annotations

import logging
import os
import queue
import re
import signal
import tempfile
import time
import uuid
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from asd_cli.errors import AsdError, InputError, OutputError
from asd_cli.nn.devices import cpu_count, resolve_devices
from asd_cli.options import PredictOptions
from asd_cli.raster.windows import Window
from asd_cli.workflows.found_blocks import FoundBlocks
from asd_cli.workflows.interrupt import DeferredInterrupt
from asd_cli.workflows.map_files import Source
from asd_cli.workflows.mapping import Behind, Map
from asd_cli.workflows.remote import Done, Errand, make_part
from asd_cli.workflows.stages import StageClock
from asd_cli.workflows.work_folder import WorkFolder

_log = logging.getLogger(__name__)
_LOCAL, _MOST_LOCAL = "local:", 512
_TO_CONNECT, _TO_HAVE_WORKERS, _TO_SEE = 10.0, 60.0, 20.0  # seconds until we give up
_LOOK = 1.0  # seconds between looks at the workers
_TASKS_A_WORKER = 2  # one is computed, the next one read
_NO_LOGS = {"version": 1, "disable_existing_loggers": False}  # else Dask has its own on standard error
_NOWHERE = {"handlers": {"none": {"class": "logging.NullHandler"}}, "root": {"handlers": ["none"]}}
_CONFIG = {
    "distributed.nanny.pre-spawn-environ.DASK_LOGGING": str(_NO_LOGS | _NOWHERE),
    "distributed.scheduler.allowed-failures": 2,  # workers that a part may end
    "distributed.worker.profile.enabled": False,
}


class Cluster:
    """Workers that make parts of maps; see `open_cluster`."""

    def __init__(self, client: Any, name: str, *, threads: int | None) -> None:
        self.client, self._name = client, name
        self._threads = threads  # of a worker; None: as many as Dask gives it
        self._workers, self._looked, self._without_since = 0, -_LOOK, time.monotonic()

    def most_tasks(self) -> int:
        """How many tasks may be with the cluster; waits for the first worker.

        Raises:
            AsdError: there is none for long, or the scheduler is gone.
        """
        while True:
            now = time.monotonic()
            if now - self._looked >= _LOOK:
                self._looked = now
                try:
                    self._workers = len(self.client.nthreads())
                except (OSError, RuntimeError) as error:
                    raise self.lost() from error
                if self._workers:
                    self._without_since = now
            if self._workers:
                return self._workers * _TASKS_A_WORKER
            if now - self._without_since > _TO_HAVE_WORKERS:
                raise AsdError(f"--scheduler {self._name}: has no workers; start some: dask worker {self.address}")
            time.sleep(_LOOK / 4)

    @property
    def address(self) -> str:
        """Of the scheduler."""
        return str(self.client.scheduler.address)

    def lost(self) -> AsdError:
        """What to say when the scheduler is gone."""
        return AsdError(f"--scheduler {self._name}: the connection is lost; see to the scheduler, then add --resume")

    def source(
        self,
        work: WorkFolder,
        found: FoundBlocks,
        scene: str,
        options: PredictOptions,
        *,
        clock: StageClock,
        progress: Callable[[int], None],
    ) -> Source:
        """What gives the windows of a scene in order, their scores computed by the workers."""
        device = str(resolve_devices(options.device)[0]) if options.device == "auto" else options.device
        model = options.model if options.model is None else options.model.resolve()
        errand = Errand(
            run=uuid.uuid4().hex,
            scene=str(Path(scene).absolute()) if os.path.lexists(scene) else scene,
            target=str(work.target.absolute()),
            job_file=str(work.job_file.absolute()),
            job=zlib.crc32(work.job_file.read_bytes()),
            threads=options.threads or self._threads,
            options=replace(options, scenes=(), device=device, model=model, command=""),
            masks=(_absolute(options.mask), _absolute(options.area)),
        )

        def give(take: Callable[[Window, Map], None]) -> None:
            with Behind(take) as behind, _Run(self, errand, work, found, clock).ended() as run:
                for window in work.windows():
                    behind.put(window, run.scores(window))
                    progress(window.height * window.width)

        return give


class _Run:
    """The parts of one map, some of them with the workers; what waits lies on the disk, not in memory."""

    def __init__(
        self, cluster: Cluster, errand: Errand, work: WorkFolder, found: FoundBlocks, clock: StageClock
    ) -> None:
        self._cluster, self._errand, self._work, self._found, self._clock = cluster, errand, work, found, clock
        self._todo = deque(work.windows())
        self._running: dict[Window, Any] = {}
        self._suspects: list[Window] = []  # with them workers have ended; they are tried once more, each alone
        self._settled: queue.SimpleQueue[Window] = queue.SimpleQueue()
        self._told: dict[Window, Done] = {}
        self._number = 0

    @contextmanager
    def ended(self) -> Iterator[_Run]:
        """Context that takes its parts from the workers at the end."""
        client, topic = self._cluster.client, self._errand.run
        client.subscribe_topic(topic, self._hear)
        try:
            yield self
        finally:
            with suppress(Exception):  # not to hide what went wrong before
                client.unsubscribe_topic(topic)
                if self._running:
                    client.cancel(list(self._running.values()), force=True)

    def _hear(self, event: tuple[float, list[Any]]) -> None:
        """A worker has made a part. To ask it for the result would take long if it has ended since."""
        self._told[Window(*event[1][:4])] = Done(*event[1][4:])

    def scores(self, window: Window) -> Map:
        """The scores of the next window in order; waits for them.

        Raises:
            AsdError: a part cannot be made.
        """
        while (values := self._work.parts.read(window)) is None:
            if window not in self._running and window not in self._suspects:
                self._todo.appendleft(window)  # the first, or one that was damaged
            self._fill()
            self._take_one()
        return values

    def _fill(self) -> None:
        """Give the workers as much as they can do."""
        if self._suspects:
            if not self._running:
                self._begin(self._suspects[0])
            return
        while self._todo and len(self._running) < self._cluster.most_tasks():
            window = self._todo.popleft()
            if window not in self._running and window not in self._work.parts:
                self._begin(window)

    def _begin(self, window: Window) -> None:
        self._number += 1
        future = self._cluster.client.submit(
            make_part,
            self._errand,
            (window.row, window.col, window.height, window.width),
            key=(f"asd-part-{self._errand.run}", self._number),
            priority=-self._number,
            pure=False,
        )
        self._running[window] = future
        future.add_done_callback(lambda _: self._settled.put(window))

    def _take_one(self) -> None:
        """Adopt one more part."""
        while True:
            self._cluster.most_tasks()  # there may be no workers any more
            with suppress(queue.Empty):
                window = self._settled.get(timeout=_LOOK)
                break
        done = self._result(window, self._running.pop(window))
        if done is None:
            return
        for stage, seconds in done.seconds.items():
            self._clock.add(stage, seconds)
        self._found.add(done.bad_blocks)
        with self._clock.busy("adopt"):
            until = time.monotonic() + _TO_SEE
            while not self._work.parts.adopt(window, done.name, done.checksum):
                if time.monotonic() > until:  # a network file system may take its time
                    raise OutputError(
                        f"{self._work.folder}: what a worker has written is not seen here; the folder of the target "
                        "must be on a file system that all machines share"
                    )
                time.sleep(0.2)
        if window in self._suspects:
            self._suspects.remove(window)

    def _result(self, window: Window, future: Any) -> Done | None:
        """What became of a part; None if workers have ended with it and it is tried again."""
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        told = self._told.pop(window, None)
        if told is not None and future.status == "finished":
            return told
        try:
            done: Done = future.result()
        except KilledWorker as error:
            if window not in self._suspects:
                self._suspects.append(window)
                return None
            place = f"cols {window.col}-{window.col_stop - 1}, rows {window.row}-{window.row_stop - 1}"
            raise AsdError(
                f"{self._errand.scene}: every worker that was given {place} has ended at it; look at what the workers "
                "say, give them more memory or take a smaller --window"
            ) from error
        except FutureCancelledError as error:
            raise self._cluster.lost() from error
        except (ImportError, AttributeError, RuntimeError) as error:
            if "asd_cli" in str(error) or "eserializ" in str(error):
                raise AsdError(
                    f"--scheduler: scheduler or workers do not know this version of asd ({_line(error)}); install the "
                    "same on all machines"
                ) from error
            raise
        return done


def _absolute(name: str | None) -> str | None:
    """The name of a mask, which may hold that of the scene."""
    return name if not name or name.startswith("/") else str(Path.cwd() / name)


def _line(error: BaseException) -> str:
    text = ""
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause) or text
        cause = cause.__cause__
    return " ".join(text.split()) or type(error).__name__


@contextmanager
def open_cluster(name: str) -> Iterator[Cluster]:
    """The cluster that `--scheduler` names: ``local:N`` starts N processes here, for as long as the context.

    Raises:
        InputError: the name is of another form, the extra is not installed, or the scheduler cannot be reached.
    """
    count = _local_count(name)
    if find_spec("distributed") is None:
        raise InputError(f"--scheduler {name}: needs Dask; install it: pip install 'asd-cli[distributed]'")
    import dask.config

    with dask.config.set(logging=_NO_LOGS):
        from distributed import Client

    with ExitStack() as stack:
        stack.enter_context(dask.config.set(_CONFIG))
        where = name if count is None else stack.enter_context(_local(count))
        try:
            client: Any = stack.enter_context(Client(where, timeout=_TO_CONNECT, set_as_default=False))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"--scheduler {name}: cannot be reached ({_line(error)}); check the address, "
                "and that the scheduler runs: dask scheduler"
            ) from error
        cluster = Cluster(client, name, threads=None if count is None else max(cpu_count() // count, 1))
        dashboard = client.dashboard_link if count is None or find_spec("bokeh") else "none (pip install bokeh)"
        _log.info("--scheduler %s: workers: %d, dashboard: %s", name, len(client.nthreads()), dashboard)
        yield cluster


def _local_count(name: str) -> int | None:
    """N of ``local:N``; None for the address of a scheduler."""
    if name.startswith(_LOCAL):
        number = name.removeprefix(_LOCAL)
        if number.isdecimal() and 1 <= int(number) <= _MOST_LOCAL:
            return int(number)
    elif re.match("(tcp|tls|wss?)://.", name):
        return None
    raise InputError(f"--scheduler {name}: is neither tcp://HOST:PORT of a Dask scheduler nor local:N with N processes")


@contextmanager
def _local(count: int) -> Iterator[Any]:
    """A cluster of this machine, reached from it alone, in processes that are replaced when they end."""
    import dask.config
    from distributed import LocalCluster

    with (
        tempfile.TemporaryDirectory(prefix="asd-", ignore_cleanup_errors=True) as folder,
        # the nanny would leave its variables in this process, too; workers set their threads themselves
        dask.config.set({"temporary-directory": folder, "distributed.nanny.pre-spawn-environ": {}}),
    ):
        with DeferredInterrupt() as interrupt, _interrupts_kept_from_children():
            cluster = LocalCluster(
                n_workers=count,
                threads_per_worker=_TASKS_A_WORKER,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                memory_limit=0,
                local_directory=folder,
                silence_logs=logging.CRITICAL,
            )
        try:
            if interrupt.requested:
                raise KeyboardInterrupt
            yield cluster
        finally:
            cluster.close()


@contextmanager
def _interrupts_kept_from_children() -> Iterator[None]:
    """Threads that begin meanwhile, and the processes that they start, never see Ctrl-C: this process ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # multiprocessing would start it later, and let Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
