"""`asd fit-gaussian`: a model's Gaussian and calibration, fitted anew or added to, without training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asd_cli.data.pieces import Survey, survey_tiles
from asd_cli.data.tiles import TileSet
from asd_cli.density.normal import NormalPixels
from asd_cli.errors import InputError
from asd_cli.methods.base import DescriptorDetector
from asd_cli.model_file import model_header
from asd_cli.nn.devices import resolve_device
from asd_cli.options import FitGaussianOptions
from asd_cli.staging import check_not_read, check_target
from asd_cli.workflows.blind import Blind, blind, held_out_text
from asd_cli.workflows.calibrating import HeldOutFigures, calibrate
from asd_cli.workflows.fitting import fit_normal, suspicious_tiles, tile_normals
from asd_cli.workflows.models import Model, load_model
from asd_cli.workflows.tilesets import open_tiles_for, tile_facts, warn_of_suspicious

_log = logging.getLogger(__name__)
_CROP = 1024


@dataclass(frozen=True)
class FitReport:
    """What the fit came to."""

    model: Path
    sha256: str
    tiles: int
    skipped: tuple[str, ...]
    held_out_tiles: int
    folds: int
    fitted_pixels: int
    all_pixels: int
    shrinkage: float
    condition: float
    suspicious: dict[str, float]
    held_out: HeldOutFigures

    def summary(self) -> str:
        """A few lines for people."""
        return "\n".join(
            [
                f"{self.tiles} tiles with {self.fitted_pixels} normal pixels fitted ({self.all_pixels} in the model), "
                f"{held_out_text(self.held_out_tiles, self.folds)}, {len(self.skipped)} skipped (no normal pixel)",
                f"condition of the covariance {self.condition:.3g}"
                + (f", Ledoit-Wolf shrinkage {self.shrinkage:.3g}" if self.shrinkage else ""),
                self.held_out.summary(),
            ]
        )


def fit_gaussian(
    options: FitGaussianOptions, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> FitReport:
    """Fit on the normal pixels of the tiles and write a new model file. `progress` gets pieces done and in all.

    With `update` the old moments are merged in, which equals fitting both sets of tiles at once; the calibration comes
    from new held-out pixels.

    Raises:
        AsdError: model, tiles, labels or the target cannot be used.
    """
    check_target(options.output, overwrite=options.overwrite)
    model, detector = _load(options)
    options = _with_normal_of(model, options)
    device = resolve_device(options.device)
    tiles = open_tiles_for(model, options.tiles)
    check_not_read([options.output], tiles.files)
    survey = survey_tiles(
        tiles, crop=_CROP, halo=detector.halo, holdout=options.holdout, seed=options.seed, in_turn=detector.in_turn
    )
    advance = _Counter(progress, len(survey.training) + len(survey.held_out))
    parts = tile_normals(detector, tiles, survey.training, device, advance)
    fitted = NormalPixels.of_all(detector.length, parts.values())
    old = model.normal if options.update else None
    normal = fitted if old is None else old.merge(fitted)
    gaussian = fit_normal(detector, normal)
    suspicious = suspicious_tiles(detector, parts, old)
    warn_of_suspicious(suspicious, tiles)
    rate = options.false_alarm_rate or model.calibration.false_alarm_rate
    held_out = _held_out(model, detector, survey, parts, old)
    advance(len(survey.held_out) - sum(len(pieces) for _, pieces in held_out))
    calibration, figures = calibrate(detector, tiles, held_out, device, rate=rate, seed=options.seed, advance=advance)
    header = _header(model, options, tiles, survey, figures)
    new = Model(header, detector.cpu(), calibration, normal, model.tiles, options.output)
    return FitReport(
        model=options.output,
        sha256=new.write(overwrite=options.overwrite),
        tiles=survey.training_tiles,
        skipped=survey.skipped,
        held_out_tiles=survey.held_out_tiles,
        folds=len(survey.folds),
        fitted_pixels=fitted.moments.count,
        all_pixels=normal.moments.count,
        shrinkage=gaussian.shrinkage,
        condition=gaussian.condition,
        suspicious={tiles.sources[i].path: ratio for i, ratio in suspicious.items()},
        held_out=figures,
    )


def _held_out(
    model: Model,
    detector: DescriptorDetector,
    survey: Survey,
    parts: Mapping[int, NormalPixels],
    old: NormalPixels | None,
) -> list[Blind]:
    """What judges the held-out pieces; warn where that, or the Gaussian, knows them."""
    known = [i for i in survey.identities.values() if model.tiles.new_to(i, detector.networks) is not None]
    if known and old is not None:
        _log.warning("--update: the model knows %d of the tiles already; give only new ones", len(known))
    held_out = {survey.identities[piece.tile] for piece in survey.held_out}
    if all(model.tiles.new_to(identity, detector.networks) == () for identity in held_out):
        _log.warning(
            "the networks are trained on all tiles that are held out here, so that the calibration expects too few "
            "false alarms; give other tiles, or --seed and --holdout as at the training"
        )
    return blind(detector, survey, parts, model.tiles, old) or [Blind(detector, survey.held_out)]


def _with_normal_of(model: Model, options: FitGaussianOptions) -> FitGaussianOptions:
    """Without `--normal` the model's normal classes are meant."""
    if options.tiles.normal:
        return options
    return replace(options, tiles=replace(options.tiles, normal=tuple(model.header["normal"])))


def _load(options: FitGaussianOptions) -> tuple[Model, DescriptorDetector]:
    if options.model is None:
        raise InputError("no model given")
    model = load_model(options.model)
    if not isinstance(model.detector, DescriptorDetector):
        raise InputError(
            f"{options.model}: the method {model.detector.name} has no Gaussian to fit; train it anew on these tiles, "
            "or take a model of asd, rx or padim"
        )
    if options.update and model.normal is None:
        raise InputError(f"{options.model}: has no moments to update; fit without --update")
    return model, model.detector


def _header(
    model: Model, options: FitGaussianOptions, tiles: TileSet, survey: Survey, figures: HeldOutFigures
) -> dict[str, Any]:
    """The old header with what the new tiles change."""
    facts = tile_facts(tiles, options.tiles)
    normal = facts["normal"]
    if options.update:
        normal = list(dict.fromkeys([*model.header["normal"], *normal]))
    refit = {
        "of_model": model.sha256,
        "update": options.update,
        "seed": options.seed,
        "holdout": options.holdout,
        "tiles": survey.training_tiles,
        "held_out_tiles": survey.held_out_tiles,
        "folds": len(survey.folds),
        "normal_pixels": survey.normal_pixels,
    }
    size = model.header.get("pixel_size_m") if options.update else facts["pixel_size_m"]
    changed = {"normal": normal, "pixel_size_m": size, "refit": refit, "held_out": figures.for_header()}
    if options.tiles.bands is not None:
        changed["bands"] = facts["bands"]
    return model_header(**{**model.header, **changed})


class _Counter:
    def __init__(self, progress: Callable[[int, int], None], total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, count: int) -> None:
        self._done += count
        self._progress(self._done, self._total)
