"""One scene mapped: windows of scores into a raster and polygons."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from asd_cli import __version__
from asd_cli.errors import RasterError
from asd_cli.nn.devices import cpu_count
from asd_cli.options import PredictOptions
from asd_cli.raster.findings import Findings, FindingsOfAll
from asd_cli.raster.gdal import gdal_session
from asd_cli.raster.scene import Scene
from asd_cli.raster.windows import Window, round_up
from asd_cli.raster.writer import BLOCK
from asd_cli.workflows.cluster import Cluster
from asd_cli.workflows.fingerprint import fingerprint, unchanged
from asd_cli.workflows.found_blocks import FoundBlocks
from asd_cli.workflows.jobs import Job
from asd_cli.workflows.map_files import Made, Source, keep_parts, make_files
from asd_cli.workflows.map_job import MapJob, PolygonJob, SideJob
from asd_cli.workflows.mapping import InTurns, Map, map_scene
from asd_cli.workflows.masks import mask_tags, masked_readers
from asd_cli.workflows.memory import MIB, MemoryPlan
from asd_cli.workflows.models import Model
from asd_cli.workflows.scores import Level, ScoreScale
from asd_cli.workflows.stac import Origin
from asd_cli.workflows.stages import StageClock
from asd_cli.workflows.work_folder import WorkFolder, work_folder

_log = logging.getLogger(__name__)
_PIXEL_SIZE_RATIO = 1.5
_MOST_WORKERS, _PROCESSORS_A_WORKER = 4, 4
_LONGEST_COMMAND = 2000  # characters; a shell may have put in thousands of scenes


@dataclass(frozen=True)
class PredictReport:
    """What became of one scene, or of a shard of it (`pixels` and those below are its own then, `width` and `height`
    the scene's); `anomalous_share` is of its valid pixels, `threshold` in units of
    the score, `stages` seconds that each stage was at work (of several threads their sum, waits for a processor
    included), `bad_blocks` places of the first 1000 blocks that could not be read and were masked."""

    scene: str
    raster: Path
    polygons: Path | None
    width: int
    height: int
    pixels: int
    valid_pixels: int
    anomalous_pixels: int
    polygon_count: int | None
    score: str
    threshold: float
    seconds: float
    stages: Mapping[str, float]
    shard: tuple[int, int] | None = None
    bad_block_count: int = 0
    bad_blocks: Sequence[Mapping[str, Any]] = ()
    styles: tuple[Path, ...] = ()
    stac: Path | None = None
    quicklook: Path | None = None

    @property
    def anomalous_share(self) -> float:
        """Anomalous pixels per valid pixel."""
        return self.anomalous_pixels / max(self.valid_pixels, 1)

    def summary(self) -> str:
        """One line for people."""
        if self.shard is not None:
            return f"{self.scene}: shard {self.shard[0]}/{self.shard[1]} is done, {self.seconds:.1f} s"
        found = "" if self.polygon_count is None else f", {self.polygon_count} polygons"
        return (
            f"{self.scene}: {self.width} x {self.height} px, {self.anomalous_share:.3%} of {self.valid_pixels} "
            f"valid pixels anomalous{found}, {self.seconds:.1f} s"
        )

    def profile(self) -> str:
        """Where the time went, a line a stage."""
        lines = [
            f"  {stage:<16}{seconds:8.2f} s  {seconds / self.seconds:6.1%}" for stage, seconds in self.stages.items()
        ]
        return "\n".join([*lines, f"  {'in all':<16}{self.seconds:8.2f} s (stages overlap)"])

    def paths(self) -> list[Path]:
        """The files written that were asked for, styles not among them; the work folder of a shard."""
        if self.shard is not None:
            return [work_folder(self.raster)]
        return Job(self.scene, self.raster, self.polygons, stac=self.stac, quicklook=self.quicklook).results()

    def as_json(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return {**asdict(self), "anomalous_share": self.anomalous_share}


def open_scene(
    path: str, model: Model, bands: tuple[int, ...] | None, nodata: float | None, findings: Findings | None = None
) -> Scene:
    """A scene with the bands that the model needs.

    Without `bands` they are those of the training tiles if the scene has as many bands as these had, else all of the
    scene's if the count fits.

    Raises:
        RasterError: the scene cannot be read or its bands do not fit the model.
    """
    scene = Scene.open(path, bands=bands, nodata=nodata, findings=findings)
    wanted, found = model.detector.bands, scene.band_count
    if bands is None and (chosen := model.bands_of(scene)):
        scene.close()
        return Scene.open(path, bands=chosen, nodata=nodata, findings=findings)
    if found == wanted:
        return scene
    scene.close()
    alpha = scene.alpha_bands
    if bands is None and alpha and found + len(alpha) == wanted:
        raise RasterError(
            f"{path}: {found} bands beside band {alpha[0]}, which is taken as alpha (a mask), but the model was "
            f"trained on {wanted}; if it holds data, use it with --bands {','.join(map(str, range(1, wanted + 1)))}"
        )
    raise model.band_error(path, found)


def advise(scene: Scene, model: Model) -> None:
    """Warn of what makes the map of a scene hard to use: no georeference, pixels of another size than the model's."""
    if scene.grid.gcps is not None:
        _log.warning("%s: only has ground control points; polygons are in pixels (gdalwarp it first)", scene.path)
    elif scene.grid.transform.is_identity:
        _log.warning("%s: has no georeference; the map is written on plain pixel coordinates", scene.path)
    elif scene.grid.crs is None:
        _log.warning("%s: has no CRS; map and polygons keep its coordinates, and areas are unknown", scene.path)
    mine, theirs = scene.grid.pixel_size_m, model.pixel_size_m
    if mine is None or theirs is None:
        return
    ratio = max(mine / theirs, theirs / mine)
    if ratio > _PIXEL_SIZE_RATIO:
        _log.warning(
            "%s: pixels of %.3g m, but the model was trained at %.3g m; resample the scene first "
            "(gdalwarp -tr, %.3g times its pixel size) or train at its size",
            scene.path,
            mine,
            theirs,
            theirs / mine,
        )


@dataclass(frozen=True)
class Shared:
    """What all scenes of a call share."""

    model: Model
    mapper: InTurns
    scale: ScoreScale
    options: PredictOptions
    clock: StageClock
    advance: Callable[[int], None]
    findings: FindingsOfAll
    cluster: Cluster | None = None

    def open(self, path: str) -> Scene:
        """The scene with the bands that the model needs."""
        return open_scene(path, self.model, self.options.bands, self.options.nodata, self.findings.of(path))

    def memory(self, scene: Scene, window: int | None = None) -> MemoryPlan:
        """How large the windows may be if they are not given, and how many threads read."""
        budget, wished = self.options.max_memory, self.options.workers
        most = min(_MOST_WORKERS, cpu_count() // _PROCESSORS_A_WORKER)
        plan = MemoryPlan.of(
            budget * MIB,
            window=window or self.options.window,
            bands=scene.band_count,
            mapper=self.mapper,
            holes=scene.may_have_invalid or self.options.mask is not None,
            workers=[wished] if wished else range(max(most, 1), 0, -1),
            scene_width=scene.grid.width,
        )
        _log.debug(
            "%s: bands %s of %s, windows of %d px, halo %d px, %d reading and %d computing threads, GDAL cache %d MiB",
            scene.path,
            ",".join(map(str, scene.bands)),
            scene.dtype,
            plan.window,
            self.mapper.halo,
            plan.workers,
            self.mapper.callers,
            plan.cache // MIB,
        )
        if window is not None and plan.expected > budget * MIB:
            _log.warning(
                "%s: %d bands in windows of %d px need about %d MiB on their way, more than --max-memory %d",
                scene.path,
                scene.band_count,
                plan.window,
                plan.expected // MIB,
                budget,
            )
        return plan


def map_one(job: Job, shared: Shared) -> PredictReport:
    """Map one scene to its targets, all of them or none; of a shard only the parts, which wait beside the target."""
    start, options = time.monotonic(), shared.options
    shared.clock.reset()
    with ExitStack() as stack:
        scene = stack.enter_context(shared.open(job.scene))
        work = stack.enter_context(
            WorkFolder.begin(
                job.raster,
                map_job(job, scene, shared),
                shard=options.shard,
                resume=options.resume,
                overwrite=options.overwrite,
            )
        )
        memory = shared.memory(scene, work.job.side)
        stack.enter_context(gdal_session(memory.cache))
        findings = shared.findings.of(job.scene)
        found = work.found(findings)
        found.restore()
        source: Source = _Source(job, scene, work, found, memory, shared)
        if shared.cluster is not None:
            source = shared.cluster.source(work, found, job.scene, options, clock=shared.clock, progress=shared.advance)
        source = unchanged(source, work, scene, options)
        if options.shard is None:
            made = make_files(work, job, source, findings, overwrite=options.overwrite, clock=shared.clock)
        else:
            made = keep_parts(work, source, findings, shared.clock)
    return report(job, work.job, made, start=start, clock=shared.clock, shard=options.shard)


@dataclass(frozen=True)
class _Source:
    """Gives the windows of a run in order, as scores: those that are kept, and the others computed."""

    job: Job
    scene: Scene
    work: WorkFolder
    found: FoundBlocks
    memory: MemoryPlan
    shared: Shared

    def __call__(self, take: Callable[[Window, Map], None]) -> None:
        parts, shared = self.work.parts, self.shared

        def score(window: Window, values: Map) -> None:
            if window not in parts:
                self.found.keep()
                with shared.clock.busy("score"):
                    values = shared.scale.scores(values)
            take(window, values)

        map_scene(
            masked_readers(self.scene, shared.options, lambda: shared.open(self.job.scene), shared.mapper.halo),
            shared.mapper,
            self.work.windows(),
            score,
            workers=self.memory.workers,
            clock=shared.clock,
            progress=shared.advance,
            kept=parts.read,
        )


def report(
    job: Job, made_of: MapJob, made: Made, *, start: float, clock: StageClock, shard: tuple[int, int] | None = None
) -> PredictReport:
    """What became of a scene; `start` is a monotonic time."""
    windows = made_of.windows() if shard is None else made_of.shard(*shard)
    return PredictReport(
        scene=job.scene,
        raster=job.raster,
        polygons=job.polygons,
        width=made_of.grid.width,
        height=made_of.grid.height,
        pixels=sum(window.height * window.width for window in windows),
        valid_pixels=made.valid,
        anomalous_pixels=made.anomalous,
        polygon_count=made.polygons,
        score=made_of.level.kind,
        threshold=float(made_of.level.threshold),
        seconds=time.monotonic() - start,
        stages=clock.seconds(),
        shard=shard,
        bad_block_count=len(made.findings.bad_blocks()),
        bad_blocks=made.findings.as_json(),
        styles=job.styles,
        stac=job.stac,
        quicklook=job.quicklook,
    )


def map_job(job: Job, scene: Scene, shared: Shared) -> MapJob:
    """What is made of a scene."""
    options, polygons = shared.options, None
    names = {path: os.path.relpath(path, job.raster.parent) for path in job.targets()}
    if job.polygons is not None:
        polygons = PolygonJob(
            names[job.polygons], options.connectivity, options.min_area, options.simplify, options.min_score
        )
    return MapJob(
        scene=job.scene,
        grid=scene.grid,
        side=round_up(shared.memory(scene).window, BLOCK),
        level=Level(shared.scale.kind, shared.scale.threshold),
        tags=_tags(shared.model, shared.scale, job, options),
        polygons=polygons,
        beside=SideJob(
            styles=tuple(names[path] for path in job.styles),
            stac=names[job.stac] if job.stac else None,
            quicklook=names[job.quicklook] if job.quicklook else None,
            origin=Origin.of(job.scene, shared.model, job.raster.parent).to_json() if job.stac else None,
        ),
        fingerprint=fingerprint(scene, shared.model, options, polygons),
    )


def _tags(model: Model, scale: ScoreScale, job: Job, options: PredictOptions) -> dict[str, str]:
    command = options.command
    if len(command) > _LONGEST_COMMAND:
        command = command[:_LONGEST_COMMAND] + " ..."
    tags = {
        "TIFFTAG_SOFTWARE": f"asd {__version__}",
        "ASD_VERSION": __version__,
        "ASD_TORCH_VERSION": torch.__version__,
        "ASD_SCENE": Path(job.scene).name,
        "ASD_MODEL": model.path.name,
        "ASD_MODEL_SHA256": model.sha256,
        "ASD_METHOD": model.detector.name,
        "ASD_NORMAL": ",".join(model.header["normal"]),
        "ASD_SCORE": scale.kind,
        "ASD_THRESHOLD": repr(float(scale.threshold)),
        "ASD_FALSE_ALARM_RATE": f"{scale.false_alarm_rate:.6g}",
        "ASD_COMMAND": command,
        **mask_tags(options, job.scene),
        **({} if options.min_score is None else {"ASD_MIN_SCORE": f"{options.min_score:g}"}),
    }
    # names need not be UTF-8, tags must
    return {key: text.encode(errors="backslashreplace").decode() for key, text in tags.items()}
