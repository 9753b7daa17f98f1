"""Finding the blocks of a file that cannot be read, and reading around them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from asd_cli.errors import RasterError
from asd_cli.raster.findings import BadBlock, Findings, name_bands, overlap, place_of, without
from asd_cli.raster.gdal import gdal_reason
from asd_cli.raster.windows import Window

_TRIES = 3  # a read may fail once and then go well, over a network for one
_PROBE_PIXELS = 4_000_000
Pixels = tuple[NDArray[np.float32], NDArray[np.bool_]]


class BlockFile(Protocol):
    """A scene as this module needs it. A read that failed leaves a file in a state to be trusted no more."""

    path: str
    band_count: int
    block_bands: dict[tuple[int, int], tuple[int, ...]]
    """Bands that are read by (height, width) of their blocks."""
    atomic: bool
    """Whether a read fails wherever it touches a bad block, and not only at the bad pixels of it."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        ...

    def read_box(self, box: Window) -> Pixels:
        """Pixels and validity of a window inside the scene."""
        ...

    def probe(self, box: Window, bands: tuple[int, ...]) -> None:
        """Read these bands, with their masks, for nothing."""
        ...

    def reopen(self) -> None:
        """Open the file anew."""
        ...


def read_around(file: BlockFile, box: Window, findings: Findings) -> Pixels:
    """Pixels `(C, H, W)` and validity of a window inside the scene.

    What cannot be read is an error or, if `findings` masks or the map does not depend on it, invalid: whole blocks of
    the file, so that it does not depend on the windows in which the file is read.

    Raises:
        RasterError: it names file, bands and the damaged block.
    """
    if findings.mask and not file.atomic:
        _examine(file, box, findings, partial=True)
    failure: RasterioError | None = None
    for _ in range(_TRIES):
        try:
            return _assembled(file, box, findings.bad_in(box))
        except RasterioError as error:
            failure = error
            file.reopen()
            _examine(file, box, findings)
    bands = tuple(band for of in file.block_bands.values() for band in of)
    raise unreadable(file.path, BadBlock(*_of(box), bands, gdal_reason(failure) if failure else "")) from failure


def unreadable(path: str, block: BadBlock) -> RasterError:
    """What to say of a block that cannot be read."""
    missing = "No such file" in block.reason
    network = "HTTP" in block.reason or "CURL" in block.reason
    advice = "put the missing file back" if missing else "the file looks damaged, get it again"
    advice = "look at the network and try again" if network else advice
    what = name_bands(block.bands) if block.bands else "the mask"
    return RasterError(f"{path}: {what} cannot be read at {place_of(block.window)} ({block.reason}); {advice}")


def _assembled(file: BlockFile, box: Window, bad: list[Window]) -> Pixels:
    """The window, invalid where it is bad."""
    if not bad:
        return file.read_box(box)
    pixels = np.zeros((file.band_count, *box.shape), np.float32)
    valid = np.zeros(box.shape, np.bool_)
    for part in without(box, bad):
        place = np.s_[part.row - box.row : part.row_stop - box.row, part.col - box.col : part.col_stop - box.col]
        pixels[:, *place], valid[place] = file.read_box(part)
    return pixels, valid


def _examine(file: BlockFile, box: Window, findings: Findings, *, partial: bool = False) -> None:
    """Look for bad blocks that touch `box`, `partial`: only among those that reach beyond it."""
    for shape, bands in file.block_bands.items():
        for block in _blocks(box, shape, file.size):
            inside = overlap(block, box)
            if inside is None or (partial and inside == block) or findings.is_known(block):
                continue
            area = inside if file.atomic else block
            found = _bad_bands(file, without(area, findings.bad_in(area)), bands)
            if found is None:
                if not file.atomic:
                    findings.add_good(block)
                continue
            bad = BadBlock(*_of(block), *found)
            if not findings.mask and findings.concerns(block):
                raise unreadable(file.path, bad)
            findings.add_bad(bad)


def _bad_bands(file: BlockFile, parts: list[Window], bands: tuple[int, ...]) -> tuple[tuple[int, ...], str] | None:
    """Which bands cannot be read, and why; None if all can."""
    reason = _failure(file, parts, bands)
    if reason is None:
        return None
    reasons = {band: why for band in bands if (why := _failure(file, parts, (band,))) is not None}
    if not reasons:  # it went well the second time
        return None if _failure(file, parts, bands) is None else (bands, reason)
    return tuple(reasons), next(iter(reasons.values()))


def _failure(file: BlockFile, parts: list[Window], bands: tuple[int, ...]) -> str | None:
    """Why some part cannot be read; read in slices, as a block may be as large as the scene."""
    for part in parts:
        rows = max(1, _PROBE_PIXELS // (part.width * len(bands)))
        for row in range(part.row, part.row_stop, rows):
            try:
                file.probe(Window(row, part.col, min(rows, part.row_stop - row), part.width), bands)
            except RasterioError as error:
                file.reopen()
                return gdal_reason(error)
    return None


def _blocks(box: Window, shape: tuple[int, int], size: tuple[int, int]) -> Iterator[Window]:
    """Blocks that touch `box`, clipped to the scene."""
    height, width = shape
    for row in range(box.row // height * height, box.row_stop, height):
        for col in range(box.col // width * width, box.col_stop, width):
            yield Window(row, col, min(height, size[0] - row), min(width, size[1] - col))


def _of(window: Window) -> tuple[int, int, int, int]:
    return window.row, window.col, window.height, window.width
