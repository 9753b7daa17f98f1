"""Parts of a map on disk: finished windows, a file each, and a journal that vouches for them."""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from asd_cli.errors import OutputError
from asd_cli.raster.windows import Window
from asd_cli.staging import write_beside

_JOURNALS = "journal*.jsonl"
JOURNAL = "journal.jsonl"
_ENVI_HEADER = """ENVI
samples = {width}
lines = {height}
bands = {bands}
header offset = 0
file type = ENVI Standard
data type = 4
interleave = bsq
byte order = 0
"""


class Parts:
    """Finished windows of a map of K float32 bands in a folder: a file a window, little-endian, band after band.

    A part counts if a line of a journal names it and its file has the checksum that the line tells. The file is there
    before the line, so a process may end at any moment. Several processes may add to a folder, each to a `journal` of
    its own; within one, any number of threads read while one adds. `target` is the name for messages.
    """

    def __init__(self, folder: Path, bands: int, *, target: Path, journal: str = JOURNAL) -> None:
        self.folder, self._bands, self._target = folder, bands, target
        self._path = folder / journal
        self._journal: IO[bytes] | None = None
        self._checksums: dict[Window, int | None] = {}  # None: no valid pixel, and no file
        self.load()

    def load(self) -> None:
        """Read the journals; lines that are torn or not understood vouch for nothing.

        Raises:
            OutputError: a journal cannot be read.
        """
        found: dict[Window, int | None] = {}
        with _guard(self._target):
            for path in sorted(self.folder.glob(_JOURNALS)):
                found.update(_entries(path))
        self._checksums = found

    def __contains__(self, window: Window) -> bool:
        return window in self._checksums

    def __len__(self) -> int:
        return len(self._checksums)

    def read(self, window: Window) -> NDArray[np.float32] | None:
        """(K, h, w) of a part; None if it is not finished, or damaged and to be made again."""
        if window not in self._checksums:
            return None
        checksum = self._checksums[window]
        shape = (self._bands, *window.shape)
        if checksum is None:
            return np.full(shape, np.nan, np.float32)
        try:
            values = np.fromfile(self._file(window), np.dtype("<f4"))
        except OSError:
            values = np.zeros(0, np.float32)
        if values.size != math.prod(shape) or zlib.crc32(values.data) != checksum:
            del self._checksums[window]
            return None
        return values.reshape(shape).astype(np.float32, copy=False)

    def add(self, window: Window, values: NDArray[np.float32]) -> None:
        """Keep (K, h, w) of a window; when this returns, it is on the disk.

        Raises:
            OutputError: the disk is full or failing.
        """
        checksum = None
        with _guard(self._target):
            if not np.isnan(values).all():
                temporary, checksum = _written(self._file(window), values)
                try:
                    temporary.replace(self._file(window))
                except BaseException:
                    with suppress(OSError):
                        temporary.unlink()
                    raise
            self._finished(window, checksum)

    def adopt(self, window: Window, name: str | None, checksum: int | None) -> bool:
        """Make a part what `write_apart` gave of a window, perhaps on another machine; when this returns, it is on the
        disk. False: the file is not seen here as it was written.

        Raises:
            OutputError: the disk is full or failing.
        """
        with _guard(self._target):
            if name is not None:
                try:
                    values = (self.folder / name).read_bytes()
                except FileNotFoundError:
                    return False
                if zlib.crc32(values) != checksum:
                    return False
                (self.folder / name).replace(self._file(window))
            self._finished(window, checksum)
        return True

    def _finished(self, window: Window, checksum: int | None) -> None:
        entry = {"row": window.row, "col": window.col, "height": window.height, "width": window.width}
        self._note({**entry, "crc": checksum})
        self._checksums[window] = checksum

    def _file(self, window: Window) -> Path:
        return _path(self.folder, window)

    def _note(self, entry: dict[str, int | None]) -> None:
        if self._journal is None:
            self._journal = _opened_at_a_line(self._path)
        self._journal.write(json.dumps(entry).encode() + b"\n")
        os.fsync(self._journal.fileno())

    def add_sources(self, band: ElementTree.Element, number: int) -> None:
        """Make the finished parts the sources of band `number` of a VRT that will lie in the folder."""
        for window, checksum in sorted(self._checksums.items(), key=lambda entry: (entry[0].row, entry[0].col)):
            if checksum is None:
                continue
            path, size = self._file(window), (window.width, window.height)
            path.with_suffix(".hdr").write_text(
                _ENVI_HEADER.format(width=window.width, height=window.height, bands=self._bands)
            )
            source = ElementTree.SubElement(band, "SimpleSource")
            ElementTree.SubElement(source, "SourceFilename", relativeToVRT="1").text = path.name
            ElementTree.SubElement(source, "SourceBand").text = str(number)
            sizes = _attributes(("RasterXSize", "RasterYSize", "BlockXSize", "BlockYSize"), (*size, window.width, 1))
            ElementTree.SubElement(source, "SourceProperties", sizes | {"DataType": "Float32"})
            names = ("xOff", "yOff", "xSize", "ySize")
            ElementTree.SubElement(source, "SrcRect", _attributes(names, (0, 0, *size)))
            ElementTree.SubElement(source, "DstRect", _attributes(names, (window.col, window.row, *size)))

    def close(self) -> None:
        """Close the journal."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def __enter__(self) -> Parts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_apart(
    folder: Path, window: Window, values: NDArray[np.float32], *, target: Path
) -> tuple[str | None, int | None]:
    """Write (K, h, w) of a window into a folder of parts that another process keeps, for it to `Parts.adopt`: name of
    the file and its checksum, None without a valid pixel.

    Raises:
        OutputError: the disk is full or failing.
    """
    if np.isnan(values).all():
        return None, None
    with _guard(target):
        path, checksum = _written(_path(folder, window), values)
    return path.name, checksum


def _path(folder: Path, window: Window) -> Path:
    return folder / f"r{window.row:07d}c{window.col:07d}.f32"


def _written(path: Path, values: NDArray[np.float32]) -> tuple[Path, int]:
    """Write values beside a path, to the disk: the temporary file and its checksum."""
    data = np.ascontiguousarray(values, "<f4").data
    return write_beside(path, data), zlib.crc32(data)


def unwritable(target: Path, reason: str) -> OutputError:
    """One line about a failed write."""
    return OutputError(
        f"{target}: cannot be written ({reason}); check the free space and the permissions of {target.parent}"
    )


@contextmanager
def _guard(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unwritable(target, error.strerror or str(error)) from error


def _entries(path: Path) -> Iterator[tuple[Window, int | None]]:
    for line in path.read_bytes().split(b"\n")[:-1]:  # after the last line end nothing, or what is torn
        try:
            entry = json.loads(line)
            window = Window(*(int(entry[name]) for name in ("row", "col", "height", "width")))
            yield window, None if entry["crc"] is None else int(entry["crc"])
        except (ValueError, KeyError, TypeError):
            continue


def _opened_at_a_line(path: Path) -> IO[bytes]:
    """The file open for appending, without the torn line that a process may have left at its end."""
    if path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
    return path.open("ab", buffering=0)


def _attributes(names: tuple[str, ...], values: tuple[int, ...]) -> dict[str, str]:
    return {name: str(value) for name, value in zip(names, values, strict=True)}
