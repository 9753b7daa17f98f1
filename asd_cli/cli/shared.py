"""Options that several commands share, spelled once; parameter types; progress bars."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import click

from asd_cli.options import DEFAULT_MODEL, LAYOUTS, MODEL_VARIABLE, TileOptions

if TYPE_CHECKING:
    from tqdm import tqdm

_log = logging.getLogger("asd_cli")
F = TypeVar("F", bound=Callable[..., Any])
FILE = click.Path(readable=False, path_type=Path)
NAME = click.Path(readable=False)
"""What need not be a file (a glob, ``/vsi...``); the shell still completes files."""


def default(options: type[Any], name: str) -> Any:
    """Default of a field of an options class, or None where the field must be given."""
    for field in dataclasses.fields(options):
        if field.name == name:
            return None if field.default is dataclasses.MISSING else field.default
    raise KeyError(f"{options.__name__} has no option {name}")


class FloatRange(click.FloatRange):
    """A range of numbers; NaN, which compares with nothing, lies outside all of them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Text -> number."""
        number = super().convert(value, param, ctx)
        if isinstance(number, float) and math.isnan(number):
            self.fail(f"{value} is not a number", param, ctx)
        return number


class Numbers(click.ParamType[Any] if TYPE_CHECKING else click.ParamType):  # type: ignore[misc]
    """Numbers separated by commas, such as ``4,3,2``."""

    def __init__(self, kind: type[int] | type[float]) -> None:
        self._kind = kind
        self.name = "list"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """How help shows the value; Click before 8.2 gives no context."""
        return "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Text -> tuple of numbers."""
        if not isinstance(value, str):
            return value
        try:
            return tuple(self._kind(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 1,2,3", param, ctx)


class Setting(click.ParamType[Any] if TYPE_CHECKING else click.ParamType):  # type: ignore[misc]
    """``KEY=VALUE``, as a pair."""

    name = "KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Text -> (key, value)."""
        if not isinstance(value, str):
            return value
        key, equals, text = value.partition("=")
        if not (key and equals):
            self.fail(f"{value!r} is not of the form KEY=VALUE", param, ctx)
        return key.strip(), text.strip()


class Shard(click.ParamType[Any] if TYPE_CHECKING else click.ParamType):  # type: ignore[misc]
    """``K/N``: one of N shards, counted from 1, as a pair."""

    name = "K/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Text -> (K, N)."""
        if not isinstance(value, str):
            return value
        number, slash, count = value.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            self.fail(f"{value!r} is not of the form K/N with K from 1 to N, such as 3/8", param, ctx)
        return int(number), int(count)


def seed_option(options: type[Any]) -> Callable[[F], F]:
    """``--seed``."""
    return click.option(
        "--seed", type=click.IntRange(0, 2**32 - 1), default=default(options, "seed"), help="Seed of all randomness."
    )


def calibration_options(options: type[Any], *, holdout: str) -> Callable[[F], F]:
    """``--holdout``, with its help, and ``--false-alarm-rate``; a rate without a default is the model's."""
    rate = default(options, "false_alarm_rate")
    told = "" if rate is not None else " [default: the model's]"

    def decorate(command: F) -> F:
        command = click.option(
            "--false-alarm-rate",
            type=FloatRange(0, 0.5, min_open=True),
            default=rate,
            help=f"Share of the normal pixels of a typical tile above score 0.5.{told}",
        )(command)
        return click.option("--holdout", type=FloatRange(0.01, 0.9), default=default(options, "holdout"), help=holdout)(
            command
        )

    return decorate


def device_option(options: type[Any], *, several: bool = False) -> Callable[[F], F]:
    """``--device``; `several`: a list is understood."""
    more = ", or several GPUs at once: cuda:0,cuda:1" if several else ""
    return click.option(
        "--device",
        default=default(options, "device"),
        metavar="auto|cpu|cuda[:N]|mps",
        help=f"Where to compute; auto takes a GPU when there is one{more}.",
    )


def overwrite_option(command: F) -> F:
    """``--overwrite``."""
    return click.option("--overwrite", is_flag=True, help="Replace existing files.")(command)


def json_option(command: F) -> F:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on standard output.")(command)


def model_option(command: F) -> F:
    """``-m`` / ``--model``."""
    return click.option(
        "-m",
        "--model",
        type=FILE,
        default=None,
        help=f"Model file. Without it ${MODEL_VARIABLE}, else ./{DEFAULT_MODEL}.",
    )(command)


@overload
def find_model(given: Path | None) -> Path: ...
@overload
def find_model(given: Path | None, *, required: bool) -> Path | None: ...
def find_model(given: Path | None, *, required: bool = True) -> Path | None:
    """Model file from ``-m``, the environment, or the current folder.

    Raises:
        AsdError: there is none, and one is `required`; the text says all three.
    """
    import os

    from asd_cli.errors import ModelFileError

    if given is not None:
        return given
    if named := os.environ.get(MODEL_VARIABLE):
        return Path(named)
    if Path(DEFAULT_MODEL).exists():
        return Path(DEFAULT_MODEL)
    if not required:
        return None
    raise ModelFileError(
        f"no model: give one with -m FILE, set ${MODEL_VARIABLE}, or train one here (asd train) as ./{DEFAULT_MODEL}"
    )


def raster_options(options: type[Any]) -> Callable[[F], F]:
    """``--bands`` and ``--nodata``."""

    def decorate(command: F) -> F:
        command = click.option(
            "--nodata",
            type=float,
            default=default(options, "nodata"),
            help="Pixel value that means no data, in place of the file's own.",
        )(command)
        return click.option(
            "--bands",
            type=Numbers(int),
            default=default(options, "bands"),
            help="Bands to use, counted from 1, such as 4,3,2. [default: all but alpha]",
        )(command)

    return decorate


def polygon_options(options: type[Any]) -> Callable[[F], F]:
    """``--min-area``, ``--min-score``, ``--simplify`` and ``--connectivity``."""

    def decorate(command: F) -> F:
        for option in (
            click.option(
                "--connectivity",
                type=click.Choice(["4", "8"]),
                default=str(default(options, "connectivity")),
                help="Neighbours that make pixels one polygon: sides (4) or sides and corners (8).",
            ),
            click.option(
                "--simplify",
                type=FloatRange(0),
                default=default(options, "simplify"),
                help="Simplify outlines within this distance, in units of the CRS.",
            ),
            click.option(
                "--min-score",
                type=float,
                default=default(options, "min_score"),
                help="Keep only polygons whose most anomalous pixel (score_max) reaches this score, in units of the "
                "score. Their outlines stay those of the threshold.",
            ),
            click.option(
                "--min-area",
                type=FloatRange(0),
                default=default(options, "min_area"),
                help="Smallest polygon in square metres (pixels where the scene has no CRS).",
            ),
        ):
            command = option(command)
        return command

    return decorate


def tile_options(command: F) -> F:
    """How tiles and labels are read: the fields of `TileOptions` but the tiles themselves."""
    for option in (
        click.option(
            "--layout",
            type=click.Choice(LAYOUTS),
            default=default(TileOptions, "layout"),
            help="How the folders are laid out; auto looks for labels beside the tiles, "
            "the others are data sets as published.",
        ),
        raster_options(TileOptions),
        click.option(
            "--ignore-label",
            multiple=True,
            metavar="CLASS",
            help="Class that counts nowhere; may be repeated.",
        ),
        click.option("--label-field", default=None, help="Attribute of a vector file that holds the class."),
        click.option(
            "--labels",
            type=NAME,
            default=None,
            metavar="PATH",
            help="Labels: a folder of rasters with the tiles' names, or a vector file (.gpkg, .geojson, .shp).",
        ),
        click.option(
            "--normal",
            multiple=True,
            metavar="CLASS",
            help="Name or value of the normal class; may be repeated.",
        ),
    ):
        command = option(command)
    return command


def split_tile_options(given: dict[str, Any]) -> tuple[TileOptions, dict[str, Any]]:
    """Parameters of a command -> `TileOptions` and what is left."""
    names = {field.name for field in dataclasses.fields(TileOptions)}
    rest = {k: v for k, v in given.items() if k not in names}
    return TileOptions(**{k: v for k, v in given.items() if k in names}), rest


@contextmanager
def progress_bar(description: str, unit: str = "it", *, scale: bool = False) -> Iterator[tqdm[Any]]:
    """A bar on standard error, off when that is no terminal. Its total is set when known."""
    from tqdm import tqdm

    shown = sys.stderr.isatty() and _log.level <= logging.INFO
    with tqdm(desc=description, unit=unit, unit_scale=scale, disable=not shown, leave=False) as bar:
        yield bar


def advance(bar: tqdm[Any], done: int, total: int, figures: dict[str, float] | None = None) -> None:
    """Show `done` of `total`."""
    bar.total = total
    if figures:
        bar.set_postfix({k: f"{v:.3g}" for k, v in figures.items()}, refresh=False)
    bar.update(done - bar.n)


def say(text: str) -> None:
    """Tell people, line by line, on standard error; not under ``--quiet``."""
    for line in text.splitlines():
        _log.info("%s", line)


def echo_json(report: Any) -> None:
    """A report (dataclass or mapping) as JSON on standard output; numbers that are not finite become null."""
    data = dataclasses.asdict(report) if dataclasses.is_dataclass(report) and not isinstance(report, type) else report
    click.echo(json.dumps(_plain(data), indent=2))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if type(value).__module__ == "numpy":  # told by its name, so that parsing does not import NumPy
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
