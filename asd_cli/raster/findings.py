"""What comes to light about a scene while it is read: GDAL's warnings, and blocks that cannot be read."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePath
from typing import Any

from asd_cli.errors import RasterError
from asd_cli.raster.windows import Window

_log = logging.getLogger(__name__)
_MOST_WARNINGS = 5  # of GDAL's, a scene
_LISTED, _SHOWN, _IN_TAGS = 1000, 3, 8  # blocks in the JSON report, in the warning, in the tags


@dataclass(frozen=True, order=True)
class BadBlock:
    """Pixels of a scene that cannot be read, and in which bands."""

    row: int
    col: int
    height: int
    width: int
    bands: tuple[int, ...]
    reason: str = ""

    @property
    def window(self) -> Window:
        """Where it lies."""
        return Window(self.row, self.col, self.height, self.width)

    def place(self) -> str:
        """`cols 0-255, rows 512-767 of bands 1, 2`."""
        return f"{place_of(self.window)} of {name_bands(self.bands)}"

    def as_json(self) -> dict[str, Any]:
        """All but what GDAL said, which differs from run to run."""
        return {
            "col": self.col,
            "row": self.row,
            "width": self.width,
            "height": self.height,
            "bands": list(self.bands),
        }


class Findings:
    """What all readers of one scene share; threads may use it at once.

    Args:
        path: the scene, as messages call it.
        mask: whether what cannot be read counts as nodata; else it is an error.
        tell: whether GDAL's warnings are passed on to our log, each once and no more than five.
    """

    def __init__(self, path: str = "", *, mask: bool = False, tell: bool = False) -> None:
        self.path, self.mask = path, mask
        self.hear = self._warn if tell else None
        self._lock = threading.RLock()
        self._told: set[str] = set()
        self._checked = False
        self._bad: dict[Window, BadBlock] = {}
        self._good: set[Window] = set()
        self._concerns: Callable[[Window], bool] | None = None
        self._judged: dict[Window, bool] = {}

    def _warn(self, text: str) -> None:
        text = text.removeprefix(f"{PurePath(self.path).name}: ")
        with self._lock:
            if text in self._told or len(self._told) > _MOST_WARNINGS:
                return
            self._told.add(text)
            count = len(self._told)
        _log.warning("%s: %s", self.path, text if count <= _MOST_WARNINGS else "GDAL has more to warn of; see gdalinfo")

    def check_once(self, check: Callable[[], None]) -> None:
        """Call `check` unless a call has gone well before; one thread at a time."""
        with self._lock:
            if not self._checked:
                check()
                self._checked = True

    def limit(self, concerns: Callable[[Window], bool]) -> None:
        """Tell which blocks the map depends on; others that are bad are no error and are not listed, as whether they
        are read at all depends on the windows. To be called before the first read."""
        with self._lock:
            self._concerns = concerns

    def concerns(self, block: Window) -> bool:
        """Whether the map depends on a block."""
        with self._lock:
            if self._concerns is None:
                return True
            if block not in self._judged:
                self._judged[block] = self._concerns(block)
            return self._judged[block]

    def add_bad(self, block: BadBlock) -> None:
        """Remember a block that cannot be read."""
        with self._lock:
            before = self._bad.get(block.window)
            bands = tuple(sorted({*block.bands, *(before.bands if before else ())}))
            self._bad[block.window] = BadBlock(*_of(block.window), bands, block.reason)

    def add_good(self, block: Window) -> None:
        """Remember a block that can be read."""
        with self._lock:
            self._good.add(block)

    def is_known(self, block: Window) -> bool:
        """Whether the block was found good or bad before."""
        with self._lock:
            return block in self._good or block in self._bad

    def bad_in(self, box: Window) -> list[Window]:
        """Bad blocks that overlap `box`."""
        with self._lock:
            return [window for window in self._bad if overlap(window, box) is not None]

    def bad_blocks(self) -> list[BadBlock]:
        """All bad blocks that the map depends on, from the top."""
        with self._lock:
            return sorted(block for block in self._bad.values() if self.concerns(block.window))

    def as_json(self) -> list[dict[str, Any]]:
        """The first 1000 bad blocks."""
        return [block.as_json() for block in self.bad_blocks()[:_LISTED]]

    def tags(self) -> dict[str, str]:
        """Tag ASD_BAD_BLOCKS of a map: count and first places; none without bad blocks."""
        blocks = self.bad_blocks()
        if not blocks:
            return {}
        return {"ASD_BAD_BLOCKS": f"{len(blocks)}: {_listing(blocks, _IN_TAGS)}"}

    def conclude(self, valid_pixels: int) -> None:
        """Warn of the blocks that were masked, once all is read.

        Raises:
            RasterError: they have left no valid pixel.
        """
        blocks = self.bad_blocks()
        if not blocks:
            return
        are = "block cannot be read and counts" if len(blocks) == 1 else "blocks cannot be read and count"
        if not valid_pixels:
            raise RasterError(
                f"{self.path}: {len(blocks)} {are} as nodata, which leaves no pixel ({blocks[0].reason}); get it again"
            )
        _log.warning("%s: %d %s as nodata: %s", self.path, len(blocks), are, _listing(blocks, _SHOWN))


class FindingsOfAll:
    """`Findings` of each scene of a batch, GDAL's warnings told; threads may use it at once."""

    def __init__(self, *, mask: bool = False) -> None:
        self._mask = mask
        self._lock = threading.Lock()
        self._by_path: dict[str, Findings] = {}

    def of(self, path: str) -> Findings:
        """Those of a scene, the same at every call."""
        with self._lock:
            return self._by_path.setdefault(path, Findings(path, mask=self._mask, tell=True))


def place_of(window: Window) -> str:
    """`cols 0-255, rows 512-767`."""
    return f"cols {window.col}-{window.col_stop - 1}, rows {window.row}-{window.row_stop - 1}"


def name_bands(bands: Sequence[int]) -> str:
    """`band 3` or `bands 1, 2, 3`."""
    return f"band{'s' if len(bands) > 1 else ''} {', '.join(map(str, bands))}"


def overlap(one: Window, other: Window) -> Window | None:
    """Pixels that lie in both."""
    row, col = max(one.row, other.row), max(one.col, other.col)
    height, width = min(one.row_stop, other.row_stop) - row, min(one.col_stop, other.col_stop) - col
    return Window(row, col, height, width) if height > 0 and width > 0 else None


def without(box: Window, holes: Sequence[Window]) -> list[Window]:
    """Rectangles that make up `box` without `holes`, each pixel once."""
    inside = [hole for window in holes if (hole := overlap(window, box)) is not None]
    edges = sorted({box.row, box.row_stop, *(h.row for h in inside), *(h.row_stop for h in inside)})
    parts: list[Window] = []
    for top, bottom in pairwise(edges):
        col = box.col
        for hole in sorted((h for h in inside if h.row <= top < h.row_stop), key=lambda h: h.col):
            if hole.col > col:
                parts.append(Window(top, col, bottom - top, hole.col - col))
            col = max(col, hole.col_stop)
        if col < box.col_stop:
            parts.append(Window(top, col, bottom - top, box.col_stop - col))
    return parts


def _of(window: Window) -> tuple[int, int, int, int]:
    return window.row, window.col, window.height, window.width


def _listing(blocks: Sequence[BadBlock], most: int) -> str:
    shown = "; ".join(block.place() for block in blocks[:most])
    return shown if len(blocks) <= most else f"{shown}; and {len(blocks) - most} more"
