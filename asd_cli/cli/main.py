"""The group ``asd``: one place for errors, warnings and exit codes."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any

import click

from asd_cli import __version__
from asd_cli.cli.compare import compare
from asd_cli.cli.evaluate import evaluate
from asd_cli.cli.fit_gaussian import fit_gaussian
from asd_cli.cli.info import info
from asd_cli.cli.predict import predict
from asd_cli.cli.report import report
from asd_cli.cli.train import train
from asd_cli.errors import AsdError


class AsdGroup(click.Group):
    """Turns what went wrong into one line and an exit code: 1 failed, 2 usage (Click's own), 130 interrupted."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; only `AsdError` is the user's, anything else keeps its traceback."""
        # read when torch is loaded: threads that spin long while they wait slow training five-fold on a busy machine
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        debug = bool(ctx.params.get("debug"))
        with _messages(debug=debug), _terminated_as_interrupted():
            try:
                return super().invoke(ctx)
            except AsdError as error:
                if debug:
                    raise
                click.echo(f"Error: {error}", err=True)
                ctx.exit(1)
            except (KeyboardInterrupt, click.Abort):
                click.echo("Interrupted.", err=True)
                ctx.exit(130)


class _ToTerminal(logging.Handler):
    """Lines on standard error, above the progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "Warning: " if record.levelno >= logging.WARNING else ""
        tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
        with tqdm.external_write_mode(file=sys.stderr) if tqdm else nullcontext():
            click.echo(f"{prefix}{record.getMessage()}", err=True)


@contextmanager
def _messages(*, debug: bool) -> Iterator[None]:
    """While a command runs: our log goes to the terminal; warnings and logs of libraries only with `debug`."""
    ours, root = logging.getLogger("asd_cli"), logging.getLogger()
    before = ours.handlers, ours.level, ours.propagate
    ours.handlers, ours.propagate = [_ToTerminal()], False
    ours.setLevel(logging.INFO)
    nowhere = logging.NullHandler()
    with warnings.catch_warnings():
        if not debug:
            warnings.showwarning = lambda *args, **options: None
            root.addHandler(nowhere)
        try:
            yield
        finally:
            root.removeHandler(nowhere)
            ours.handlers, ours.level, ours.propagate = before


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
""",
)
@click.version_option(__version__, prog_name="asd")
@click.option(
    "--debug",
    is_flag=True,
    help="Show the traceback of an error and the warnings of libraries; stands before the command.",
)
def main(debug: bool) -> None:
    """Map anomalies in geospatial rasters.

    Learn what is normal (forest, cropland, ...) from GeoTIFF tiles, score every pixel of a scene, and write a
    georeferenced score raster and polygons around what does not belong.
    """


for command in (train, fit_gaussian, predict, evaluate, compare, report, info):
    main.add_command(command)
