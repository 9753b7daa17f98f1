"""`asd predict`: scenes in, score rasters and polygons out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from asd_cli.errors import InputError
from asd_cli.nn.devices import resolve_devices, return_freed_memory, torch_threads
from asd_cli.options import PredictOptions
from asd_cli.raster.findings import FindingsOfAll
from asd_cli.staging import check_not_read
from asd_cli.workflows.batch_report import Batch
from asd_cli.workflows.cluster import open_cluster
from asd_cli.workflows.jobs import Job, check_targets, find_jobs
from asd_cli.workflows.masks import check_masks
from asd_cli.workflows.models import Model, load_model
from asd_cli.workflows.predict_scene import PredictReport, Shared, advise, map_one, open_scene
from asd_cli.workflows.scores import ScoreScale, checked_threshold
from asd_cli.workflows.stages import StageClock

_log = logging.getLogger(__name__)
__all__ = ["PredictReport", "predict"]


@dataclass(frozen=True)
class Prepared:
    """What is known before any work: the model, and the pixels of each scene that can be mapped."""

    model: Model
    scale: ScoreScale
    pixels: dict[Job, int]
    findings: FindingsOfAll


def predict(
    options: PredictOptions,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    finished: Callable[[PredictReport], None] = lambda report: None,
) -> list[PredictReport]:
    """Map every scene. `progress` gets pixels done and in all, `finished` the report of each scene once it is written.

    Every input and target is checked before the first pixel is computed. Memory depends on the window, never on the
    scene. What `--on-error skip` and `--report` do is told in `batch_report`.

    Raises:
        AsdError: a scene, the model or a target cannot be used.
        BatchError: scenes failed and the others are done, with `--on-error skip`.
    """
    batch = Batch(find_jobs(options), options)
    reports: list[PredictReport] = []
    with batch.reported():
        prepared = prepare(options, batch)
        if prepared is not None:
            with closing(_map_all(prepared, options, batch, progress)) as mapped:
                for report in mapped:
                    reports.append(report)
                    finished(report)
    return reports


def prepare(options: PredictOptions, batch: Batch) -> Prepared | None:
    """Check targets, model and scenes; None if no scene is left to be mapped."""
    check_targets(
        batch.waiting(),
        options,
        attempt=batch.attempt,
        existing=batch.skipped if options.skip_existing else None,
    )
    if not batch.waiting():
        return None
    model = load_model(_required(options.model))
    scale = ScoreScale.chosen(options, model.calibration)
    if options.min_score is not None:
        checked_threshold("--min-score", options.min_score, options.score)
    _log.debug(
        "%s: method %s, SHA-256 %s, threshold %.6g for --score %s, expected false-alarm rate %.3g",
        model.path,
        model.detector.name,
        model.sha256,
        scale.threshold,
        scale.kind,
        scale.false_alarm_rate,
    )
    findings = FindingsOfAll(mask=options.on_bad_block == "mask")
    pixels: dict[Job, int] = {}
    return_freed_memory()
    if len(resolve_devices(options.device)) > 1 and options.scheduler is not None:
        raise InputError(f"--device {options.device}: with --scheduler each worker has one; start a worker for each")
    targets = [target for job in batch.waiting() for target in job.targets()]
    for job in batch.waiting():
        with (
            batch.attempt(job),
            open_scene(job.scene, model, options.bands, options.nodata, findings.of(job.scene)) as scene,
        ):
            check_not_read(targets, scene.files)
            check_masks(scene, options, targets)
            pixels[job] = scene.grid.width * scene.grid.height
            advise(scene, model)
    return Prepared(model, scale, pixels, findings) if batch.waiting() else None


def _map_all(
    prepared: Prepared, options: PredictOptions, batch: Batch, progress: Callable[[int, int], None]
) -> Generator[PredictReport]:
    """Map the scenes that wait; the files of a scene are there when its report comes."""
    share = 1 if options.shard is None else options.shard[1]
    pixels = {job: prepared.pixels[job] // share for job in batch.waiting()}
    total, before, done = sum(pixels.values()), 0, 0

    def advance(pixels: int) -> None:
        nonlocal done
        done += pixels
        progress(done, total)

    model, clock, devices = prepared.model, StageClock(), resolve_devices(options.device)
    with ExitStack() as stack:
        stack.enter_context(torch_threads(options.threads))
        mapper = stack.enter_context(model.mappers(devices, threads=options.threads, clock=clock))
        cluster = None if options.scheduler is None else stack.enter_context(open_cluster(options.scheduler))
        shared = Shared(model, mapper, prepared.scale, options, clock, advance, prepared.findings, cluster)
        for job in batch.waiting():
            done, report = before, None
            with batch.attempt(job):
                report = map_one(job, shared)
                batch.done(job, report.as_json())
            if report is not None:
                yield report
            before += pixels[job]


def _required(model: Path | None) -> Path:
    if model is None:
        raise InputError("no model given")
    return model
