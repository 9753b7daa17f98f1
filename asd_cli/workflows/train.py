"""`asd train`: tiles in, a model file out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from asd_cli.data.augment import VirtualAnomalies
from asd_cli.data.pieces import Survey, survey_tiles
from asd_cli.data.scaling import Scaling
from asd_cli.data.tiles import TileSet
from asd_cli.errors import InputError, OutputError, TrainingError
from asd_cli.methods.asd.method import AsdMethod
from asd_cli.methods.asd.objective import AsdLosses, AsdObjective
from asd_cli.model_file import model_header
from asd_cli.nn.devices import resolve_device
from asd_cli.options import LOSSES, TrainOptions
from asd_cli.staging import check_target
from asd_cli.workflows.batches import PieceBatches
from asd_cli.workflows.checkpoint import Checkpoint
from asd_cli.workflows.fitting import (
    HeldOutFigures,
    calibrate,
    fit_normal,
    merged,
    suspicious_tiles,
    tile_moments,
)
from asd_cli.workflows.models import Model
from asd_cli.workflows.recipes import RECIPES, schedule_of
from asd_cli.workflows.tilesets import normal_names, open_tiles, tile_facts, warn_of_suspicious
from asd_cli.workflows.training import Schedule, TrainingLoop

_log = logging.getLogger(__name__)
Progress = Callable[..., None]


@dataclass(frozen=True)
class TrainReport:
    """What training came to."""

    model: Path
    sha256: str
    normal: tuple[str, ...]
    tiles: int
    skipped: tuple[str, ...]
    held_out_tiles: int
    normal_pixels: int
    steps: int
    seconds: float
    held_out: HeldOutFigures

    def summary(self) -> str:
        """A few lines for people."""
        lines = [
            f"normal: {', '.join(self.normal)}; {self.tiles} tiles with {self.normal_pixels} normal pixels trained on, "
            f"{self.held_out_tiles} tile(s) held out, {len(self.skipped)} skipped (no normal pixel)",
            self.held_out.summary(),
            f"{self.steps} steps in {self.seconds:.0f} s; model {self.model} (sha256 {self.sha256[:12]})",
        ]
        return "\n".join(lines)


def train(options: TrainOptions, *, progress: Progress = lambda done, total, figures=None: None) -> TrainReport:
    """Train, fit the Gaussian, calibrate, and write the model file. `progress` gets steps done, in all, and the
    latest figures.

    Raises:
        AsdError: tiles, labels, options or the target cannot be used.
        KeyboardInterrupt: interrupted; a checkpoint lies beside the target.
    """
    start = time.monotonic()
    losses = _losses(options)
    checkpoint_path = _check_targets(options)
    device = resolve_device(options.device)
    tiles = open_tiles(options.tiles)
    recipe = RECIPES[options.recipe]
    method = _new_method(options, tiles.band_count)
    crop = options.crop or recipe.crop
    survey = survey_tiles(tiles, crop=crop, halo=method.halo, holdout=options.holdout, seed=options.seed)
    for path in survey.skipped:
        _log.info("%s: skipped, it has no normal pixel", path)
    scaling = Scaling.by_maximum(survey.sample) if options.recipe == "paper" else Scaling.robust(survey.sample)
    method.set_scaling(scaling)
    batches = PieceBatches(
        tiles,
        survey,
        scaling,
        VirtualAnomalies(recipe.amplitudes),
        halo=method.halo,
        seed=options.seed,
        crop=crop if recipe.jitter else None,
        review_pieces=recipe.review_pieces,
    )
    schedule, warmup = schedule_of(recipe, steps=options.steps, pieces=len(batches.pieces))
    checkpoint = Checkpoint(checkpoint_path, _fingerprint(options, tiles, survey))
    loop = TrainingLoop(
        AsdObjective(method, AsdLosses(**losses, form=options.loss_form, warmup_epochs=warmup)),
        batches,
        schedule,
        device=device,
        checkpoint=checkpoint,
        log=options.log,
        report=lambda step, figures: progress(step, schedule.steps, _shown(figures)),
    )
    loop.run(resume=options.resume)
    model, figures = _finish(options, method, tiles, survey, schedule, device)
    sha256 = model.write(overwrite=options.overwrite)
    checkpoint.remove()
    return TrainReport(
        model=options.output,
        sha256=sha256,
        normal=tuple(normal_names(tiles, options.tiles)),
        tiles=survey.training_tiles,
        skipped=survey.skipped,
        held_out_tiles=survey.held_out_tiles,
        normal_pixels=survey.sample.count,
        steps=schedule.steps,
        seconds=time.monotonic() - start,
        held_out=figures,
    )


def _losses(options: TrainOptions) -> dict[str, bool]:
    if set(options.without) >= set(LOSSES):
        raise InputError("--without: all three losses are switched off; keep at least one")
    return {name.replace("-", "_"): name not in options.without for name in LOSSES}


def _check_targets(options: TrainOptions) -> Path:
    """Refuse targets that cannot be written; path of the checkpoint."""
    check_target(options.output, overwrite=options.overwrite)
    if options.log is not None:
        check_target(options.log, overwrite=options.overwrite or options.resume)
    path = options.output.with_name(f"{options.output.name}.checkpoint")
    if path.exists() and not options.resume:
        if not options.overwrite:
            raise OutputError(
                f"{path}: an unfinished training left this; go on with --resume or start over with --overwrite"
            )
        path.unlink()
    if options.resume and not path.exists():
        _log.info("%s: no checkpoint, training starts from the beginning", path)
    return path


def _new_method(options: TrainOptions, bands: int) -> AsdMethod:
    """A method with seeded first weights; the global random state stays as it was."""
    if options.method != AsdMethod.name:
        raise InputError(f"--method {options.method}: cannot be trained by this version")
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(options.seed)
        try:
            return AsdMethod.create(bands, length=options.length, scales=options.scales, patch_size=options.patch_size)
        except ValueError as error:
            raise InputError(f"--scales, --length or --patch-size: {error}") from error


def _fingerprint(options: TrainOptions, tiles: TileSet, survey: Survey) -> dict[str, Any]:
    """What must be equal for a resumed training to give the same result."""
    same = asdict(options)
    for name in ("output", "resume", "overwrite", "log", "device", "tiles", "false_alarm_rate"):
        same.pop(name)
    given = asdict(options.tiles)
    given["tiles"] = sorted(Path(source.path).name for source in tiles.sources)
    pieces = [(p.tile, p.window.row, p.window.col, p.normal) for p in (*survey.training, *survey.held_out)]
    return {**same, **given, "pixels": pieces}


def _shown(figures: dict[str, float]) -> dict[str, float]:
    names = {
        "loss": "loss",
        "compact": "L1",
        "diverse": "L2",
        "feature_rich": "L3",
        "radius": "R",
        "held_out": "held-out d/R",
    }
    return {short: figures[name] for name, short in names.items() if name in figures}


def _finish(
    options: TrainOptions,
    method: AsdMethod,
    tiles: TileSet,
    survey: Survey,
    schedule: Schedule,
    device: torch.device,
) -> tuple[Model, HeldOutFigures]:
    """Gaussian, calibration and header of a trained method."""
    parts = tile_moments(method, tiles, survey.training, device, lambda count: None)
    moments = merged(list(parts.values()), method.length)
    if not torch.isfinite(torch.from_numpy(moments.mean)).all():
        raise TrainingError("training gave descriptors that are not finite; try fewer --steps or another --seed")
    fit_normal(method, moments)
    warn_of_suspicious(suspicious_tiles(parts), tiles)
    calibration, figures = calibrate(
        method,
        tiles,
        survey.held_out,
        device,
        rate=options.false_alarm_rate,
        seed=options.seed,
        advance=lambda count: None,
    )
    recipe = RECIPES[options.recipe]
    header = model_header(
        method=method.name,
        config=method.config(),
        **tile_facts(tiles, options.tiles),
        training={
            "recipe": options.recipe,
            "steps": schedule.steps,
            "crop": options.crop or recipe.crop,
            "seed": options.seed,
            "losses": [name for name in LOSSES if name not in options.without],
            "loss_form": options.loss_form,
            "virtual_anomalies": recipe.amplitudes.as_json(),
            "holdout": options.holdout,
            "tiles": survey.training_tiles,
            "held_out_tiles": survey.held_out_tiles,
            "normal_pixels": survey.sample.count,
        },
        held_out=figures.as_json(),
    )
    return Model(header, method.cpu(), calibration, moments, options.output), figures
