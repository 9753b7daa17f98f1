"""``asd report``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from asd_cli.cli.shared import (
    FILE,
    NAME,
    Numbers,
    advance,
    default,
    echo_json,
    json_option,
    overwrite_option,
    progress_bar,
    say,
)
from asd_cli.options import ReportOptions


@click.command(
    short_help="Show a map as one web page: overview, strongest anomalies, histogram, provenance.",
    epilog="Example: asd report anomaly.tif -o report.html",
)
@click.argument("raster", type=FILE)
@click.option("-o", "--output", type=FILE, default=default(ReportOptions, "output"), help="HTML file to write.")
@click.option(
    "--scene",
    type=NAME,
    default=default(ReportOptions, "scene"),
    metavar="FILE",
    help="Scene that the map was made from. [default: the one it names, where it lies beside the map]",
)
@click.option(
    "--polygons",
    type=FILE,
    default=default(ReportOptions, "polygons"),
    help="Polygons that asd predict wrote. [default: those with the map's name]",
)
@click.option(
    "--bands",
    type=Numbers(int),
    default=default(ReportOptions, "bands"),
    help="Bands of the scene to show, one or three, such as 4,3,2. [default: red, green, blue, or the first]",
)
@click.option(
    "--top",
    type=click.IntRange(0, 200),
    default=default(ReportOptions, "top"),
    help="How many of the strongest anomalies are shown close up.",
)
@overwrite_option
@json_option
def report(as_json: bool, raster: Path, **given: Any) -> None:
    """Show RASTER, a map that asd predict wrote, as one self-contained HTML page that works without a network."""
    from asd_cli.workflows.report import make_report

    options = ReportOptions(raster=raster, **given)
    with progress_bar("report", "px", scale=True) as bar:
        summary = make_report(options, progress=lambda *state: advance(bar, *state))
    if as_json:
        return echo_json(summary.as_json())
    say(summary.summary())
    click.echo(summary.report)
