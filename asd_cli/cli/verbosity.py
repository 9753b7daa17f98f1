"""What a command says on standard error: ``-v``, ``-q``, ``--debug``."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import click

from asd_cli.errors import printable

_OURS, _GDAL = "asd_cli", "rasterio._env"


class _ToTerminal(logging.Handler):
    """Lines on standard error, above the progress bar if there is one."""

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self._name = f"{name}: " if name else ""

    def emit(self, record: logging.LogRecord) -> None:
        kinds = {logging.DEBUG: "Debug: ", logging.INFO: "", logging.ERROR: "Error: "}
        prefix = self._name or kinds.get(record.levelno, "Warning: ")
        tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
        with tqdm.external_write_mode(file=sys.stderr) if tqdm else nullcontext():
            click.echo(f"{prefix}{printable(record.getMessage())}", err=True)


@contextmanager
def messages(*, debug: bool, verbose: bool, quiet: bool) -> Iterator[None]:
    """While a command runs: our log goes to the terminal; warnings and logs of libraries only with `debug`."""
    ours, gdal, root = logging.getLogger(_OURS), logging.getLogger(_GDAL), logging.getLogger()
    before = ours.handlers, ours.level, ours.propagate
    gdal_before = gdal.handlers
    ours.handlers, ours.propagate = [_ToTerminal()], False
    ours.setLevel(logging.INFO)
    _louder(verbose)
    _quieter(quiet)
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
            gdal.handlers = gdal_before


def _louder(wanted: bool) -> None:
    if wanted:
        logging.getLogger(_OURS).setLevel(logging.DEBUG)
        logging.getLogger(_GDAL).handlers = [_ToTerminal("GDAL")]


def _quieter(wanted: bool) -> None:
    if wanted:
        logging.getLogger(_OURS).setLevel(logging.ERROR)


def _told(act: Callable[[bool], None]) -> Callable[[click.Context, click.Parameter, bool], None]:
    return lambda ctx, param, wanted: None if ctx.resilient_parsing else act(wanted)


def verbosity_options(*, of_group: bool = False) -> list[click.Option]:
    """``-v`` and ``-q``; those of a command come into effect when it is parsed."""
    given: dict[str, Any] = {"is_flag": True}
    return [
        click.Option(
            ["-v", "--verbose"],
            help="Say more on standard error, messages of GDAL included.",
            **given | ({"envvar": "ASD_VERBOSE"} if of_group else {"expose_value": False, "callback": _told(_louder)}),
        ),
        click.Option(
            ["-q", "--quiet"],
            help="Say nothing but errors: no progress bar, summary or warnings. Results stay on standard output.",
            **given | ({"envvar": "ASD_QUIET"} if of_group else {"expose_value": False, "callback": _told(_quieter)}),
        ),
    ]
