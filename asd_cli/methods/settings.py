"""What `--option KEY=VALUE` says to a method: the fields of a frozen dataclass that the method declares."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

from asd_cli.errors import InputError

S = TypeVar("S")
_YES, _NO = ("yes", "true", "on", "1"), ("no", "false", "off", "0")


@dataclasses.dataclass(frozen=True)
class NoSettings:
    """Of a method that has none."""


def read_settings(kind: type[S], given: Sequence[tuple[str, str]], *, method: str) -> S:
    """The settings of a method, an instance of the dataclass `kind`; what is not given keeps its default.

    A value is read as the type of its field's default: str, bool, int, float, or a tuple of numbers (commas).

    Raises:
        InputError: no such setting, or a value that cannot be read; the text lists those that there are.
    """
    known = {field.name: field.default for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, text in given:
        key = name.replace("-", "_")
        if key not in known:
            listed = ", ".join(f"{name}={_shown(value)}" for name, value in known.items()) or "none"
            raise InputError(f"--option {name}: not known to the method {method}; it has: {listed}")
        try:
            values[key] = _read(text, known[key])
        except ValueError as error:
            raise InputError(f"--option {name}={text}: cannot be read; an example: {_shown(known[key])}") from error
    return kind(**values)


def _read(text: str, default: Any) -> Any:
    if isinstance(default, tuple):
        return tuple(_read(part, default[0]) for part in text.split(","))
    if isinstance(default, bool):
        if text.lower() not in (*_YES, *_NO):
            raise ValueError(text)
        return text.lower() in _YES
    return type(default)(text)


def _shown(value: Any) -> str:
    return ",".join(str(part) for part in value) if isinstance(value, tuple) else str(value)
