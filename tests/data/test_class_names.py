from __future__ import annotations

from pathlib import Path

import pytest

from asd_cli.data.class_names import find_class_names, read_class_names
from asd_cli.errors import LabelError

RED = 255 << 16


def written(folder: Path, text: str, encoding: str = "utf-8") -> str:
    path = folder / "classes.csv"
    path.write_text(text, encoding=encoding)
    return str(path)


@pytest.mark.parametrize(
    "text",
    [
        "1,forest\n2,old water\n",
        "value,name\n1,forest\n2,old water\n",
        "VALUE;Name\r\n1;forest\r\n2;old water\r\n",
        "name\tid\nforest\t1\n\nold water\t2\n",
        'Code,Colour,Class\n1,#00ff00,forest\n2,#0000ff,"old water"\n',
        " 1 , forest \n 2 , old water ",
        "\ufeffvalue,name\n1,forest\n2,old water\n",
    ],
)
def test_names_by_value(tmp_path: Path, text: str) -> None:
    names = read_class_names(written(tmp_path, text))
    assert names.names == {1: "forest", 2: "old water"}
    assert not names.by_colour


@pytest.mark.parametrize("text", ["255,0,0,slide\n0,0,0,forêt\n", "name,R,G,B\nslide,255,0,0\nforêt,0,0,0\n"])
def test_names_by_colour(tmp_path: Path, text: str) -> None:
    names = read_class_names(written(tmp_path, text))
    assert names.names == {RED: "slide", 0: "forêt"}
    assert names.by_colour


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"classes\.csv: is empty; its columns must be value,name or r,g,b,name"),
        ("1,2,forest\n", r"classes\.csv: has 3 columns; its columns must be"),
        ("1,forest\nx,water\n", r"classes\.csv, line 2: 'x,water' cannot be read; its columns must be"),
        ("value,name\n1\n", r"classes\.csv, line 2: '1' cannot be read"),
        ("1,\n", r"classes\.csv, line 1: the name is missing"),
        ("0,0,256,x\n", r"classes\.csv, line 1: colours go from 0 to 255"),
        ("1,a\n1,b\n", r"classes\.csv, line 2: this class has a name already \('a'\); keep one"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        read_class_names(written(tmp_path, text))


def test_file_of_another_encoding(tmp_path: Path) -> None:
    path = written(tmp_path, "1,forêt\n", encoding="latin-1")
    with pytest.raises(LabelError, match=r"classes\.csv: cannot be read as UTF-8 text"):
        read_class_names(path)


def test_first_folder_with_a_file_wins(tmp_path: Path) -> None:
    for name in ("b", "c"):
        (tmp_path / name).mkdir()
        written(tmp_path / name, f"1,{name}\n")
    names = find_class_names([str(tmp_path / name) for name in "abc"])
    assert names is not None
    assert names.names == {1: "b"}
    assert find_class_names([str(tmp_path)]) is None
