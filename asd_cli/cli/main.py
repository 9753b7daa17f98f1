"""The group ``asd``: one place for errors, warnings and exit codes."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from asd_cli import __version__
from asd_cli.cli.compare import compare
from asd_cli.cli.config import defaults, read_config
from asd_cli.cli.evaluate import evaluate
from asd_cli.cli.export import export
from asd_cli.cli.fit_gaussian import fit_gaussian
from asd_cli.cli.info import info
from asd_cli.cli.merge import merge
from asd_cli.cli.polygons import polygons
from asd_cli.cli.predict import predict
from asd_cli.cli.report import report
from asd_cli.cli.shared import FILE
from asd_cli.cli.train import train
from asd_cli.cli.verbosity import messages, verbosity_options
from asd_cli.errors import AsdError, one_line, printable

_LESS_MEMORY = "out of memory: a smaller --max-memory or --crop, fewer --workers or --device cpu take less"
_LONGEST = 200


class AsdGroup(click.Group):
    """Turns what went wrong into one line and an exit code: 1 failed, 2 usage (Click's own), 3 some scenes of a batch
    failed, 130 interrupted."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Every command has ``-v`` and ``-q``, too."""
        cmd.params.extend(verbosity_options())
        super().add_command(cmd, name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command, its options from the environment and the file given to the context."""
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and not ctx.resilient_parsing:
            path = ctx.params.get("config")
            config = read_config(ctx, path, self.commands) if path else {}
            ctx.default_map = {str(name): defaults(ctx, command, config)}
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; only `AsdError` is the user's, anything else keeps its traceback."""
        # read when torch is loaded: threads that spin long while they wait slow training five-fold on a busy machine
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        debug = bool(ctx.params.get("debug"))
        verbose, quiet = bool(ctx.params.get("verbose")), bool(ctx.params.get("quiet"))
        with messages(debug=debug, verbose=verbose, quiet=quiet), _terminated_as_interrupted():
            try:
                return super().invoke(ctx)
            except AsdError as error:
                if debug:
                    raise
                click.echo(f"Error: {error}", err=True)
                ctx.exit(error.exit_code)
            except (KeyboardInterrupt, click.Abort):
                click.echo("Interrupted.", err=True)
                ctx.exit(130)
            except (MemoryError, RuntimeError) as error:
                if debug or not _out_of_memory(error):
                    raise
                reason = printable(one_line(error))[:_LONGEST]
                click.echo(f"Error: {_LESS_MEMORY} ({reason})", err=True)
                ctx.exit(1)


def _out_of_memory(error: Exception) -> bool:
    """Whether NumPy, Python or torch could get no more memory, the GPU's included."""
    # torch is not imported for this: it takes seconds, and what has not been imported has raised nothing
    gpu = getattr(sys.modules.get("torch"), "OutOfMemoryError", MemoryError)
    return isinstance(error, (MemoryError, gpu)) or "can't allocate memory" in str(error)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """While a command runs: SIGTERM, as batch systems send it, tidies up as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@click.group(
    "asd",
    cls=AsdGroup,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100},
    epilog="""\b
Two commands make a map:
  asd train --normal forest tiles/
  asd predict scene.tif -o anomaly.tif

\b
Exit codes:
  0    all done
  1    failed; the last line on standard error says why
  2    wrong usage
  3    some scenes failed, the others are done (predict --on-error skip)
  130  interrupted (Ctrl-C, SIGTERM)
""",
)
@click.version_option(__version__, prog_name="asd")
@click.option(
    "--debug",
    is_flag=True,
    envvar="ASD_DEBUG",
    help="Show the traceback of an error and the warnings of libraries; stands before the command.",
)
@click.option(
    "--config",
    type=FILE,
    envvar="ASD_CONFIG",
    help="TOML file with options: a section for each command, such as [predict], with keys such as max-memory = 512. "
    "Variables such as ASD_PREDICT_MAX_MEMORY count more, the command line most; stands before the command.",
)
def main(**given: Any) -> None:
    """Map anomalies in geospatial rasters.

    Learn what is normal (forest, cropland, ...) from GeoTIFF tiles, score every pixel of a scene, and write a
    georeferenced score raster and polygons around what does not belong.
    """


main.params.extend(verbosity_options(of_group=True))
for command in (train, fit_gaussian, predict, merge, polygons, evaluate, compare, report, export, info):
    main.add_command(command)
