"""One scene mapped: windows of scores into a raster and polygons."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from asd_cli import __version__
from asd_cli.errors import RasterError
from asd_cli.nn.devices import cpu_count
from asd_cli.options import PredictOptions
from asd_cli.raster.gdal import gdal_session
from asd_cli.raster.grid import Grid
from asd_cli.raster.scene import Scene
from asd_cli.raster.windows import Window, round_up, write_windows
from asd_cli.raster.writer import BLOCK, MapWriter
from asd_cli.staging import StagedFiles
from asd_cli.vector.files import write_polygons
from asd_cli.vector.polygons import PolygonStream
from asd_cli.workflows.jobs import Job
from asd_cli.workflows.mapping import Behind, BlockMapper, Map, map_scene
from asd_cli.workflows.memory import MIB, MemoryPlan
from asd_cli.workflows.models import Model
from asd_cli.workflows.scores import ScoreScale
from asd_cli.workflows.side_files import write_side_files
from asd_cli.workflows.stac import Origin
from asd_cli.workflows.stages import StageClock

_log = logging.getLogger(__name__)
_PIXEL_SIZE_RATIO = 1.5
_MOST_WORKERS, _PROCESSORS_A_WORKER = 4, 4
_LONGEST_COMMAND = 2000  # characters; a shell may have put in thousands of scenes


@dataclass(frozen=True)
class PredictReport:
    """What became of one scene; `anomalous_share` is of its valid pixels, `threshold` in units of the score, `stages`
    seconds that each stage was at work (of several threads their sum, waits for a processor included)."""

    scene: str
    raster: Path
    polygons: Path | None
    width: int
    height: int
    valid_pixels: int
    anomalous_pixels: int
    polygon_count: int | None
    score: str
    threshold: float
    seconds: float
    stages: Mapping[str, float]
    styles: tuple[Path, ...] = ()
    stac: Path | None = None
    quicklook: Path | None = None

    @property
    def anomalous_share(self) -> float:
        """Anomalous pixels per valid pixel."""
        return self.anomalous_pixels / max(self.valid_pixels, 1)

    def summary(self) -> str:
        """One line for people."""
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
        """The files written that were asked for; styles are not among them."""
        return Job(self.scene, self.raster, self.polygons, stac=self.stac, quicklook=self.quicklook).results()

    def as_json(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return {**asdict(self), "anomalous_share": self.anomalous_share}


def open_scene(path: str, model: Model, bands: tuple[int, ...] | None, nodata: float | None) -> Scene:
    """A scene with the bands that the model needs.

    Without `bands` they are those of the training tiles if the scene has as many bands as these had, else all of the
    scene's if the count fits.

    Raises:
        RasterError: the scene cannot be read or its bands do not fit the model.
    """
    scene = Scene.open(path, bands=bands, nodata=nodata)
    wanted, found = model.detector.bands, scene.band_count
    if bands is None and (chosen := model.bands_of(scene)):
        scene.close()
        return Scene.open(path, bands=chosen, nodata=nodata)
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
    mapper: BlockMapper
    scale: ScoreScale
    options: PredictOptions
    clock: StageClock
    advance: Callable[[int], None]

    def open(self, path: str) -> Scene:
        """The scene with the bands that the model needs."""
        return open_scene(path, self.model, self.options.bands, self.options.nodata)

    def memory(self, scene: Scene) -> MemoryPlan:
        """How large the windows may be, and how many threads read."""
        budget, wished = self.options.max_memory, self.options.workers
        most = min(_MOST_WORKERS, cpu_count() // _PROCESSORS_A_WORKER)
        plan = MemoryPlan.of(
            budget * MIB,
            window=self.options.window,
            bands=scene.band_count,
            halo=self.mapper.halo,
            holes=scene.may_have_invalid,
            workers=[wished] if wished else range(max(most, 1), 0, -1),
            threads=self.mapper.callers,
            scene_width=scene.grid.width,
        )
        if plan.expected > budget * MIB:
            _log.warning(
                "%s: %d bands in windows of %d px need about %d MiB on their way, more than --max-memory %d",
                scene.path,
                scene.band_count,
                plan.window,
                plan.expected // MIB,
                budget,
            )
        return plan


class _Sink:
    """Takes windows of distances: writes scores, hands anomalies on, counts."""

    def __init__(self, shared: Shared, writer: MapWriter, anomalies: Callable[..., None]) -> None:
        self._scale, self._clock = shared.scale, shared.clock
        self._writer, self._anomalies = writer, anomalies
        self.valid = self.anomalous = 0

    def __call__(self, window: Window, distances: Map) -> None:
        with self._clock.busy("score"):
            scores = self._scale.scores(distances)
            anomalous = self._scale.anomalous(scores[0])
            self.valid += int(np.count_nonzero(~np.isnan(distances[0])))
            self.anomalous += int(np.count_nonzero(anomalous))
        with self._clock.busy("write"):
            self._writer.write(window, scores)
        self._anomalies(window, anomalous, scores[0])


def map_one(job: Job, shared: Shared) -> PredictReport:
    """Map one scene to its targets, all of them or none."""
    start, scale, options = time.monotonic(), shared.scale, shared.options
    shared.clock.reset()
    with ExitStack() as stack:
        staged = stack.enter_context(StagedFiles(overwrite=options.overwrite))
        scene = stack.enter_context(shared.open(job.scene))
        memory = shared.memory(scene)
        stack.enter_context(gdal_session(memory.cache))
        tags = _tags(shared.model, scale, job, options)
        raster = staged.stage(job.raster)
        writer = stack.enter_context(MapWriter(raster, scene.grid, [scale.band], tags, target=job.raster))
        stream = None if job.polygons is None else _polygon_stream(scene.grid, shared, job.polygons.parent)
        if stream is not None:
            stack.callback(stream.close)
        sink = _map_into(writer, stream, job, scene.grid, memory, shared)
        with shared.clock.busy("finish raster"):
            writer.finish()
        count = None
        if stream is not None and job.polygons is not None:
            with shared.clock.busy("finish polygons"):
                count = write_polygons(stream.batches(), staged.stage(job.polygons), target=job.polygons)
        with shared.clock.busy("side files"):
            origin = Origin.of(job.scene, shared.model) if job.stac else None
            write_side_files(job, raster, staged, origin)
        staged.commit()
    return PredictReport(
        scene=job.scene,
        raster=job.raster,
        polygons=job.polygons,
        width=scene.grid.width,
        height=scene.grid.height,
        valid_pixels=sink.valid,
        anomalous_pixels=sink.anomalous,
        polygon_count=count,
        score=options.score,
        threshold=float(scale.threshold),
        seconds=time.monotonic() - start,
        stages=shared.clock.seconds(),
        styles=job.styles,
        stac=job.stac,
        quicklook=job.quicklook,
    )


def _polygon_stream(grid: Grid, shared: Shared, folder: Path) -> PolygonStream:
    options = shared.options
    return PolygonStream(
        grid.drawn(),
        connectivity=options.connectivity,
        min_area=options.min_area,
        simplify=options.simplify,
        lower_is_anomalous=shared.scale.lower_is_anomalous,
        folder=folder,
    )


def _map_into(
    writer: MapWriter, stream: PolygonStream | None, job: Job, grid: Grid, memory: MemoryPlan, shared: Shared
) -> _Sink:
    """Run the loop over the scene; polygons are built in a thread of their own."""

    def draw(window: Window, anomalous: NDArray[np.bool_], scores: NDArray[np.float32]) -> None:
        if stream is not None:
            with shared.clock.busy("polygons"):
                stream.add(window, anomalous, scores)

    with Behind(draw) as drawing:
        sink = _Sink(shared, writer, drawing.put)
        map_scene(
            lambda: shared.open(job.scene),
            shared.mapper,
            write_windows(grid.height, grid.width, round_up(memory.window, BLOCK)),
            sink,
            workers=memory.workers,
            clock=shared.clock,
            progress=shared.advance,
        )
    return sink


def _tags(model: Model, scale: ScoreScale, job: Job, options: PredictOptions) -> dict[str, str]:
    command = options.command
    if len(command) > _LONGEST_COMMAND:
        command = command[:_LONGEST_COMMAND] + " ..."
    return {
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
    }
