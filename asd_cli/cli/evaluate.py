"""``asd evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from asd_cli.cli.shared import (
    FILE,
    NAME,
    FloatRange,
    advance,
    default,
    device_option,
    echo_json,
    find_model,
    json_option,
    overwrite_option,
    progress_bar,
    split_tile_options,
    tile_options,
)
from asd_cli.options import EvaluateOptions


@click.command(
    short_help="Compare a score raster, or a model's scores of tiles, with the truth.",
    epilog="""\b
Examples:
  asd evaluate anomaly.tif --labels truth.tif --normal forest
  asd evaluate -m forest.safetensors tiles/ --normal forest --csv figures.csv --plots plots/
""",
)
@click.argument("tiles", type=NAME, nargs=-1, required=True)
@click.option("-m", "--model", type=FILE, default=None, help="Model file: TILES are then images to score.")
@tile_options
@click.option(
    "--false-alarm-rate",
    type=FloatRange(0, 0.5, min_open=True),
    default=default(EvaluateOptions, "false_alarm_rate"),
    help="Calibrated threshold that this share of normal pixels is expected to exceed; with -m. [default: the model's]",
)
@click.option("--csv", type=FILE, default=None, help="Write the table as CSV.")
@click.option("--plots", type=FILE, default=None, help="Folder for roc.png and precision_recall.png; made if need be.")
@device_option(EvaluateOptions)
@overwrite_option
@json_option
def evaluate(as_json: bool, model: Path | None, **given: Any) -> None:
    """Compare scores with the truth: AUC, average precision, mIoU, F1, precision, recall.

    TILES are score rasters of `asd predict` with --labels, or with -m the tiles to score. Figures at the calibrated
    threshold are what a user gets; those marked oracle use the best threshold for this very truth.

    Without --normal, normal are the classes that the model was trained on, if the truth has them; else what lies
    outside all polygons, or 0 in a mask of 0 and 1.
    """
    from asd_cli.workflows.evaluate import evaluate as run

    tiles, rest = split_tile_options(given)
    options = EvaluateOptions(tiles=tiles, model=find_model(model) if model else None, **rest)
    with progress_bar("evaluate", "px", scale=True) as bar:
        report = run(options, progress=lambda *state: advance(bar, *state))
    if as_json:
        return echo_json(report.as_json())
    click.echo(report.table())
