"""How `asd` talks to GDAL, from several threads."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rasterio
import rasterio.windows
from rasterio.env import get_gdal_config, set_gdal_config
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from asd_cli.errors import RasterError
from asd_cli.raster.windows import Window

GDAL_CACHE_BYTES = 128 * 1024 * 1024


@contextmanager
def gdal_session(cache: int = GDAL_CACHE_BYTES) -> Iterator[None]:
    """Work with GDAL: block cache of `cache` bytes (as the outermost session says), this thread's GDAL log lines
    dropped (failures still raise)."""
    logging.getLogger("rasterio._env").addFilter(_not_in_session)  # added once only
    _this_thread.sessions = getattr(_this_thread, "sessions", 0) + 1
    try:
        with rasterio.Env(), _CACHE.of(cache):
            yield
    finally:
        _this_thread.sessions -= 1


_this_thread = threading.local()


def _not_in_session(record: logging.LogRecord) -> bool:
    """Log filter; it runs in the thread that logs."""
    return not getattr(_this_thread, "sessions", 0)


class _SharedCache:
    """GDAL's block cache, one for all threads: of a fixed size from the first session to the last, then as before.

    An option of `rasterio.Env` is put back by each thread for itself, and so under the others' feet.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions = 0
        self._before: Any = None

    @contextmanager
    def of(self, size: int) -> Iterator[None]:
        """A session; `size` in bytes counts for the first only."""
        with self._lock:
            if self._sessions == 0:
                self._before = get_gdal_config("GDAL_CACHEMAX")
                set_gdal_config("GDAL_CACHEMAX", size)
                set_gdal_config("CPL_LOG", os.devnull)  # where GDAL's own threads would else write to standard error
            self._sessions += 1
        try:
            yield
        finally:
            with self._lock:
                self._sessions -= 1
                if self._sessions == 0:
                    set_gdal_config("GDAL_CACHEMAX", self._before)


_CACHE = _SharedCache()


def open_raster(path: str | Path, mode: str = "r", **options: Any) -> Any:
    """`rasterio.open` without the warning about rasters that have no georeference."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, mode, **options)


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """A session in which failures of GDAL become `RasterError` about `path`."""
    try:
        with gdal_session():
            yield
    except RasterioError as error:
        raise RasterError(
            f"{path}: cannot be read ({gdal_reason(error)}); the file looks damaged, get it again"
        ) from error


def gdal_reason(error: BaseException) -> str:
    """What GDAL said, in one line: the innermost cause of `error`."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(getattr(error, "errmsg", error)).split()).rstrip(".")


def to_rasterio(window: Window) -> Any:
    """The window in rasterio's own type."""
    return rasterio.windows.Window(window.col, window.row, window.width, window.height)
