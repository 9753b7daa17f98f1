"""``asd polygons``."""

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
    echo_json,
    find_model,
    json_option,
    overwrite_option,
    polygon_options,
    progress_bar,
    say,
)
from asd_cli.options import PolygonsOptions


@click.command(
    short_help="Draw the polygons of a finished map again, at another threshold.",
    epilog="""\b
Examples:
  asd polygons anomaly.tif -o strict.gpkg --threshold 0.7 --min-area 50
  asd polygons anomaly.tif -o rare.gpkg --false-alarm-rate 0.0001 -m forest.safetensors
""",
)
@click.argument("map", type=NAME)
@click.option(
    "-o", "--output", type=FILE, required=True, help="Polygon file to write (.gpkg, .geojson, .fgb, .parquet)."
)
@click.option(
    "-m",
    "--model",
    type=FILE,
    default=default(PolygonsOptions, "model"),
    help="Model of the map; needed for --false-alarm-rate, unless the map was made with --score far.",
)
@click.option(
    "--threshold",
    type=float,
    default=default(PolygonsOptions, "threshold"),
    help="Scores at or above it (at or below it, for --score far) are anomalous. [default: the map's own]",
)
@click.option(
    "--false-alarm-rate",
    type=FloatRange(0, 0.5, min_open=True),
    default=default(PolygonsOptions, "false_alarm_rate"),
    help="In place of --threshold: polygons hold pixels that at most this share of normal pixels would exceed.",
)
@polygon_options(PolygonsOptions)
@overwrite_option
@json_option
def polygons(as_json: bool, model: Path | None, connectivity: str, **given: Any) -> None:
    """Draw polygons around the anomalies of MAP, a raster of `asd predict`, without scoring again.

    Threshold and kind of score are read from the map. Any other raster with one band will do, if --threshold is given.
    """
    from asd_cli.workflows.polygons import draw_polygons

    if model is None and given["false_alarm_rate"] is not None:
        model = find_model(None, required=False)
    options = PolygonsOptions(model=model, connectivity=4 if connectivity == "4" else 8, **given)
    with progress_bar("polygons", "px", scale=True) as bar:
        report = draw_polygons(options, progress=lambda *state: advance(bar, *state))
    if as_json:
        return echo_json(report.as_json())
    say(report.summary())
    click.echo(report.polygons)
