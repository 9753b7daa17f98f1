"""Options from the environment and from a TOML file, below the command line and above the defaults."""

from __future__ import annotations

import difflib
import os
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from asd_cli.errors import InputError, one_line
from asd_cli.options import MODEL_VARIABLE

Section = dict[str, Any]


def defaults(ctx: click.Context, command: click.Command, config: Mapping[str, Section]) -> Section:
    """Values by parameter for a command, for Click's ``default_map``: of the environment, else of the file.

    Raises:
        InputError: a variable has a value that its option does not take.
    """
    name, found = str(command.name), dict(config.get(str(command.name), {}))
    for key, option in options_of(command).items():
        variable = variable_of(name, key)
        if text := os.environ.get(variable):
            found[str(option.name)] = _checked(ctx, option, _from_text(option, text), f"${variable}={text}")
        elif f"${MODEL_VARIABLE}" in str(option.help) and os.environ.get(MODEL_VARIABLE):
            found.pop(str(option.name), None)
    return found


def read_config(ctx: click.Context, path: Path, commands: Mapping[str, click.Command]) -> dict[str, Section]:
    """The sections of a file, one a command; values by parameter.

    Raises:
        InputError: no TOML, an unknown section or key, or a value that the option does not take.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; --config names a TOML file with a section for each command") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is no TOML ({one_line(error)})") from error
    return {section: _section(ctx, path, section, data[section], commands) for section in data}


def _section(ctx: click.Context, path: Path, name: str, given: Any, commands: Mapping[str, click.Command]) -> Section:
    if not isinstance(given, dict):
        raise InputError(f"{path}: {name}: stands in no section; put it below the name of a command, such as [predict]")
    if name not in commands:
        raise InputError(f"{path}: [{name}]: is no command of asd; sections are {', '.join(sorted(commands))}")
    options, section = options_of(commands[name]), {}
    for written, value in given.items():
        key = written.replace("_", "-")
        if key not in options:
            near = difflib.get_close_matches(key, options, 1)
            hint = f"did you mean {near[0]}?" if near else f"keys are the options of asd {name} without their dashes"
            raise InputError(f"{path}: [{name}] {written}: is no option of asd {name}; {hint}")
        option = options[key]
        where = f"{path}: [{name}] {written}"
        section[str(option.name)] = _checked(ctx, option, _from_toml(option, value, where), where)
    return section


def options_of(command: click.Command) -> dict[str, click.Option]:
    """The options of a command by their long names without dashes."""
    options = [param for param in command.params if isinstance(param, click.Option)]
    return {max(option.opts, key=len).lstrip("-"): option for option in options}


def variable_of(command: str, key: str) -> str:
    """``ASD_COMMAND_OPTION``."""
    return f"ASD_{command}_{key}".upper().replace("-", "_")


def _from_text(option: click.Option, text: str) -> Any:
    if option.is_flag:
        return text
    return shlex.split(text) if option.multiple else text


def _from_toml(option: click.Option, value: Any, where: str) -> Any:
    """A value of the file as Click takes it, of the kind that the option has."""
    if option.is_flag or isinstance(value, bool):
        if not (option.is_flag and isinstance(value, bool)):
            raise InputError(f"{where}: takes {'true or false' if option.is_flag else _kind(option)}, not {value!r}")
        return str(value)
    if option.multiple:
        return [_scalar(option, one, where) for one in (value if isinstance(value, list) else [value])]
    if isinstance(value, list) and _is_list(option):
        return ",".join(str(_scalar(option, one, where)) for one in value)
    return _scalar(option, value, where)


def _scalar(option: click.Option, value: Any, where: str) -> str:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if _is_number(option):
        fits = number
    elif _is_list(option) or isinstance(option.type, click.Choice):
        fits = number or isinstance(value, str)
    else:
        fits = isinstance(value, str)
    if not fits:
        raise InputError(f"{where}: takes {_kind(option)}, not {value!r}")
    return str(value)


def _is_number(option: click.Option) -> bool:
    return isinstance(option.type, (type(click.INT), type(click.FLOAT)))


def _is_list(option: click.Option) -> bool:
    """Of values separated by commas."""
    return not isinstance(
        option.type, (click.Path, click.Choice, type(click.STRING), type(click.INT), type(click.FLOAT))
    )


def _kind(option: click.Option) -> str:
    if isinstance(option.type, click.Choice):
        return f"one of {', '.join(map(str, option.type.choices))}"
    return "a number" if _is_number(option) else "a list" if _is_list(option) else "text in quotes"


def _checked(ctx: click.Context, option: click.Option, value: Any, where: str) -> Any:
    """The value, after a try whether Click takes it."""
    try:
        if option.is_flag:
            given = click.BOOL.convert(value, None, None)
            return given if option.flag_value is not False else not given
        option.type_cast_value(ctx, value)
    except click.BadParameter as error:
        raise InputError(f"{where}: {error.message.rstrip('.')}") from error
    return value
