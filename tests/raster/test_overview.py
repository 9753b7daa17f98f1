from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp

from asd_cli.raster.gdal import open_raster
from asd_cli.raster.overview import Reduction, fitted, most_anomalous, read_reduced, shown_bands
from asd_cli.raster.pictures import jpeg, png, stretch_limits, stretched
from asd_cli.raster.windows import Window, write_windows

Make = Callable[..., Path]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 40), st.integers(1, 30), st.booleans())
def test_cells_hold_the_most_anomalous_score(height: int, width: int, longest: int, size: int, lower: bool) -> None:
    scores = np.random.default_rng(height * 71 + width).random((height, width), np.float32)
    scores[scores < 0.2] = np.nan
    reduction = Reduction.to(scores.shape, longest)
    assert max(reduction.cells) <= longest
    best = np.fmin if lower else np.fmax
    cells = np.full(reduction.cells, np.nan, np.float32)
    for window in write_windows(height, width, size):
        values = scores[window.row : window.row_stop, window.col : window.col_stop]
        rows, cols, found = most_anomalous(values, window, reduction.factor, lower=lower)
        cells[rows, cols] = best(cells[rows, cols], found)
    factor = reduction.factor
    naive = [
        [best.reduce(scores[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor], None) for x in range(w)]
        for h, w in [reduction.cells]
        for y in range(h)
    ]
    np.testing.assert_array_equal(cells, naive)


def test_sizes_keep_their_proportions() -> None:
    assert fitted((50, 100), 200) == (50, 100)
    assert fitted((1000, 3000), 300) == (100, 300)
    assert fitted((1, 100_000), 1024) == (1, 1024)


def test_reduced_reads_know_what_is_invalid(tmp_path: Path, make_scene: Make) -> None:
    values = np.full((2, 40, 60), 7, np.float32)
    values[1] = 9
    values[:, :20] = np.nan
    path = make_scene(tmp_path / "a.tif", values, nodata=np.nan)
    with open_raster(path) as dataset:
        chip = read_reduced(dataset, [2, 1], (4, 6))
        part = read_reduced(dataset, [1], (10, 10), Window(20, 5, 10, 10))
    assert chip.valid.tolist() == [[False] * 6] * 2 + [[True] * 6] * 2
    assert chip.pixels[:, 2:].tolist() == [[[9.0] * 6] * 2, [[7.0] * 6] * 2]
    assert part.valid.all()
    assert (part.pixels == 7).all()


@pytest.mark.parametrize(
    ("kinds", "shown"),
    [
        ([ColorInterp.blue, ColorInterp.green, ColorInterp.red], (3, 2, 1)),
        ([ColorInterp.gray] + [ColorInterp.undefined] * 4, (1, 2, 3)),
        ([ColorInterp.gray, ColorInterp.alpha], (1,)),
        ([ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha], (1, 2, 3)),
    ],
)
def test_bands_that_are_shown(tmp_path: Path, make_scene: Make, kinds: list[Any], shown: tuple[int, ...]) -> None:
    path = make_scene(tmp_path / "a.tif", np.ones((len(kinds), 4, 4), np.uint8))
    with open_raster(path, "r+") as dataset:
        dataset.colorinterp = kinds
    with open_raster(path) as dataset:
        assert shown_bands(dataset) == shown


def test_pictures_are_what_they_say(tmp_path: Path) -> None:
    pixels = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)
    (tmp_path / "a.png").write_bytes(png(pixels))
    (tmp_path / "a.jpg").write_bytes(jpeg(pixels[:3]))
    with open_raster(tmp_path / "a.png") as dataset:
        assert dataset.driver == "PNG"
        np.testing.assert_array_equal(dataset.read(), pixels)
    with open_raster(tmp_path / "a.jpg") as dataset:
        assert (dataset.driver, dataset.count, dataset.shape) == ("JPEG", 3, (5, 6))
    assert png(pixels) == png(pixels)


def test_stretching() -> None:
    bands = np.stack([np.linspace(0, 100, 101), np.linspace(0, 10, 101)])[:, None].astype(np.float32)
    valid = np.ones((1, 101), np.bool_)
    np.testing.assert_allclose(stretch_limits(bands, valid, alike=False), [(2, 98), (0.2, 9.8)], rtol=1e-6)
    together = stretch_limits(bands, valid, alike=True)
    assert together[0] == together[1]
    valid[0, 50] = False
    picture = stretched(bands[:1], valid, [(2.0, 98.0)])
    assert picture[:, 0, [0, 2, 98, 100]].tolist() == [[0, 0, 255, 255]] * 3
    assert 0 < picture[0, 0, 50] < 255
    assert stretch_limits(bands, np.zeros((1, 101), np.bool_), alike=True) == ((0.0, 1.0), (0.0, 1.0))
