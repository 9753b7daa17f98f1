"""``asd train``."""

from __future__ import annotations

from typing import Any

import click

from asd_cli.cli.shared import (
    FILE,
    NAME,
    Numbers,
    Setting,
    advance,
    calibration_options,
    default,
    device_option,
    echo_json,
    json_option,
    overwrite_option,
    progress_bar,
    say,
    seed_option,
    split_tile_options,
    tile_options,
)
from asd_cli.methods.registry import METHODS
from asd_cli.options import LOSS_FORMS, LOSSES, RECIPES, TrainOptions


@click.command(
    short_help="Learn what is normal from tiles and write a model file.",
    epilog="""\b
Examples:
  asd train --normal forest tiles/
  asd train --normal 1 --bands 4,3,2 'tiles/*.tif' --labels truth.gpkg --label-field class -o forest.safetensors
""",
)
@click.argument("tiles", type=NAME, nargs=-1, required=True)
@tile_options
@click.option("-o", "--output", type=FILE, default=default(TrainOptions, "output"), help="Model file to write.")
@click.option(
    "--method",
    type=click.Choice(sorted(METHODS)),
    default=default(TrainOptions, "method"),
    help="What turns pixels into distances.",
)
@click.option(
    "-O",
    "--option",
    "method_options",
    type=Setting(),
    multiple=True,
    help="Setting of the method, such as window=15; may be repeated. The README lists those of each method.",
)
@click.option(
    "--recipe",
    type=click.Choice(RECIPES),
    default=default(TrainOptions, "recipe"),
    help="Of the method asd. standard: taught with localised virtual anomalies. quick: the paper's losses in a few "
    "minutes. paper: the paper's 100 epochs.",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    default=None,
    help="Training steps, in place of the recipe's; the networks of the recipe standard take turns.",
)
@click.option(
    "--crop",
    type=click.IntRange(32, 4096),
    default=default(TrainOptions, "crop"),
    help="Side of a training crop in pixels. [default: the recipe's, 128 to 512]",
)
@click.option(
    "--crops",
    type=click.IntRange(1, 1024),
    default=default(TrainOptions, "crops"),
    help="Crops that make a step; processes that torchrun has started share them. [default: one for each process]",
)
@click.option(
    "--length",
    type=click.IntRange(1, 256),
    default=default(TrainOptions, "length"),
    help="Numbers in a descriptor (L). [default: 5 as in the paper, 16 for the recipe standard]",
)
@click.option(
    "--scales",
    type=Numbers(float),
    default=default(TrainOptions, "scales"),
    help="Scales of the pyramid, powers of two from 1/16 to 16 (S_s). [default: 0.5,1,2 as in the paper, with 0.25 for "
    "the recipe standard]",
)
@click.option(
    "--patch-size",
    type=click.IntRange(10, 127),
    default=default(TrainOptions, "patch_size"),
    help="Side of a patch in pixels (P).",
)
@click.option("--without", type=click.Choice(LOSSES), multiple=True, help="Switch a loss off; may be repeated.")
@click.option(
    "--loss-form",
    type=click.Choice(LOSS_FORMS),
    default=default(TrainOptions, "loss_form"),
    help="published: means over pixels and channels, as the authors' program. "
    "paper: sums over channels, as the equations.",
)
@calibration_options(
    TrainOptions,
    holdout="Share of the normal tiles that is held out from a network, to calibrate. From both of the recipe standard "
    "it is another share, and from Gaussians alone (also of rx and padim) all tiles are, share by share.",
)
@seed_option(TrainOptions)
@device_option(TrainOptions)
@click.option(
    "--unlabelled",
    is_flag=True,
    help="Take every valid pixel as normal, whatever labels there are, although anomalies may be among them: nothing "
    "is held out, the odd twentieth of the pixels does not shape the Gaussian, and the network of the recipe standard, "
    "one instead of two, which has seen them all, counts less. For a scene that is its own reference.",
)
@click.option("--log", type=FILE, default=None, help="CSV with one row an epoch: losses, radius, held-out figure.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint that an interrupted run left beside the model.")
@overwrite_option
@json_option
def train(as_json: bool, **given: Any) -> None:
    """Learn what is normal from TILES (folders, files or globs) and write a model file.

    Labels are looked for in this order: --labels; images/ beside labels/ or masks/; NAME.tif beside NAME_label.tif;
    one folder per class; none, and then every valid pixel is normal.
    """
    from asd_cli.workflows.train import train as run

    tiles, rest = split_tile_options(given)
    with progress_bar("train", "step") as bar:
        report = run(TrainOptions(tiles=tiles, **rest), progress=lambda *state: advance(bar, *state))
    if report is None:  # torchrun: another process tells
        return None
    if as_json:
        return echo_json(report)
    say(report.summary())
    click.echo(report.model)
