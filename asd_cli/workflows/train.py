"""`asd train`: tiles in, a model file out."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from asd_cli import __version__
from asd_cli.data.known import KnownTiles
from asd_cli.data.pieces import Survey, survey_tiles
from asd_cli.data.scaling import Scaling
from asd_cli.data.tiles import TileSet
from asd_cli.density.normal import NormalPixels
from asd_cli.errors import InputError, OutputError
from asd_cli.methods.base import DescriptorDetector, Detector, MemoryDetector
from asd_cli.methods.recipe import TrainingPlan
from asd_cli.methods.registry import method_class
from asd_cli.model_file import model_header
from asd_cli.nn.devices import keep_freed_memory, resolve_device
from asd_cli.options import TrainOptions
from asd_cli.staging import check_not_read, check_target
from asd_cli.workflows.batches import Draws, PieceBatches, virtual_anomaly
from asd_cli.workflows.blind import Blind, blind, held_out_text
from asd_cli.workflows.calibrating import HeldOutFigures, calibrate
from asd_cli.workflows.checkpoint import Checkpoint
from asd_cli.workflows.fitting import (
    descriptor_sample,
    fit_normal,
    robust_limit,
    suspicious_tiles,
    tile_normals,
)
from asd_cli.workflows.models import Model
from asd_cli.workflows.ranks import Ranks, joined
from asd_cli.workflows.recipes import schedule_of
from asd_cli.workflows.tilesets import open_tiles, tile_facts, warn_of_suspicious
from asd_cli.workflows.training import TrainingLoop

_log = logging.getLogger(__name__)
Progress = Callable[..., None]
_WITHOUT_EFFECT = ("output", "resume", "overwrite", "log", "device", "tiles", "false_alarm_rate")


@dataclass(frozen=True)
class TrainReport:
    """What training came to."""

    model: Path
    sha256: str
    normal: tuple[str, ...]
    tiles: int
    skipped: tuple[str, ...]
    held_out_tiles: int
    folds: int
    normal_pixels: int
    steps: int
    seconds: float
    held_out: HeldOutFigures

    def summary(self) -> str:
        """A few lines for people."""
        lines = [
            f"normal: {', '.join(self.normal)}; {self.tiles} tiles with {self.normal_pixels} normal pixels trained on, "
            f"{held_out_text(self.held_out_tiles, self.folds)}, {len(self.skipped)} skipped (no normal pixel)",
            self.held_out.summary(),
            f"{self.steps} steps in {self.seconds:.0f} s; model {self.model} (sha256 {self.sha256[:12]})",
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Job:
    """A training with all that it needs: the options, what the method made of them, tiles and their split."""

    options: TrainOptions
    plan: TrainingPlan
    tiles: TileSet
    survey: Survey
    crop: int
    detector: Detector
    scaling: Scaling
    device: torch.device
    ranks: Ranks

    @property
    def crops(self) -> int:
        """Crops a step."""
        return self.options.crops or self.ranks.count


def train(
    options: TrainOptions,
    *,
    tiles: TileSet | None = None,
    progress: Progress = lambda done, total, figures=None: None,
) -> TrainReport | None:
    """Train, fit the Gaussian, calibrate, and write the model file.

    `tiles` take the place of those that the options name, such as a part of them. `progress` gets steps done, in all,
    and the latest figures. Of several processes (torchrun) only the first finishes the model; the others return None.

    Raises:
        AsdError: tiles, labels, options or the target cannot be used.
        KeyboardInterrupt: interrupted; a checkpoint lies beside the target.
    """
    start = time.monotonic()
    if options.unlabelled and options.holdout != TrainOptions().holdout:
        raise InputError(f"--holdout {options.holdout:g}: nothing is held out with --unlabelled; leave it out")
    plan = method_class(options.method).plan(options)
    checkpoint_path = _check_targets(options)
    given = replace(options.tiles, layout="unlabelled") if options.unlabelled else options.tiles
    with joined(resolve_device(options.device)) as (ranks, device):
        job = _prepare(options, plan, open_tiles(given) if tiles is None else tiles, device, ranks)
        checkpoint = Checkpoint(checkpoint_path, _fingerprint(job))
        steps = _run(job, checkpoint, progress)
    if not ranks.first:
        return None
    model, figures = _finish(job, steps)
    sha256 = model.write(overwrite=options.overwrite)
    checkpoint.remove()
    survey = job.survey
    return TrainReport(
        model=options.output,
        sha256=sha256,
        normal=tuple(model.header["normal"]),
        tiles=survey.training_tiles,
        skipped=survey.skipped,
        held_out_tiles=survey.held_out_tiles,
        folds=len(survey.folds),
        normal_pixels=survey.normal_pixels,
        steps=steps,
        seconds=time.monotonic() - start,
        held_out=figures,
    )


def _check_targets(options: TrainOptions) -> Path:
    """Refuse targets that cannot be written; path of the checkpoint."""
    check_target(options.output, overwrite=options.overwrite)
    path = options.output.with_name(f"{options.output.name}.checkpoint")
    if options.log is not None:
        check_target(options.log, overwrite=options.overwrite or options.resume)
        if options.log.resolve() in (options.output.resolve(), path.resolve()):
            raise InputError(f"--log {options.log}: is the model file or its checkpoint; name another file")
    if path.exists() and not (options.resume or options.overwrite):
        raise OutputError(
            f"{path}: an unfinished training left this; go on with --resume or start over with --overwrite"
        )
    if options.resume and not path.exists():
        _log.info("%s: no checkpoint, training starts from the beginning", path)
    return path


def _prepare(options: TrainOptions, plan: TrainingPlan, tiles: TileSet, device: torch.device, ranks: Ranks) -> _Job:
    """Survey the tiles; a detector with first weights and its scaling."""
    keep_freed_memory()
    check_not_read([path for path in (options.output, options.log) if path is not None], tiles.files)
    detector = _untrained(options, plan, tiles.band_count)
    crop = options.crop or plan.recipe.crop
    holdout = 0.0 if options.unlabelled else options.holdout
    survey = survey_tiles(
        tiles, crop=crop, halo=detector.halo, holdout=holdout, seed=options.seed, in_turn=detector.in_turn
    )
    for path in survey.skipped:
        _log.info("%s: skipped, it has no normal pixel", path)
    scaling = Scaling.of(plan.recipe.scaling, survey.sample)
    detector.set_scaling(scaling)
    return _Job(options, plan, tiles, survey, crop, detector, scaling, device, ranks)


def _untrained(options: TrainOptions, plan: TrainingPlan, bands: int) -> Detector:
    """A detector with seeded first weights; the random state of the process stays as it was."""
    generator = torch.default_generator
    before = generator.get_state()
    try:
        # this generator alone: torch.manual_seed would seed those of all devices, too
        generator.manual_seed(options.seed)
        return method_class(options.method).create(bands, **plan.config)
    except ValueError as error:  # what only the number of bands could tell
        raise InputError(f"--method {options.method}: {error}") from error
    finally:
        generator.set_state(before)


def _fingerprint(job: _Job) -> dict[str, Any]:
    """What must be equal for a resumed training to give the same result, by the names that users know."""
    options = asdict(job.options)
    for name in _WITHOUT_EFFECT:
        options.pop(name)
    options["crops"] = job.crops
    options.update(asdict(job.options.tiles))
    options.pop("tiles")
    survey = job.survey
    pieces = [(p.tile, p.window.row, p.window.col, p.normal) for p in (*survey.training, *survey.held_out)]
    return {
        **{f"--{name.replace('_', '-')}": value for name, value in options.items()},
        "tiles": sorted(Path(source.path).name for source in job.tiles.sources),
        "pixels or labels of the tiles": [
            hashlib.sha256(repr(pieces).encode()).hexdigest(),
            hashlib.sha256(survey.sample.rows.tobytes()).hexdigest(),
        ],
        "version of asd": __version__,
    }


def _run(job: _Job, checkpoint: Checkpoint, progress: Progress) -> int:
    """Train the detector to the end of its schedule; the number of steps, 0 if it has nothing to train."""
    options, recipe = job.options, job.plan.recipe
    batches = PieceBatches(
        job.tiles,
        job.survey,
        job.scaling,
        virtual_anomaly(recipe.amplitudes),
        halo=job.detector.halo,
        draws=Draws(options.seed, job.detector.networks, job.crops),
        crop=job.crop if recipe.jitter else None,
        review_pieces=recipe.review_pieces,
    )
    pieces = sum(map(len, batches.pieces))
    schedule, warmup = schedule_of(recipe, steps=options.steps, pieces=-(-pieces // job.crops))
    schedule = replace(schedule, crops=job.crops)
    objective = job.detector.objective(options, warmup_epochs=warmup)
    if objective is None:
        return 0

    def report(step: int, figures: dict[str, float]) -> None:
        progress(step, schedule.steps, {s: figures[n] for n, s in objective.short_names.items() if n in figures})

    loop = TrainingLoop(
        objective,
        batches,
        schedule,
        device=job.device,
        checkpoint=checkpoint,
        log=options.log,
        ranks=job.ranks,
        report=report,
    )
    try:
        loop.run(resume=options.resume)
    except KeyboardInterrupt:
        if checkpoint.path.exists():
            _log.info("%s: holds the unfinished training; go on with --resume", checkpoint.path)
        raise
    return schedule.steps


def _finish(job: _Job, steps: int) -> tuple[Model, HeldOutFigures]:
    """Gaussian or memory, where the method has one, calibration and header of a trained detector."""
    options, tiles, survey = job.options, job.tiles, job.survey
    known = KnownTiles.of(survey) if steps else KnownTiles.none()
    normal = None
    if isinstance(job.detector, DescriptorDetector):
        normal, held_out = _fit(job.detector, job, known)
    else:
        held_out = blind(job.detector, survey, {}, known)
    if isinstance(job.detector, MemoryDetector):
        sample = descriptor_sample(job.detector, tiles, survey.training, job.device, options.seed, lambda count: None)
        job.detector.set_memory(sample.rows, options.seed)
    calibration, figures = calibrate(
        job.detector,
        tiles,
        held_out or [Blind(job.detector, survey.held_out)],
        job.device,
        rate=options.false_alarm_rate,
        seed=options.seed,
        advance=lambda count: None,
    )
    header = model_header(
        method=options.method,
        config=job.detector.config(),
        **tile_facts(tiles, options.tiles),
        training={
            "recipe": options.recipe,
            "steps": steps,
            "crop": job.crop,
            "crops": job.crops,
            "seed": options.seed,
            **job.plan.facts,
            "holdout": 0.0 if options.unlabelled else options.holdout,
            "unlabelled": options.unlabelled,
            "tiles": survey.training_tiles,
            "held_out_tiles": survey.held_out_tiles,
            "folds": len(survey.folds),
            "normal_pixels": survey.normal_pixels,
        },
        held_out=figures.for_header(),
    )
    return Model(header, job.detector.cpu(), calibration, normal, known, options.output), figures


def _fit(detector: DescriptorDetector, job: _Job, known: KnownTiles) -> tuple[NormalPixels, list[Blind]]:
    """Fit the Gaussian; the normal pixels that it comes from, and what judges the held-out pieces."""
    given = (detector, job.tiles, job.survey.training, job.device)
    parts = tile_normals(*given, lambda count: None)
    normal = NormalPixels.of_all(detector.length, parts.values())
    if job.options.unlabelled and normal.moments.count > 1:
        limit = robust_limit(*given, job.options.seed, normal)
        parts = tile_normals(*given, lambda count: None, within=limit)
        normal = NormalPixels.of_all(detector.length, parts.values())
    fit_normal(detector, normal)
    warn_of_suspicious(suspicious_tiles(detector, parts), job.tiles)
    return normal, blind(detector, job.survey, parts, known)
