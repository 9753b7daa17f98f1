"""``asd compare``."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from asd_cli.cli.shared import (
    FILE,
    NAME,
    Setting,
    advance,
    calibration_options,
    default,
    device_option,
    echo_json,
    json_option,
    overwrite_option,
    progress_bar,
    seed_option,
    split_tile_options,
    tile_options,
)
from asd_cli.cli.train import train
from asd_cli.methods.registry import METHODS
from asd_cli.options import RECIPES, CompareOptions, Variant

_OF_A_VARIANT = frozenset(
    ("method", "method_options", "recipe", "steps", "crop", "length", "scales", "patch_size", "without", "loss_form")
)


class Names(click.ParamType[Any] if TYPE_CHECKING else click.ParamType):  # type: ignore[misc]
    """Names separated by commas."""

    name = "NAME,NAME,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Text -> tuple of names."""
        if not isinstance(value, str):
            return value
        return tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))


class VariantType(click.ParamType[Any] if TYPE_CHECKING else click.ParamType):  # type: ignore[misc]
    """``NAME="--method asd --recipe paper"``: options of `asd train` that make a row of their own."""

    name = "NAME=OPTIONS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Text -> `Variant` with what its options say."""
        if not isinstance(value, str):
            return value
        name, equals, text = value.partition("=")
        if not (name.strip() and equals):
            self.fail(f'{value!r} is not of the form NAME="--method asd --recipe paper"', param, ctx)
        try:
            given = train.make_context("train", [*shlex.split(text), "tiles"])
        except (click.UsageError, ValueError) as error:
            self.fail(f"{name}: {getattr(error, 'message', error)}", param, ctx)
        for word in given.params["tiles"][:-1]:
            self.fail(f"{name}: {word!r} is no option of asd train", param, ctx)
        said = {
            key for key in given.params if given.get_parameter_source(key) is click.core.ParameterSource.COMMANDLINE
        }
        for key in sorted(said - _OF_A_VARIANT - {"tiles"}):
            option = f"--{key.replace('_', '-')}"
            self.fail(f"{name}: {option} is shared by all rows; give it to asd compare", param, ctx)
        return Variant(name.strip(), tuple((key, given.params[key]) for key in sorted(said & _OF_A_VARIANT)))


@click.command(
    short_help="Train and evaluate several methods on the same tiles; one table.",
    epilog="""\b
Examples:
  asd compare tiles/ --normal forest -o report/
  asd compare tiles/ --normal forest --folds 5 --variant long="--steps 2000" --variant wide="--length 8" -o report/
  asd compare tiles/ --normal forest --ablation --recipe paper -o table4/
""",
)
@click.argument("tiles", type=NAME, nargs=-1, required=True)
@tile_options
@click.option(
    "-o",
    "--output",
    type=FILE,
    default=default(CompareOptions, "output"),
    help="Folder of models, tables and maps; what it holds from an earlier call is used again.",
)
@click.option(
    "--methods",
    type=Names(),
    default=default(CompareOptions, "methods"),
    show_default=False,
    help=f"Methods to compare, of: {', '.join(sorted(METHODS))}. "
    "[default: all of them, or none where --variant or --ablation says what to compare]",
)
@click.option(
    "-O",
    "--option",
    "method_options",
    type=Setting(),
    multiple=True,
    metavar="METHOD:KEY=VALUE",
    help="Setting of one of the methods; may be repeated.",
)
@click.option(
    "--variant",
    "variants",
    type=VariantType(),
    multiple=True,
    help='One more row: a name and options of asd train, such as long="--steps 2000"; may be repeated.',
)
@click.option(
    "--ablation",
    is_flag=True,
    help="ASD with each of the 7 combinations of the paper's losses, one row each; --recipe paper for its schedule.",
)
@click.option(
    "--split",
    default=default(CompareOptions, "split"),
    metavar="first-half|FILE",
    help="first-half: of the tiles sorted by name, the first half trains and the second tests. "
    "FILE: lines of NAME,train and NAME,test.",
)
@click.option(
    "--folds",
    type=click.IntRange(2),
    default=default(CompareOptions, "folds"),
    help="Cross-validation over whole tiles in place of --split: each of N runs of neighbours by name tests once.",
)
@click.option(
    "--maps", type=click.IntRange(0), default=default(CompareOptions, "maps"), help="Test tiles to draw score maps of."
)
@click.option(
    "--recipe",
    type=click.Choice(RECIPES),
    default=default(CompareOptions, "recipe"),
    help="Recipe of every row that names none.",
)
@click.option("--steps", type=click.IntRange(1), default=None, help="Training steps of every row that names none.")
@calibration_options(
    CompareOptions, holdout="Share of the normal training tiles that is held out, to calibrate; see asd train."
)
@seed_option(CompareOptions)
@device_option(CompareOptions)
@overwrite_option
@json_option
@click.pass_context
def compare(ctx: click.Context, /, as_json: bool, **given: Any) -> None:
    """Train and evaluate methods on the same TILES (folders, files or globs), splits and calibration.

    Prints a table of AUC, average precision, mIoU, F1, region overlap, seconds and sizes, and writes it into the
    output folder as CSV, JSON and Markdown, with score maps side by side. Interrupted, the same command goes on. A
    method that fails is told in its row; the exit code is 1 only if all of them fail.
    """
    from asd_cli.workflows.compare import compare as run

    tiles, rest = split_tile_options(given)
    shown = ""
    with progress_bar("compare") as bar:

        def show(what: str, *state: Any) -> None:
            nonlocal shown
            if what != shown:
                shown = what
                bar.reset()
                bar.set_description(what, refresh=False)
            advance(bar, *state)

        report = run(CompareOptions(tiles=tiles, **rest), progress=show)
    if as_json:
        echo_json(report.as_json())
    else:
        click.echo(report.table())
    if len(report.failed) == len(report.rows):
        ctx.exit(1)
