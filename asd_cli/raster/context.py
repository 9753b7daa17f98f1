"""Reading a window with the context that its scores need: halo, mirrored scene edges, filled holes."""

from __future__ import annotations

from typing import Protocol

from asd_cli.raster.fill import fill_invalid, fill_margin
from asd_cli.raster.scene import Chip
from asd_cli.raster.windows import Window


class ChipReader(Protocol):
    """What can read chips: a scene or a tile."""

    @property
    def may_have_invalid(self) -> bool:
        """False only when every pixel is certainly valid."""
        ...

    def read(self, window: Window) -> Chip:
        """Pixels of a window that may reach over the edges."""
        ...


def read_margin(halo: int, *, holes: bool) -> int:
    """Pixels on each side of a window that `read_with_halo` reads: the halo, and more where pixels may be invalid."""
    return halo + fill_margin(halo) if holes else halo


def read_with_halo(reader: ChipReader, window: Window, halo: int) -> Chip:
    """Chip of the window grown by `halo` px on each side; invalid pixels near valid ones hold mirrored neighbours.

    Valid are then those pixels alone whose scores are wanted.

    The fill of a pixel depends on pixels up to twice the halo away, so that much more is read: the result is the same
    however the scene is cut into windows.
    """
    around = read_margin(halo, holes=reader.may_have_invalid)
    chip = reader.read(window.expand(around))
    margin = around - halo
    filled = fill_invalid(chip, halo) if margin else chip
    valid = filled.valid if chip.wanted is None else filled.valid & chip.wanted
    if not margin:
        return Chip(filled.pixels, valid)
    height, width = (n - margin for n in valid.shape)
    return Chip(filled.pixels[:, margin:height, margin:width], valid[margin:height, margin:width])
