"""Polygons that mark pixels of a scene: clouds to leave out, an area of interest."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas
import pyogrio
from numpy.typing import NDArray
from pyproj.exceptions import ProjError
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform_bounds

from asd_cli.errors import InputError, one_line
from asd_cli.raster.grid import Grid
from asd_cli.raster.windows import Window
from asd_cli.vector.label_polygons import (
    TURNS,
    Box,
    LabelPolygons,
    PolygonReader,
    clean_polygons,
    grid_bounds,
    read_frame,
    without_warnings,
)

_SPARE = 0.01  # of the box that is read, because its reprojected edges are not quite straight

_log = logging.getLogger(__name__)


class PolygonMarks:
    """Pixels of one grid whose centre lies in a polygon; see `raster.masks.MarkReader`. Threads may share it.

    Memory: the polygons within the scene.
    """

    def __init__(self, path: str, grid: Grid, scene: str) -> None:
        """Read the polygons of a file (``FILE`` or ``FILE|layername=NAME``, any CRS) that touch the scene of this grid.

        Raises:
            InputError: the file cannot be read, holds features but no polygons, or the scene has no georeference.
        """
        if grid.transform.is_identity:
            raise InputError(
                f"{path}: polygons cannot be placed on {scene}, which has no georeference; "
                "give a mask raster of its size"
            )
        self.path, self.files = path, (path.partition("|layername=")[0],)
        frame = _read(path, grid)
        if frame.crs is None and grid.crs is not None:
            _log.warning("%s: has no CRS; its coordinates are taken as those of %s", path, scene)
        self._reader: PolygonReader | None = None
        if len(frame):
            names = ["marked"] * len(frame)
            geometry, kept = clean_polygons(frame, names, path)
            self._reader = LabelPolygons(path, geometry, names[: sum(kept)]).on_grid(grid, scene)
            self._reader.read(Window(0, 0, 1, 1))  # the index is built at its first use, which threads must not share
        _log.debug("%s: %d features within %s", path, len(frame), scene)

    @property
    def empty(self) -> bool:
        """Whether no polygon is near the scene."""
        return self._reader is None

    def read(self, window: Window) -> NDArray[np.bool_]:
        """(height, width) bool of a window within the grid."""
        if self._reader is None:
            return np.zeros(window.shape, np.bool_)
        return np.asarray(self._reader.read(window) != 0)

    def close(self) -> None:
        """Nothing to close: the polygons are in memory."""


def _read(path: str, grid: Grid) -> Any:
    """The features of a file that are near the grid, of formats that allow it; longitudes of another turn count."""
    file, _, layer = path.partition("|layername=")
    try:
        with without_warnings():
            info = pyogrio.read_info(file, layer=layer or None, force_total_bounds=True)
    except Exception:  # formats that are read otherwise, and files that cannot be: reading says why
        return read_frame(path)
    box, all_of_it = _box(path, info["crs"], grid), info["total_bounds"]
    if box is None or all_of_it is None:
        return read_frame(path, box)
    crs = grid.crs if info["crs"] is None else CRS.from_user_input(info["crs"])
    turns = TURNS if crs is not None and crs.is_geographic else (0.0,)
    boxes = [(box[0] + turn, box[1], box[2] + turn, box[3]) for turn in turns]
    near = [one for one in boxes if one[0] <= all_of_it[2] and one[2] >= all_of_it[0]]
    frames = [read_frame(path, one) for one in near or [box]]
    return pandas.concat([frame for frame in frames if len(frame)] or frames[:1])


def _box(path: str, crs: str | None, grid: Grid) -> Box | None:
    """Bounds of the grid in a CRS; None: they are all of it, or have a gap."""
    bounds = grid_bounds(grid)
    if crs is not None and grid.crs is not None:
        try:
            bounds = transform_bounds(grid.crs, crs, *bounds)
        except (CRSError, ProjError) as error:
            raise InputError(f"{path}: its CRS does not reach the scene ({one_line(error)}); reproject it") from error
    left, bottom, right, top = bounds
    if not (np.isfinite(bounds).all() and left <= right and bottom <= top):  # across the date line
        return None
    x, y = _SPARE * (right - left), _SPARE * (top - bottom)
    return left - x, bottom - y, right + x, top + y
