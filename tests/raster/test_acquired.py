from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asd_cli.raster.acquired import Moment, acquired, parse_time
from asd_cli.raster.gdal import open_raster


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2023:07:05 10:20:31", "2023-07-05T10:20:31+00:00"),
        ("2023-07-05T10:20:31.024Z", "2023-07-05T10:20:31+00:00"),
        (" 2023-07-05 ", "2023-07-05T00:00:00+00:00"),
        ("2023-07-05 10:20+0530", "2023-07-05T10:20:00+05:30"),
        ("2023-07-05T10:20:31-02:00", "2023-07-05T10:20:31-02:00"),
        ("0000:00:00 00:00:00", None),
        ("2023-13-05", None),
        ("2023-07-05 10:20:31+99:00", None),
        ("last summer", None),
        ("", None),
    ],
)
def test_times(text: str, expected: str | None) -> None:
    moment = parse_time(text)
    assert (None if moment is None else moment.isoformat()) == expected


def test_the_acquisition_comes_before_the_file_and_the_file_before_its_modification(
    tmp_path: Path, make_scene: Callable[..., Path]
) -> None:
    path = make_scene(tmp_path / "a.tif", np.ones((1, 4, 4), np.uint8))

    def found() -> Moment | None:
        os.utime(path, (1_700_000_000, 1_700_000_000))
        with open_raster(path) as dataset:
            return acquired(dataset, str(path))

    assert found() == Moment("2023-11-14T22:13:20Z", "file modification time")
    with open_raster(path, "r+") as dataset:
        dataset.update_tags(TIFFTAG_DATETIME="2022:02:03 04:05:06")
    assert found() == Moment("2022-02-03T04:05:06Z", "TIFFTAG_DATETIME")
    with open_raster(path, "r+") as dataset:
        dataset.update_tags(ns="IMAGERY", ACQUISITIONDATETIME="2021-01-02T03:04:05+01:00")
    assert found() == Moment("2021-01-02T02:04:05Z", "ACQUISITIONDATETIME")
    other = make_scene(tmp_path / "b.tif", np.ones((1, 4, 4), np.uint8))
    with open_raster(other) as dataset:
        assert acquired(dataset, "/vsicurl/https://x.org/b.tif") is None
