from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rasterio.env import get_gdal_config, hasenv

from asd_cli.raster.gdal import GDAL_CACHE_BYTES, gdal_session, open_raster


def cache_bytes() -> int:
    return int(get_gdal_config("GDAL_CACHEMAX"))


def test_the_cache_is_of_one_size_while_any_thread_works() -> None:
    before = cache_bytes()
    assert before != GDAL_CACHE_BYTES
    first_in, second_out, sizes = threading.Event(), threading.Event(), []

    def first() -> None:
        with gdal_session():
            first_in.set()
            second_out.wait(10)
            sizes.append(cache_bytes())

    def second() -> None:
        first_in.wait(10)
        with gdal_session(), gdal_session():
            sizes.append(cache_bytes())
        second_out.set()

    def short() -> None:
        for _ in range(50):
            with gdal_session():
                sizes.append(cache_bytes())

    threads = [threading.Thread(target=target) for target in (first, second, short, short)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(sizes) == {GDAL_CACHE_BYTES}
    assert len(sizes) == 102
    assert cache_bytes() == before
    assert not hasenv()


def leave_by_error() -> None:
    with gdal_session():
        raise ZeroDivisionError


def test_an_error_leaves_everything_as_before() -> None:
    before = cache_bytes()
    with pytest.raises(ZeroDivisionError):
        leave_by_error()
    assert (cache_bytes(), hasenv()) == (before, False)


def test_only_the_threads_own_messages_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("rasterio._env")

    def elsewhere() -> None:
        log.error("from elsewhere")

    with caplog.at_level(logging.ERROR):
        with gdal_session():
            log.error("from here")
            with gdal_session():
                log.error("from deeper")
            log.error("from here again")
            other = threading.Thread(target=elsewhere)
            other.start()
            other.join()
        log.error("after")
    assert caplog.messages == ["from elsewhere", "after"]


def test_a_reader_and_a_writer_at_once(make_raster: Callable[..., Path], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    values = random.integers(0, 255, (1, 600, 700), dtype=np.uint8)
    source, target = make_raster(values, tiled=True), tmp_path / "copy.tif"
    options = {"driver": "GTiff", "width": 700, "height": 600, "count": 1, "dtype": "uint8", "crs": "EPSG:32630"}
    read: list[bool] = []

    def read_all() -> None:
        for _ in range(20):
            with gdal_session(), open_raster(source) as dataset:
                read.append(np.array_equal(dataset.read(), values))

    reader = threading.Thread(target=read_all)
    with gdal_session(), open_raster(target, "w", **options) as dataset:
        reader.start()
        for _ in range(20):
            dataset.write(values)
        reader.join()
    assert read == [True] * 20
    with open_raster(target) as dataset:
        np.testing.assert_array_equal(dataset.read(), values)
