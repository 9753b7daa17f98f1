"""Every command's options: help, defaults, examples."""

from __future__ import annotations

import dataclasses
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from asd_cli import options
from asd_cli.cli import main
from asd_cli.cli.shared import default
from asd_cli.options import (
    CompareOptions,
    EvaluateOptions,
    ExportOptions,
    FitGaussianOptions,
    MergeOptions,
    PolygonsOptions,
    PredictOptions,
    ReportOptions,
    TileOptions,
    TrainOptions,
)

COMMANDS: dict[str, click.Command] = dict(main.commands)
CLASSES = {
    "train": TrainOptions,
    "fit-gaussian": FitGaussianOptions,
    "predict": PredictOptions,
    "merge": MergeOptions,
    "evaluate": EvaluateOptions,
    "compare": CompareOptions,
    "polygons": PolygonsOptions,
    "export": ExportOptions,
    "report": ReportOptions,
}
NOT_OPTIONS = {"predict": {"command"}, "evaluate": {"exact_limit"}}  # set by the command line, or by programs only
NEEDED = {
    "fit-gaussian": ["-o", "new.safetensors"],
    "predict": ["-o", "a.tif"],
    "polygons": ["-o", "a.gpkg"],
    "export": ["-o", "a.onnx"],
}
MUST_BE_GIVEN = {command: {"output"} for command in NEEDED} | {"export": {"output", "model"}, "report": {"raster"}}
ONLY_CLI = {"dry_run", "show_profile", "as_json", "debug", "version", "help"}


def options_of(command: click.Command) -> list[click.Option]:
    return [param for param in command.params if isinstance(param, click.Option)]


def fields_of(command: str) -> dict[str, Any]:
    """Defaults by name of the options class and, where it has tiles, of `TileOptions`."""
    given = CLASSES[command]
    nested = any(field.name == "tiles" for field in dataclasses.fields(given))
    classes = (given, TileOptions) if nested else (given,)
    fields = {field.name: field.default for one in classes for field in dataclasses.fields(one)}
    return {name: value for name, value in fields.items() if name not in NOT_OPTIONS.get(command, ())}


def parsed(command: str, *arguments: str) -> dict[str, Any]:
    """What Click makes of the arguments; nothing is run."""
    return dict(COMMANDS[command].make_context(command, list(arguments)).params)


def test_an_options_class_is_tested_here() -> None:
    classes = {kind for name, kind in inspect.getmembers(options, inspect.isclass) if name.endswith("Options")}
    assert classes == {*CLASSES.values(), TileOptions}
    assert set(CLASSES) == set(COMMANDS) - {"info"}


@pytest.mark.parametrize("command", CLASSES)
def test_defaults_are_those_of_the_options_class(command: str) -> None:
    params = parsed(command, "some.tif", *NEEDED.get(command, []))
    fields = fields_of(command)
    assert set(params) - ONLY_CLI == set(fields)
    for name, expected in fields.items():
        if name not in MUST_BE_GIVEN.get(command, ()) and name not in ("tiles", "scenes", "map", "maps"):
            value = params[name]
            assert (int(value) if name == "connectivity" else value) == expected, name


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_every_option_does_and_its_default(command: str) -> None:
    text = CliRunner().invoke(main, [command, "--help"], terminal_width=100).stdout
    for option in options_of(COMMANDS[command]):
        assert option.help, option.name
        assert option.help.endswith((".", "]")), option.name
        assert max(option.opts, key=len) in text
    for name, value in fields_of(command).items() if command in CLASSES else ():
        shown = value is not None and value is not dataclasses.MISSING and not isinstance(value, bool) and value != ()
        if shown and name not in {"map", *MUST_BE_GIVEN.get(command, ())}:
            text_of = "0.5,1,2" if name == "scales" else str(value)
            assert f"[default: {text_of}" in re.sub(r"\s+", " ", text), name
    assert COMMANDS[command].short_help


