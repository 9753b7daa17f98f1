"""One part of a map, computed by a worker of a cluster. Light to import: the scheduler does it, too."""

from __future__ import annotations

import platform
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from asd_cli.errors import AsdError, InputError
from asd_cli.options import PredictOptions

if TYPE_CHECKING:
    from asd_cli.raster.context import ChipReader
    from asd_cli.raster.scene import Chip, Scene
    from asd_cli.raster.windows import Window
    from asd_cli.workflows.map_job import MapJob
    from asd_cli.workflows.mapping import Map
    from asd_cli.workflows.stages import StageClock

Box = tuple[int, int, int, int]
"""Row, column, height and width of a window."""


@dataclass(frozen=True)
class Errand:
    """What all parts of a map share. Paths are absolute, those of `masks` (`--mask` and `--area`), too. `job_file` lies
    in the work folder, which is the client's if the checksum is `job`. `threads` compute; None: as many as Dask gives
    the worker."""

    run: str
    scene: str
    target: str
    job_file: str
    job: int
    threads: int | None
    options: PredictOptions
    masks: tuple[str | None, str | None]


class Done(NamedTuple):
    """A part that lies in the work folder, to be adopted (see `raster.parts.write_apart`), seconds by stage, and blocks
    near it that cannot be read and were masked, as fields of `raster.findings.BadBlock`."""

    name: str | None
    checksum: int | None
    seconds: dict[str, float]
    bad_blocks: list[dict[str, Any]]


def make_part(errand: Errand, box: Box) -> Done:
    """Compute a part and write it into the work folder; told as an event of the topic `Errand.run`, too, which does not
    end with the worker as results do.

    Raises:
        AsdError: this worker does not see the files, is not like the client's machine, or cannot read or write.
    """
    from distributed import get_worker

    try:
        done = _DESK.opened(errand).make(box)
        get_worker().log_event(errand.run, [*box, *done])
        return done
    except AsdError as error:
        told = type(error)(*error.args)
    raise told  # without its causes, some of which cannot be sent


