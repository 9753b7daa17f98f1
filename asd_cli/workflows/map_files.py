"""From the parts of a map to its files: raster and polygons."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asd_cli.raster.findings import Findings
from asd_cli.raster.parts import Parts
from asd_cli.raster.windows import Window
from asd_cli.raster.writer import MapWriter
from asd_cli.staging import StagedFiles, check_target
from asd_cli.vector.files import write_polygons
from asd_cli.vector.polygons import PolygonStream
from asd_cli.workflows.jobs import Job
from asd_cli.workflows.map_job import MapJob
from asd_cli.workflows.mapping import Behind, Map
from asd_cli.workflows.scores import Level
from asd_cli.workflows.side_files import write_side_files
from asd_cli.workflows.stac import Origin
from asd_cli.workflows.stages import StageClock
from asd_cli.workflows.work_folder import WorkFolder

Source = Callable[[Callable[[Window, Map], None]], None]
"""Calls what it is given with every window in order and its scores (1, h, w)."""


@dataclass(frozen=True)
class Made:
    """What was counted: pixels, and polygons where they were drawn; and what came to light about the scene."""

    valid: int
    anomalous: int
    findings: Findings
    polygons: int | None = None


class _Counts:
    """Valid and anomalous pixels of the windows that come along."""

    def __init__(self, level: Level, clock: StageClock) -> None:
        self._level, self._clock = level, clock
        self.valid = self.anomalous = 0

    def add(self, scores: Map) -> NDArray[np.bool_]:
        """Count a window; where it is anomalous."""
        with self._clock.busy("score"):
            anomalous = self._level.anomalous(scores[0])
            self.valid += int(np.count_nonzero(~np.isnan(scores[0])))
            self.anomalous += int(np.count_nonzero(anomalous))
        return anomalous


def make_files(
    work: WorkFolder, targets: Job, source: Source, findings: Findings, *, overwrite: bool, clock: StageClock
) -> Made:
    """Write raster, polygons and what lies beside them from the windows that `source` gives, keeping those that are not
    parts yet, and remove the work folder; all files or none.

    Raises:
        OutputError: a file cannot be written. RasterError: bad blocks have left no valid pixel.
    """
    job, counts = work.job, _Counts(work.job.level, clock)
    for target in targets.targets():
        check_target(target, overwrite=overwrite)
    with ExitStack() as stack:
        staged = stack.enter_context(StagedFiles(overwrite=overwrite, notes=work.notes))
        path = staged.stage(targets.raster)
        writer = stack.enter_context(
            MapWriter(path, job.grid, [job.level.band], job.tags, target=targets.raster, parts=work.parts)
        )
        stream = _polygon_stream(job, targets)
        if stream is not None:
            stack.callback(stream.close)
        _draw(source, counts, writer, stream, clock)
        findings.conclude(counts.valid)
        writer.add_tags(findings.tags())
        with clock.busy("finish raster"):
            writer.finish()
        count = None
        if stream is not None and targets.polygons is not None:
            with clock.busy("finish polygons"):
                count = write_polygons(stream.batches(), staged.stage(targets.polygons), target=targets.polygons)
        with clock.busy("side files"):
            origin = None if job.beside.origin is None else Origin.from_json(job.beside.origin)
            write_side_files(targets, path, staged, origin)
        staged.commit()
    work.finish()
    return Made(counts.valid, counts.anomalous, findings, count)


def keep_parts(work: WorkFolder, source: Source, findings: Findings, clock: StageClock) -> Made:
    """Only keep the windows that `source` gives.

    Raises:
        OutputError: a part cannot be written.
    """
    parts: Parts = work.parts
    counts = _Counts(work.job.level, clock)

    def keep(window: Window, scores: Map) -> None:
        counts.add(scores)
        if window not in parts:
            with clock.busy("write"):
                parts.add(window, scores)

    source(keep)
    return Made(counts.valid, counts.anomalous, findings)


def _draw(source: Source, counts: _Counts, writer: MapWriter, stream: PolygonStream | None, clock: StageClock) -> None:
    """Write, count and draw what comes; polygons are built in a thread of their own."""

    def draw(window: Window, anomalous: NDArray[np.bool_], scores: NDArray[np.float32]) -> None:
        if stream is not None:
            with clock.busy("polygons"):
                stream.add(window, anomalous, scores)

    with Behind(draw) as drawing:

        def take(window: Window, scores: Map) -> None:
            anomalous = counts.add(scores)
            with clock.busy("write"):
                writer.write(window, scores)
            drawing.put(window, anomalous, scores[0])

        source(take)


def _polygon_stream(job: MapJob, targets: Job) -> PolygonStream | None:
    if job.polygons is None or targets.polygons is None:
        return None
    return PolygonStream(
        job.grid.drawn(),
        connectivity=job.polygons.connectivity,
        min_area=job.polygons.min_area,
        simplify=job.polygons.simplify,
        min_score=job.polygons.min_score,
        lower_is_anomalous=job.level.lower_is_anomalous,
        folder=targets.polygons.parent,
    )
