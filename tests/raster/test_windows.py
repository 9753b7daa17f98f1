from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asd_cli.raster.windows import Window, reflected_indices, round_up, write_windows

sizes = st.integers(1, 40)


@settings(max_examples=60, deadline=None)
@given(height=sizes, width=sizes, size=st.integers(1, 50))
def test_write_windows_cover_each_pixel_once(height: int, width: int, size: int) -> None:
    hits = np.zeros((height, width), dtype=int)
    for window in write_windows(height, width, size):
        assert window.row % size == 0
        assert window.col % size == 0
        assert 0 < window.height <= size
        assert 0 < window.width <= size
        hits[window.row : window.row_stop, window.col : window.col_stop] += 1
    assert (hits == 1).all()


@settings(max_examples=100, deadline=None)
@given(length=st.integers(1, 12), before=st.integers(0, 40), after=st.integers(0, 40))
def test_reflected_indices_are_numpy_reflect(length: int, before: int, after: int) -> None:
    expected = np.pad(np.arange(length), (before, after), mode="reflect")
    np.testing.assert_array_equal(reflected_indices(-before, length + after, length), expected)


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 12), start=st.integers(-50, 50), count=st.integers(1, 20), more=st.integers(0, 30))
def test_reflected_indices_of_a_part_are_part_of_the_whole(length: int, start: int, count: int, more: int) -> None:
    whole = reflected_indices(start - more, start + count + more, length)
    np.testing.assert_array_equal(reflected_indices(start, start + count, length), whole[more : more + count])


@pytest.mark.parametrize(("value", "multiple", "expected"), [(0, 4, 0), (1, 4, 4), (4, 4, 4), (5, 4, 8), (7, 1, 7)])
def test_round_up(value: int, multiple: int, expected: int) -> None:
    assert round_up(value, multiple) == expected


def test_window_expand_and_round_up() -> None:
    window = Window(10, 20, 30, 40)
    assert window.expand(16) == Window(-6, 4, 62, 72)
    assert window.expand(16).expand(-16) == window
    assert window.round_up(16) == Window(10, 20, 32, 48)
    assert (window.row_stop, window.col_stop, window.shape) == (40, 60, (30, 40))
