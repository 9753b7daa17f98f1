"""``asd export``."""

from __future__ import annotations

from typing import Any

import click

from asd_cli.cli.shared import FILE, default, echo_json, json_option, overwrite_option, say
from asd_cli.options import SCORES, ExportOptions


@click.command(
    short_help="Write a model as ONNX, for other programs.",
    epilog="""\b
Examples:
  asd export forest.safetensors -o forest.onnx
  asd export forest.safetensors -o forest_qgis.onnx --deepness 512
""",
)
@click.argument("model", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="ONNX file to write.")
@click.option(
    "--score",
    type=click.Choice(SCORES),
    default=default(ExportOptions, "score"),
    help="What comes out, as for asd predict.",
)
@click.option(
    "--same-size",
    is_flag=True,
    help="Mirror the border inside, so that the output has the size of the input. Without it the output lacks the "
    "context that scores need, a number of pixels on each side that the metadata tell.",
)
@click.option(
    "--deepness",
    type=click.IntRange(64, 4096),
    default=default(ExportOptions, "deepness"),
    metavar="PIXELS",
    help="For the QGIS plug-in Deepness: square tiles of this side, --same-size, its metadata, and inputs divided by "
    "255, as it gives them.",
)
@overwrite_option
@json_option
def export(as_json: bool, **given: Any) -> None:
    """Write MODEL as one ONNX file: raw pixels (batch, bands, height, width) float32 of any size in, scores out.

    The file is run by ONNX Runtime and compared with torch before it is kept; the largest difference is told.
    """
    from asd_cli.workflows.export import export_model

    report = export_model(ExportOptions(**given))
    if as_json:
        return echo_json(report)
    say(report.summary())
    click.echo(report.onnx)