class _Desk:
    """What this process has open: one map at a time, however many threads ask for parts of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: _Opened | None = None

    def opened(self, errand: Errand) -> _Opened:
        with self._lock:
            if self._opened is None or self._opened.errand != errand:
                self._opened = None  # the last model is gone before the next comes
                self._opened = _Opened(errand)
            return self._opened


_DESK = _Desk()


class _Opened:
    """Scene and model of an errand, ready to compute."""

    def __init__(self, errand: Errand) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self.errand = errand
        self._where, self._threads = _this_worker()
        self._free: list[ChipReader] = []
        self._reading = threading.BoundedSemaphore(2)  # one part is read while another is computed
        self._computing = ThreadPoolExecutor(1, "asd-part")  # some engines stay with the thread that made them
        self._computing.submit(self._prepare).result()

    def _prepare(self) -> None:
        import torch

        from asd_cli.nn.devices import resolve_devices, return_freed_memory
        from asd_cli.raster.findings import FindingsOfAll
        from asd_cli.workflows.masks import masked_readers
        from asd_cli.workflows.models import load_model
        from asd_cli.workflows.predict_scene import Shared
        from asd_cli.workflows.scores import ScoreScale
        from asd_cli.workflows.stages import StageClock

        errand = self.errand
        options = replace(errand.options, mask=errand.masks[0], area=errand.masks[1])
        return_freed_memory()
        threads = errand.threads or self._threads
        torch.set_num_threads(threads)
        with _told(self._where):
            job = _job_of(errand)
            model = load_model(Path(str(options.model)))
            clock = StageClock()
            mapper = model.mappers(resolve_devices(options.device), threads=threads, clock=clock)
            scale = ScoreScale.chosen(options, model.calibration)
            findings = FindingsOfAll(mask=options.on_bad_block == "mask")
            shared = self._shared = Shared(model, mapper, scale, options, clock, lambda pixels: None, findings)
            with shared.open(errand.scene) as scene:
                self._open = masked_readers(scene, options, lambda: shared.open(errand.scene), mapper.halo)
                self._check_alike(job, scene)
                self._cache = shared.memory(scene, job.side).cache

    def _check_alike(self, job: MapJob, scene: Scene) -> None:
        """Refuse to make parts that would not fit the others."""
        from asd_cli.workflows.fingerprint import fingerprint
        from asd_cli.workflows.map_job import first_difference

        here = fingerprint(scene, self._shared.model, self._shared.options, job.polygons)
        given = self.errand.options  # names as they were given to the client
        here |= {"--mask": str(given.mask), "--area": str(given.area)}
        if difference := first_difference(job.fingerprint, here):
            raise _UnlikeError(
                f"{self._where}: is not like the machine that asks for the map ({difference} there); "
                "workers need the same versions and files"
            )

    def make(self, box: Box) -> Done:
        """See `make_part`."""
        from asd_cli.raster.gdal import gdal_session
        from asd_cli.raster.parts import write_apart
        from asd_cli.raster.windows import Window
        from asd_cli.workflows.mapping import read_window
        from asd_cli.workflows.stages import StageClock

        shared, window, clock = self._shared, Window(*box), StageClock()
        with self._reading, gdal_session(self._cache):
            with clock.busy("read"), self._reader() as reader:
                chip = read_window(reader, window, shared.mapper)
            values = self._computing.submit(self._map, window, chip, clock).result()
            with clock.busy("score"):
                values = shared.scale.scores(values)
            with clock.busy("write"):
                folder = Path(self.errand.job_file).parent
                name, checksum = write_apart(folder, window, values, target=Path(self.errand.target))
        return Done(name, checksum, clock.seconds(), self._bad_near(window))

    def _bad_near(self, window: Window) -> list[dict[str, Any]]:
        """Those in what was read for a window, and perhaps some more."""
        from asd_cli.raster.context import read_margin
        from asd_cli.raster.findings import overlap

        around = window.expand(read_margin(self._shared.mapper.halo, holes=True) + self._shared.mapper.block)
        found = self._shared.findings.of(self.errand.scene).bad_blocks()
        near = [block for block in found if overlap(block.window, around)]
        return [{**block.as_json(), "reason": block.reason} for block in near]

    def _map(self, window: Window, chip: Chip, clock: StageClock) -> Map:
        from asd_cli.workflows.mapping import begin_map

        with clock.busy("compute"):
            return begin_map(window, chip, self._shared.mapper)()

    @contextmanager
    def _reader(self) -> Iterator[ChipReader]:
        """The scene, for one thread; closed with this process, or when the last reference goes."""
        try:
            reader = self._free.pop()
        except IndexError:
            reader = self._open().__enter__()
        try:
            yield reader
        finally:
            self._free.append(reader)


class _UnlikeError(AsdError):
    """The worker is not like the client's machine; it is told as it is."""


def _job_of(errand: Errand) -> MapJob:
    """The job of the work folder, if it is the one that the client sees."""
    import json

    from asd_cli.workflows.map_job import MapJob

    file = Path(errand.job_file)
    try:
        text = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    if zlib.crc32(text) != errand.job:
        raise InputError(f"{file}: is another file there")
    return MapJob.from_json(json.loads(text))


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Errors about what the client has just opened name the worker."""
    try:
        yield
    except _UnlikeError as error:
        raise AsdError(str(error)) from error
    except AsdError as error:
        raise type(error)(
            f"{where}: {error} (scene, model and the folder of the target must be there under the same paths "
            "on all machines)"
        ) from error


def _this_worker() -> tuple[str, int]:
    """Its name for people, and its threads; in a thread that runs a task."""
    from distributed import get_worker

    worker = get_worker()
    return f"worker {worker.address} on {platform.node()}", int(worker.state.nthreads)
