"""`asd predict`: scenes in, score rasters and polygons out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from asd_cli.errors import InputError
from asd_cli.nn.devices import resolve_device, return_freed_memory, torch_threads
from asd_cli.options import PredictOptions
from asd_cli.staging import check_not_read
from asd_cli.workflows.jobs import plan
from asd_cli.workflows.masks import check_masks
from asd_cli.workflows.models import load_model
from asd_cli.workflows.predict_scene import PredictReport, Shared, advise, map_one, open_scene
from asd_cli.workflows.scores import ScoreScale, checked_threshold
from asd_cli.workflows.stages import StageClock

_log = logging.getLogger(__name__)
__all__ = ["PredictReport", "predict"]


def predict(
    options: PredictOptions,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    finished: Callable[[PredictReport], None] = lambda report: None,
) -> list[PredictReport]:
    """Map every scene. `progress` gets pixels done and in all, `finished` the report of each scene once it is written.

    Every input and target is checked before the first pixel is computed. Memory depends on the window, never on the
    scene.

    Raises:
        AsdError: a scene, the model or a target cannot be used.
    """
    jobs = plan(options)
    model = load_model(_required(options.model))
    rate = options.false_alarm_rate or model.calibration.false_alarm_rate
    scale = ScoreScale.build(options.score, model.calibration, rate=rate, threshold=options.threshold)
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
    clock = StageClock()
    return_freed_memory()
    device = resolve_device(options.device)
    total, targets = 0, [target for job in jobs for target in job.targets()]
    for job in jobs:
        with open_scene(job.scene, model, options.bands, options.nodata) as scene:
            check_not_read(targets, scene.files)
            check_masks(scene, options, targets)
            total += scene.grid.width * scene.grid.height
            advise(scene, model)
    if options.shard is not None:
        total //= options.shard[1]
    reports: list[PredictReport] = []
    done = 0

    def advance(pixels: int) -> None:
        nonlocal done
        done += pixels
        progress(done, total)

    with torch_threads(options.threads), model.mapper(device, threads=options.threads, clock=clock) as mapper:
        shared = Shared(model, mapper, scale, options, clock, advance)
        for job in jobs:
            reports.append(map_one(job, shared))
            finished(reports[-1])
    return reports


def _required(model: Path | None) -> Path:
    if model is None:
        raise InputError("no model given")
    return model
