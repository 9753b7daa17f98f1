"""``asd predict``."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from asd_cli.cli.shared import (
    FILE,
    NAME,
    FloatRange,
    Shard,
    advance,
    default,
    device_option,
    echo_json,
    find_model,
    json_option,
    model_option,
    overwrite_option,
    polygon_options,
    progress_bar,
    raster_options,
    say,
)
from asd_cli.options import ON_BAD_BLOCK, ON_ERROR, RUN_OPTIONS, SCORES, PredictOptions


@click.command(
    short_help="Score every pixel of scenes; write rasters and polygons.",
    epilog="""\b
Examples:
  asd predict scene.tif -o anomaly.tif
  asd predict 'scenes/*.tif' -o maps/ -m forest.safetensors --false-alarm-rate 0.0001 --min-area 50
  asd predict @list.txt -o maps/ --score distance --no-polygons
  asd predict scene.tif -o anomaly.tif --shard 3/8
  asd predict @list.txt -o maps/ --on-error skip --skip-existing --report batch.json
""",
)
@click.argument("scenes", type=NAME, nargs=-1, required=True)
@click.option(
    "-o", "--output", type=NAME, required=True, help="GeoTIFF to write; for several scenes an existing folder."
)
@model_option
@click.option(
    "--score",
    type=click.Choice(SCORES),
    default=default(PredictOptions, "score"),
    help="unit: 0 to 1, 0.5 at the model's threshold. distance: Mahalanobis distance. "
    "far: expected false-alarm rate, low = anomalous.",
)
@click.option(
    "--false-alarm-rate",
    type=FloatRange(0, 0.5, min_open=True),
    default=default(PredictOptions, "false_alarm_rate"),
    help="Polygons hold pixels that at most this share of normal pixels would exceed. "
    "[default: the model's, 0.001 unless trained otherwise]",
)
@click.option(
    "--threshold",
    type=float,
    default=None,
    help="Threshold of the polygons in units of --score, in place of the false-alarm rate.",
)
@click.option(
    "--polygons",
    type=NAME,
    default=None,
    metavar="FILE",
    help="Polygon file (.gpkg, .geojson, .fgb, .parquet), or just a suffix. [default: OUTPUT.gpkg]",
)
@click.option("--no-polygons", "write_polygons", flag_value=False, default=True, help="Write the raster only.")
@polygon_options(PredictOptions)
@click.option(
    "--mask",
    type=NAME,
    default=default(PredictOptions, "mask"),
    metavar="FILE",
    help="Pixels to leave out, such as clouds: polygons (.gpkg, .geojson, .shp, ...; any CRS), or a raster with them "
    "other than 0. They count as nodata: no score, and no influence on that of their neighbours. {name} stands for the "
    "scene's name.",
)
@click.option(
    "--area",
    type=NAME,
    default=default(PredictOptions, "area"),
    metavar="FILE",
    help="Pixels to map, such as an area of interest: polygons or a raster, as for --mask; all others are nodata in "
    "the map. The scores inside are those of the whole map.",
)
@click.option(
    "--style/--no-style",
    default=default(PredictOptions, "style"),
    help="Write a QGIS style (.qml) beside raster and polygons, so that both open coloured.",
)
@click.option("--stac", is_flag=True, help="Write a STAC item, OUTPUT.json, beside the raster.")
@click.option(
    "--quicklook",
    type=NAME,
    default=default(PredictOptions, "quicklook"),
    metavar="FILE",
    help="Picture of the map (.png, at most 1024 px a side), or just the suffix.",
)
@raster_options(PredictOptions)
@click.option(
    "--max-memory",
    type=click.IntRange(64),
    default=default(PredictOptions, "max_memory"),
    metavar="MIB",
    help="Memory in MiB for pixels on their way: sizes windows and GDAL's cache. "
    "The program itself takes some 500 MiB more.",
)
@click.option(
    "--window",
    type=click.IntRange(1),
    default=default(PredictOptions, "window"),
    help="Side in pixels of what is read and written at once, rounded up to whole blocks of 512, in place of what "
    "--max-memory gives; the map does not depend on it.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    default=default(PredictOptions, "threads"),
    help="Threads that compute. [default: one for each processor]",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=default(PredictOptions, "workers"),
    help="Threads that read ahead. [default: one for every four processors, at most 4]",
)
@device_option(PredictOptions, several=True)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on where a run of the same scene, model and options ended early; its finished parts are in OUTPUT.parts. "
    "Of several scenes with --skip-existing, too.",
)
@click.option(
    "--shard",
    type=Shard(),
    default=default(PredictOptions, "shard"),
    help="Only make the parts of shard K of N, on a machine of its own, say; asd merge OUTPUT makes the files of all.",
)
@click.option(
    "--scheduler",
    default=default(PredictOptions, "scheduler"),
    metavar="ADDRESS",
    help="Compute on the workers of a Dask scheduler, tcp://HOST:PORT, or on local:N processes of this machine.",
)
@click.option(
    "--on-error",
    type=click.Choice(ON_ERROR),
    default=default(PredictOptions, "on_error"),
    help="fail: all scenes and targets are checked before any work, and the first error ends the run. "
    "skip: scenes that fail are told and left out, and the exit code is 3 (1 if none is done); "
    "what cannot be written (a full disk) still ends the run.",
)
@click.option(
    "--on-bad-block",
    type=click.Choice(ON_BAD_BLOCK),
    default=default(PredictOptions, "on_bad_block"),
    help="fail: a damaged block of a scene is an error. mask: it counts as nodata, and the report and the map's "
    "tag ASD_BAD_BLOCKS list it.",
)
@click.option("--skip-existing", is_flag=True, help="Leave out scenes whose files exist already.")
@click.option(
    "--report",
    type=FILE,
    default=None,
    help="Write a JSON file on what became of each scene, when the run fails or is interrupted, too. "
    "It replaces the report of an earlier run, and no other file.",
)
@click.option(
    "--dry-run", is_flag=True, help="Check all and print the plan: windows, memory, time, files; write nothing."
)
@click.option("--profile", "show_profile", is_flag=True, help="Say where the time went, stage by stage.")
@overwrite_option
@json_option
@click.pass_context
def predict(
    ctx: click.Context,
    /,
    as_json: bool,
    show_profile: bool,
    dry_run: bool,
    model: Path | None,
    connectivity: str,
    **given: Any,
) -> None:
    """Score every pixel of SCENES (files, globs, /vsi paths or @list.txt) and draw polygons around anomalies."""
    command = _command(sys.argv, _preset(ctx))
    options = PredictOptions(
        model=find_model(model), connectivity=4 if connectivity == "4" else 8, command=command, **given
    )
    if dry_run:
        _dry_run(options, as_json=as_json)
    else:
        _map(options, as_json=as_json, show_profile=show_profile)


def _dry_run(options: PredictOptions, *, as_json: bool) -> None:
    from asd_cli.workflows.dry_run import dry_run

    plan = dry_run(options)
    if as_json:
        echo_json(plan.as_json())
    else:
        click.echo(plan.text())
    plan.conclude()


def _map(options: PredictOptions, *, as_json: bool, show_profile: bool) -> None:
    from asd_cli.workflows.predict import PredictReport, predict

    reports: list[PredictReport] = []
    with progress_bar("predict", "px", scale=True) as bar:

        def show(report: PredictReport) -> None:
            bar.clear()
            say(report.summary())
            if show_profile:
                say(report.profile())
            for path in report.paths() * (not as_json):
                click.echo(path)
            reports.append(report)

        try:
            predict(options, progress=lambda *state: advance(bar, *state), finished=show)
        finally:  # what was written before an error, too
            if as_json:
                echo_json([report.as_json() for report in reports])


def _command(words: list[str], preset: Sequence[str] = ()) -> str:
    """The command as typed, and `preset`, for the record; the same under ``rio asd`` and ``python -m asd_cli``, and for
    all runs that together make one map."""
    start = words.index("predict") if "predict" in words else 1
    kept: list[str] = []
    rest = iter(words[start:])
    for word in rest:
        if word in ("--shard", "--scheduler"):
            next(rest, None)
        elif word == "--":
            return shlex.join(["asd", *kept, *preset, word, *rest])
        elif word != "--resume" and not word.startswith(("--shard=", "--scheduler=")):
            kept.append(word)
    return shlex.join(["asd", *kept, *preset])


def _preset(ctx: click.Context) -> list[str]:
    """Options of the map that the environment or the file of ``--config`` gave, as one would type them."""
    makes = {field.name for field in dataclasses.fields(PredictOptions)} - RUN_OPTIONS
    words: list[str] = []
    for option in ctx.command.params:
        name = str(option.name)
        if name in makes and ctx.get_parameter_source(name) is ParameterSource.DEFAULT_MAP:
            words += _typed(option, ctx.lookup_default(name))
    return words


def _typed(option: click.Parameter, value: Any) -> list[str]:
    if not (isinstance(option, click.Option) and option.is_flag):
        return [max(option.opts, key=len), str(value)]
    given = not value if option.flag_value is False else value
    spelled = option.opts if given else option.secondary_opts
    return spelled[:1]  # of a flag that is off and has no word for it nothing
