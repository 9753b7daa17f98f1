"""``classes.csv``: names of classes by value (``value,name``) or by colour (``r,g,b,name``)."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from asd_cli.data.listing import is_vsi, join
from asd_cli.errors import LabelError

FILE_NAME = "classes.csv"
_LAYOUT = "its columns must be value,name or r,g,b,name"
_ALIASES = {
    "value": "value",
    "code": "value",
    "id": "value",
    "r": "r",
    "red": "r",
    "g": "g",
    "green": "g",
    "b": "b",
    "blue": "b",
    "name": "name",
    "class": "name",
    "label": "name",
}


@dataclass(frozen=True)
class ClassNames:
    """Names by code; `by_colour`: the codes are packed colours ``r << 16 | g << 8 | b``, else values."""

    path: str
    names: Mapping[int, str]
    by_colour: bool


def find_class_names(folders: Iterable[str]) -> ClassNames | None:
    """The first ``classes.csv`` in `folders`, read; None if there is none."""
    for folder in dict.fromkeys(folders):
        path = join(folder, FILE_NAME)
        if not is_vsi(path) and Path(path).is_file():
            return read_class_names(path)
    return None


def read_class_names(path: str) -> ClassNames:
    """Read a ``classes.csv``; commas, semicolons or tabs; a header line (in any case) is optional.

    Raises:
        LabelError: unreadable, of another layout, or a line that holds no whole number or no name.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"{path}: cannot be read as UTF-8 text; {_LAYOUT}") from error
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    lines = csv.reader(text.splitlines(), delimiter=delimiter)
    rows = [(number, [cell.strip() for cell in row]) for number, row in enumerate(lines, start=1)]
    rows = [(number, row) for number, row in rows if any(row)]
    if not rows:
        raise LabelError(f"{path}: is empty; {_LAYOUT}")
    columns = _header(rows[0][1])
    if columns is None:
        columns = _columns_by_count(rows[0][1], path)
    else:
        rows = rows[1:]
    by_colour = "r" in columns
    names: dict[int, str] = {}
    for number, row in rows:
        code, name = _entry(row, columns, f"{path}, line {number}")
        if names.setdefault(code, name) != name:
            raise LabelError(f"{path}, line {number}: this class has a name already ('{names[code]}'); keep one")
    return ClassNames(path, names, by_colour)


def _header(row: list[str]) -> dict[str, int] | None:
    """Column positions of a header line; None if the line is no header."""
    columns: dict[str, int] = {}
    for position, cell in enumerate(row):
        if cell.lower() in _ALIASES:
            columns.setdefault(_ALIASES[cell.lower()], position)
    complete = "name" in columns and ("value" in columns or {"r", "g", "b"} <= set(columns))
    return columns if complete else None


def _columns_by_count(row: list[str], path: str) -> dict[str, int]:
    if len(row) == 2:
        return {"value": 0, "name": 1}
    if len(row) == 4:
        return {"r": 0, "g": 1, "b": 2, "name": 3}
    raise LabelError(f"{path}: has {len(row)} columns; {_LAYOUT}")


def _entry(row: list[str], columns: Mapping[str, int], where: str) -> tuple[int, str]:
    """(code, name) of one line."""
    keys = ("r", "g", "b") if "r" in columns else ("value",)
    try:
        numbers = [int(row[columns[key]]) for key in keys]
        name = row[columns["name"]]
    except (ValueError, IndexError) as error:
        raise LabelError(f"{where}: '{','.join(row)}' cannot be read; {_LAYOUT}") from error
    if not name:
        raise LabelError(f"{where}: the name is missing; {_LAYOUT}")
    if len(numbers) == 1:
        return numbers[0], name
    if not all(0 <= number <= 255 for number in numbers):
        raise LabelError(f"{where}: colours go from 0 to 255")
    return numbers[0] << 16 | numbers[1] << 8 | numbers[2], name
