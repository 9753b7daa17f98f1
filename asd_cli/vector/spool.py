"""Finished polygons on disk: memory holds some numbers of each, whatever the scene."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from asd_cli.errors import OutputError

Column = NDArray[Any]
Geometries = NDArray[np.object_]


class PolygonSpool:
    """Polygons with their columns, added in any order and read back in batches sorted by `first`.

    Shapes lie in an unnamed temporary file (WKB), about a hundred bytes of numbers a polygon in memory.

    Args:
        folder: where the file is made; None takes the system's folder for temporary files.

    Raises:
        OutputError: the folder cannot be written to or is full; `add` and `batches` raise it, too.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        with self._guard():
            self._file = tempfile.TemporaryFile(prefix=".asd_polygons_", dir=folder)  # noqa: SIM115 - see `close`
        self.close = weakref.finalize(self, self._file.close)
        self._end = 0
        self._parts: list[dict[str, Column]] = []

    def add(self, first: NDArray[np.int64], columns: Mapping[str, Column], shapes: Geometries) -> None:
        """Take polygons (n,), each with its unique sorting key and its columns (n,)."""
        texts = shapely.to_wkb(shapes)
        sizes = np.array([len(text) for text in texts], np.int64)
        starts = self._end + np.cumsum(sizes) - sizes
        with self._guard():
            self._file.seek(self._end)
            self._file.write(b"".join(texts))
            self._file.flush()
        self._end += int(sizes.sum())
        self._parts.append({"_first": first, "_start": starts, "_size": sizes, **columns})

    def batches(self, empty: Mapping[str, Column], size: int) -> Iterator[tuple[dict[str, Column], Geometries]]:
        """Columns and shapes of at most `size` polygons at a time, at least once; `empty` holds columns of length 0."""
        service = {name: np.zeros(0, np.int64) for name in ("_first", "_start", "_size")}
        names = [*service, *empty]
        parts = [{**service, **empty}, *self._parts]
        table = {name: np.concatenate([part[name] for part in parts]) for name in names}
        order = np.argsort(table["_first"])
        for begin in range(0, max(len(order), 1), size):
            chosen = order[begin : begin + size]
            shapes = self._read(table["_start"][chosen], table["_size"][chosen])
            yield {name: table[name][chosen] for name in empty}, shapes

    def _read(self, starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> Geometries:
        texts = np.empty(len(starts), np.object_)
        with self._guard():
            for place, (start, size) in enumerate(zip(starts.tolist(), sizes.tolist(), strict=True)):
                self._file.seek(start)
                texts[place] = self._file.read(size)
        shapes: Geometries = shapely.from_wkb(texts)
        return shapes

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            place = self._folder or tempfile.gettempdir()
            raise OutputError(
                f"{place}: finished polygons cannot be kept there until the end ({error.strerror}); "
                "free some space, or write no polygons (--no-polygons)"
            ) from error

    def __enter__(self) -> PolygonSpool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
