from __future__ import annotations

from dataclasses import dataclass

import pytest

from asd_cli.errors import InputError
from asd_cli.methods.settings import NoSettings, read_settings


@dataclass(frozen=True)
class Some:
    mode: str = "global"
    inner_window: int = 5
    share: float = 0.5
    soft: bool = False
    cells: tuple[int, ...] = (2, 4)


def test_values_take_the_type_of_their_default() -> None:
    given = [("mode", "local"), ("inner-window", "7"), ("share", "1e-3"), ("soft", "yes"), ("cells", "1,2,3")]
    assert read_settings(Some, given, method="x") == Some("local", 7, 0.001, True, (1, 2, 3))
    assert read_settings(Some, [], method="x") == Some()


def test_the_last_value_of_a_setting_counts() -> None:
    assert read_settings(Some, [("share", "1"), ("share", "2")], method="x").share == 2.0


def test_an_unknown_setting_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InputError, match=r"--option window: not known to the method x; it has: mode=global, inner_"):
        read_settings(Some, [("window", "7")], method="x")
    with pytest.raises(InputError, match=r"--option a: not known to the method asd; it has: none"):
        read_settings(NoSettings, [("a", "1")], method="asd")


@pytest.mark.parametrize(("name", "text"), [("inner_window", "5.5"), ("soft", "maybe"), ("cells", "1,b")])
def test_a_value_that_cannot_be_read_is_refused_with_an_example(name: str, text: str) -> None:
    with pytest.raises(InputError, match=rf"--option {name}={text}: cannot be read; an example: \w"):
        read_settings(Some, [(name, text)], method="x")