@pytest.mark.parametrize("name", ["-h", "--help"])
def test_help_of_the_group_names_the_commands(name: str) -> None:
    done = CliRunner().invoke(main, [name])
    assert done.exit_code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in done.stdout


def examples() -> list[str]:
    texts = [main.epilog or "", *(command.epilog or "" for command in COMMANDS.values())]
    return re.findall(r"\basd .+", "\n".join(texts))


def test_every_command_has_an_example() -> None:
    for name, command in COMMANDS.items():
        assert f"asd {name} " in (command.epilog or "")


@pytest.mark.parametrize("line", examples())
def test_examples_can_be_parsed(line: str) -> None:
    words = shlex.split(line)
    assert words[:1] == ["asd"]
    params = parsed(*words[1:])
    assert any(params.get(name) for name in ("tiles", "scenes", "model", "map", "maps", "raster"))


def test_lists_of_numbers() -> None:
    assert parsed("evaluate", "a", "--bands", "4,3,2")["bands"] == (4, 3, 2)
    assert parsed("evaluate", "a", "--bands", " 4, 3 ")["bands"] == (4, 3)
    assert parsed("train", "a", "--scales", "0.5,1,2")["scales"] == (0.5, 1.0, 2.0)
    assert parsed("train", "a", "--scales", "1")["scales"] == (1.0,)
    for text in ("", "4,,2", "4-2", "4;2", "red", "1.5,2"):
        with pytest.raises(click.BadParameter, match=re.escape(f"{text!r} is not a list of numbers such as 1,2,3")):
            parsed("evaluate", "a", "--bands", text)


@pytest.mark.parametrize(
    ("text", "expected"), [("-9999", -9999.0), ("0", 0.0), ("1e-3", 0.001), ("-inf", -float("inf"))]
)
def test_nodata_values(text: str, expected: float) -> None:
    assert parsed("evaluate", "a", "--nodata", text)["nodata"] == expected
    assert parsed("predict", "a", "-o", "b", f"--nodata={text}")["nodata"] == expected


def test_shards() -> None:
    assert parsed("predict", "a", "-o", "b", "--shard", "3/8")["shard"] == (3, 8)
    for text in ("", "3", "0/8", "9/8", "3/", "-1/8", "3/8/9", "a/b"):
        with pytest.raises(click.BadParameter, match=re.escape(f"{text!r} is not of the form K/N with K from 1 to N")):
            parsed("predict", "a", "-o", "b", "--shard", text)


def test_nodata_nan() -> None:
    value = parsed("predict", "a", "-o", "b", "--nodata", "nan")["nodata"]
    assert value != value  # noqa: PLR0124 (NaN alone differs from itself)


def test_repeated_options_keep_their_order() -> None:
    params = parsed("evaluate", "a", "b", "--normal", "x", "--normal", "0,0,0", "--ignore-label", "255")
    assert params["tiles"] == ("a", "b")
    assert params["normal"] == ("x", "0,0,0")
    assert params["ignore_label"] == ("255",)


def test_file_arguments_complete_to_files() -> None:
    for command in COMMANDS.values():
        for param in command.params:
            if param.name in (
                "tiles",
                "scenes",
                "model",
                "labels",
                "csv",
                "plots",
                "log",
                "output",
                "polygons",
                "map",
                "mask",
                "area",
                "raster",
                "quicklook",
            ):
                assert isinstance(param.type, click.Path), f"{command.name} {param.name}"


def test_default_of_an_option_that_is_not_there() -> None:
    with pytest.raises(KeyError, match="EvaluateOptions has no option colour"):
        default(EvaluateOptions, "colour")
    assert default(EvaluateOptions, "tiles") is None
    assert default(TrainOptions, "output") == Path("asd_model.safetensors")


def test_settings_of_a_method_are_pairs() -> None:
    given = parsed("train", "tiles", "-O", "window=15", "--option", "mode = local")
    assert given["method_options"] == (("window", "15"), ("mode", "local"))
    with pytest.raises(click.BadParameter, match="'window' is not of the form KEY=VALUE"):
        parsed("train", "tiles", "-O", "window")
