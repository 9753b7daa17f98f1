"""`asd merge`: finished parts in, score raster and polygons out; neither scene nor model is needed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from asd_cli.errors import InputError
from asd_cli.options import MergeOptions
from asd_cli.raster.findings import Findings
from asd_cli.raster.gdal import gdal_session
from asd_cli.raster.windows import Window
from asd_cli.workflows.jobs import Job
from asd_cli.workflows.map_files import make_files
from asd_cli.workflows.map_job import MapJob
from asd_cli.workflows.mapping import Map
from asd_cli.workflows.predict_scene import PredictReport, report
from asd_cli.workflows.stages import StageClock
from asd_cli.workflows.work_folder import WorkFolder, target_of


def merge(
    options: MergeOptions,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    finished: Callable[[PredictReport], None] = lambda report: None,
) -> list[PredictReport]:
    """Make the files of every map from its parts. `progress` gets pixels done and in all of a map.

    Raises:
        AsdError: parts are missing or damaged, or a target cannot be written.
    """
    reports: list[PredictReport] = []
    for raster in dict.fromkeys(target_of(path) for path in options.maps):
        reports.append(_merge_one(raster, progress, overwrite=options.overwrite))
        finished(reports[-1])
    return reports


def _merge_one(raster: Path, progress: Callable[[int, int], None], *, overwrite: bool) -> PredictReport:
    start, clock = time.monotonic(), StageClock()
    with WorkFolder.reopen(raster) as work, gdal_session():
        job, targets = work.job, _targets(work.job, raster)
        if missing := work.missing():
            raise InputError(f"{raster}: {missing} are missing; make them with asd predict --resume, then merge again")

        def replay(take: Callable[[Window, Map], None]) -> None:
            done = 0
            for window in work.windows():
                with clock.busy("read"):
                    scores = work.parts.read(window)
                if scores is None:
                    raise InputError(
                        f"{raster}: {work.missing()} are damaged; make them again with asd predict --resume"
                    )
                take(window, scores)
                done += window.height * window.width
                progress(done, job.grid.width * job.grid.height)

        findings = Findings(job.scene, mask=True)
        work.found(findings).restore()
        made = make_files(work, targets, replay, findings, overwrite=overwrite, clock=clock)
    return report(targets, job, made, start=start, clock=clock)


def _targets(job: MapJob, raster: Path) -> Job:
    """The files that are made, where the raster is this."""

    def placed(file: str | None) -> Path | None:
        return None if file is None else Path(os.path.normpath(raster.parent / file))

    return Job(
        job.scene,
        raster,
        placed(None if job.polygons is None else job.polygons.file),
        styles=tuple(path for file in job.beside.styles if (path := placed(file))),
        stac=placed(job.beside.stac),
        quicklook=placed(job.beside.quicklook),
    )
