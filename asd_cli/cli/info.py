"""``asd info``."""

from __future__ import annotations

from pathlib import Path

import click

from asd_cli.cli.shared import FILE, echo_json, json_option


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
        click.echo(f"{key:<{width}}  {value}")
