"""``asd merge``."""

from __future__ import annotations

from pathlib import Path

import click

from asd_cli.cli.shared import FILE, advance, echo_json, json_option, overwrite_option, progress_bar, say
from asd_cli.options import MergeOptions


@click.command(
    short_help="Make the files of maps that were computed in shards.",
    epilog="""\b
Examples:
  asd merge anomaly.tif
  asd merge maps/*.parts
""",
)
@click.argument("maps", type=FILE, nargs=-1, required=True)
@overwrite_option
@json_option
def merge(as_json: bool, maps: tuple[Path, ...], overwrite: bool) -> None:
    """Make raster and polygons of MAPS, which asd predict --shard has computed.

    MAPS are the files to be made (what was given as -o), or the folders of their parts (NAME.parts).
    """
    from asd_cli.workflows.merge import merge as run
    from asd_cli.workflows.predict_scene import PredictReport

    reports: list[PredictReport] = []
    with progress_bar("merge", "px", scale=True) as bar:

        def show(report: PredictReport) -> None:
            bar.clear()
            say(report.summary())
            for path in report.paths() * (not as_json):
                click.echo(path)
            reports.append(report)

        try:
            run(MergeOptions(maps, overwrite), progress=lambda *state: advance(bar, *state), finished=show)
        finally:  # what was written before an error, too
            if as_json:
                echo_json([report.as_json() for report in reports])
