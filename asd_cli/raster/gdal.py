"""How `asd` talks to GDAL, from several threads."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import rasterio
import rasterio.windows
from rasterio._env import del_gdal_config  # it has no public name
from rasterio.env import get_gdal_config, set_gdal_config
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from asd_cli.errors import RasterError
from asd_cli.raster.windows import Window

_OURS = logging.getLogger("asd_cli")
GDAL_CACHE_BYTES = 128 * 1024 * 1024


_HTTP = {"GDAL_HTTP_MAX_RETRY": "5", "GDAL_HTTP_RETRY_DELAY": "0.5"}
"""What `/vsicurl/` and the like do after 429 and 5xx where the user's environment says nothing; delays double."""


@contextmanager
def gdal_session(cache: int = GDAL_CACHE_BYTES, *, hear: Callable[[str], None] | None = None) -> Iterator[None]:
    """Work with GDAL: block cache of `cache` bytes (as the outermost session says), this thread's GDAL log lines
    dropped (failures still raise) but for warnings, which `hear` is told."""
    for name in ("rasterio._env", "rasterio._err"):
        logging.getLogger(name).addFilter(_not_in_session)  # added once only
    _silence_libtiff()
    before = getattr(_this_thread, "hear", None)
    _this_thread.hear = hear or before
    _this_thread.sessions = getattr(_this_thread, "sessions", 0) + 1
    try:
        with rasterio.Env(), _CACHE.of(cache):
            yield
    finally:
        _this_thread.sessions -= 1
        _this_thread.hear = before


_this_thread = threading.local()


@functools.cache
def _silence_libtiff() -> None:
    """Keep libtiff, as rasterio's wheels bring it, from writing to standard error what GDAL raises anyway, such as a
    full disk."""
    package = Path(rasterio.__file__).parent
    for path in (*package.parent.glob("rasterio.libs/libtiff*"), *package.glob(".dylibs/libtiff*")):
        with suppress(OSError, AttributeError):
            handler = ctypes.CDLL(str(path)).TIFFSetErrorHandler
            handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            handler(None)


def _not_in_session(record: logging.LogRecord) -> bool:
    """Log filter; it runs in the thread that logs. Who asked for our debug lines hears GDAL, too."""
    if not getattr(_this_thread, "sessions", 0):
        return True
    if record.levelno == logging.WARNING and _this_thread.hear is not None:
        text = re.sub(r"^CPLE_\w+(:| in )\s*", "", record.getMessage())
        _this_thread.hear(" ".join(text.split()).rstrip("."))
    return _OURS.level == logging.DEBUG


class _SharedCache:
    """GDAL's block cache, one for all threads: of a fixed size from the first session to the last, then as before.

    An option of `rasterio.Env` is put back by each thread for itself, and so under the others' feet.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions = 0
        self._before: Any = None
        self._added: list[str] = []

    @contextmanager
    def of(self, size: int) -> Iterator[None]:
        """A session; `size` in bytes counts for the first only."""
        with self._lock:
            if self._sessions == 0:
                self._before = get_gdal_config("GDAL_CACHEMAX")
                set_gdal_config("GDAL_CACHEMAX", size)
                set_gdal_config("CPL_LOG", os.devnull)  # where GDAL's own threads would else write to standard error
                self._added = [name for name in _HTTP if get_gdal_config(name) is None]  # the environment counts
                for name in self._added:
                    set_gdal_config(name, _HTTP[name])
            self._sessions += 1
        try:
            yield
        finally:
            with self._lock:
                self._sessions -= 1
                if self._sessions == 0:
                    set_gdal_config("GDAL_CACHEMAX", self._before)
                    for name in self._added:
                        del_gdal_config(name)


_CACHE = _SharedCache()


def open_raster(path: str | Path, mode: str = "r", **options: Any) -> Any:
    """`rasterio.open` without the warning about rasters that have no georeference; a file comes before what GDAL reads
    into its name, such as ``http:x.tif``."""
    if ":" in str(path) and os.path.exists(path):  # noqa: PTH110 - unlike Path it copes with names that are too long
        path = os.path.join(".", path)  # noqa: PTH118 - Path would drop the dot
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
