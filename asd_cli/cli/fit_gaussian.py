"""``asd fit-gaussian``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from asd_cli.cli.shared import (
    FILE,
    NAME,
    advance,
    calibration_options,
    device_option,
    echo_json,
    find_model,
    json_option,
    model_option,
    overwrite_option,
    progress_bar,
    say,
    seed_option,
    split_tile_options,
    tile_options,
)
from asd_cli.options import FitGaussianOptions


@click.command(
    "fit-gaussian",
    short_help="Refit a model's normal Gaussian and calibration on new tiles.",
    epilog="""\b
Examples:
  asd fit-gaussian -m forest.safetensors autumn/ --normal forest -o autumn.safetensors
  asd fit-gaussian -m forest.safetensors autumn/ --normal forest --update -o both.safetensors
""",
)
@click.argument("tiles", type=NAME, nargs=-1, required=True)
@model_option
@tile_options
@click.option("-o", "--output", type=FILE, required=True, help="Model file to write.")
@click.option("--update", is_flag=True, help="Add the tiles to what the model has seen, instead of starting anew.")
@calibration_options(FitGaussianOptions, holdout="Share of the tiles that is held out, to calibrate; see asd train.")
@seed_option(FitGaussianOptions)
@device_option(FitGaussianOptions)
@overwrite_option
@json_option
def fit_gaussian(as_json: bool, model: Path | None, **given: Any) -> None:
    """Fit the normal Gaussian and the calibration of a model on new normal TILES (another region or season), without
    training."""
    from asd_cli.workflows.fit_gaussian import fit_gaussian as run

    tiles, rest = split_tile_options(given)
    options = FitGaussianOptions(tiles=tiles, model=find_model(model), **rest)
    with progress_bar("fit", "piece") as bar:
        report = run(options, progress=lambda *state: advance(bar, *state))
    if as_json:
        return echo_json(report)
    say(report.summary())
    click.echo(report.model)
