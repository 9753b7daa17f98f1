"""``asd predict``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from asd_cli.cli.shared import (
    NAME,
    FloatRange,
    advance,
    default,
    device_option,
    echo_json,
    find_model,
    json_option,
    model_option,
    overwrite_option,
    progress_bar,
    raster_options,
)
from asd_cli.options import SCORES, PredictOptions


@click.command(
    short_help="Score every pixel of scenes; write rasters and polygons.",
    epilog="""\b
Examples:
  asd predict scene.tif -o anomaly.tif
  asd predict 'scenes/*.tif' -o maps/ -m forest.safetensors --false-alarm-rate 0.0001 --min-area 50
  asd predict @list.txt -o maps/ --score distance --no-polygons
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
@click.option(
    "--min-area",
    type=FloatRange(0),
    default=default(PredictOptions, "min_area"),
    help="Smallest polygon in square metres (pixels where the scene has no CRS).",
)
@click.option(
    "--simplify",
    type=FloatRange(0),
    default=default(PredictOptions, "simplify"),
    help="Simplify outlines within this distance, in units of the CRS.",
)
@click.option(
    "--connectivity",
    type=click.Choice(["4", "8"]),
    default=str(default(PredictOptions, "connectivity")),
    help="Neighbours that make pixels one polygon: sides (4) or sides and corners (8).",
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
@device_option(PredictOptions)
@click.option("--profile", "show_profile", is_flag=True, help="Say where the time went, stage by stage.")
@overwrite_option
@json_option
def predict(as_json: bool, show_profile: bool, model: Path | None, connectivity: str, **given: Any) -> None:
    """Score every pixel of SCENES (files, globs, /vsi paths or @list.txt) and draw polygons around anomalies."""
    from asd_cli.workflows.predict import PredictReport
    from asd_cli.workflows.predict import predict as run

    options = PredictOptions(
        model=find_model(model), connectivity=4 if connectivity == "4" else 8, command=_command(sys.argv), **given
    )
    reports: list[PredictReport] = []
    with progress_bar("predict", "px", scale=True) as bar:

        def show(report: PredictReport) -> None:
            bar.clear()
            click.echo(report.summary(), err=True)
            if show_profile:
                click.echo(report.profile(), err=True)
            for path in report.paths() * (not as_json):
                click.echo(path)
            reports.append(report)

        try:
            run(options, progress=lambda *state: advance(bar, *state), finished=show)
        finally:  # what was written before an error, too
            if as_json:
                echo_json([report.as_json() for report in reports])


def _command(words: list[str]) -> str:
    """The command as typed, for the record; the same under ``rio asd`` and ``python -m asd_cli``."""
    start = words.index("predict") if "predict" in words else 1
    return shlex.join(["asd", *words[start:]])
