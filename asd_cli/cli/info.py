"""``asd info``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from asd_cli.cli.shared import FILE, echo_json, json_option
from asd_cli.errors import printable


@click.command(short_help="Describe a model file.", epilog="Example: asd info forest.safetensors")
@click.argument("model", type=FILE)
@json_option
def info(model: Path, as_json: bool) -> None:
    """Describe a MODEL file: method, bands, pixel size, training, calibration, hash."""
    from asd_cli.workflows.info import describe_model

    description = describe_model(model)
    if as_json:
        return echo_json(description)
    width = max(len(key) for key in description)
    for key, value in description.items():
        click.echo(f"{printable(key):<{width}}  {_text(value)}")


def _text(value: Any) -> str:
    """A value as people read it: no brackets, no quotes."""
    if isinstance(value, dict):
        return ", ".join(f"{printable(key)} {_text(part)}" for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(part) for part in value) or "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value is None else printable(str(value))
