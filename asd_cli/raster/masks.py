"""Pixels that a user leaves out (clouds) or asks for (an area of interest), beside what a scene itself calls valid."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import product
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import CRSError, RasterioError
from rasterio.vrt import WarpedVRT

from asd_cli.errors import RasterError
from asd_cli.raster.gdal import gdal_reason, gdal_session, open_raster, to_rasterio
from asd_cli.raster.grid import Grid
from asd_cli.raster.scene import Chip, Scene
from asd_cli.raster.windows import Window, reflected_indices, round_up

_MOST_PIXELS = 4_000_000  # looked at in one piece
_BLOCK = 512  # warped in pieces aligned to the scene, so that every window gets the same pixels
Marks = NDArray[np.bool_]


class MarkReader(Protocol):
    """Marked pixels of one grid; used by one thread at a time."""

    def read(self, window: Window) -> Marks:
        """(height, width) bool of a window within the grid."""
        ...

    def close(self) -> None:
        """Let go of open files."""
        ...


class RasterMarks:
    """Pixels of a raster that are neither 0 nor nodata, NaN or masked, on the grid of a scene.

    A raster on the same grid is read as it is, one elsewhere is warped to it (nearest neighbour); beyond its extent
    nothing is marked.
    """

    def __init__(self, path: str, grid: Grid, scene: str) -> None:
        """Open `path` for the scene called `scene` that has this grid.

        Raises:
            RasterError: not a raster of one band, or it cannot be placed on the grid.
        """
        self.path = path
        self._grid = grid
        with gdal_session():
            try:
                self._dataset = open_raster(path)
            except (RasterioError, ValueError) as error:
                raise RasterError(
                    f"{path}: cannot be opened as a raster mask ({gdal_reason(error)}); polygons are .gpkg, .geojson, "
                    ".shp, .fgb or .parquet"
                ) from error
            try:
                self._band = _only_band(self._dataset, path)
                self.files = tuple(self._dataset.files)
                self._warped = self._placed(grid, scene)
            except BaseException:
                self._dataset.close()
                raise

    def _placed(self, grid: Grid, scene: str) -> Any:
        """The dataset warped to the grid; None where it lies on it already."""
        own = Grid.from_dataset(self._dataset)
        placed = [g.crs is not None and not g.transform.is_identity for g in (own, grid)]
        if own.same_as(grid) or (own.shape == grid.shape and not all(placed)):
            return None
        if not all(placed):
            raise RasterError(
                f"{self.path}: is {own.width} x {own.height} px, {scene} {grid.width} x {grid.height} px, and without "
                "a georeference of both it cannot be placed; give a mask of the scene's size"
            )
        try:
            return WarpedVRT(
                self._dataset,
                crs=grid.crs,
                transform=grid.transform,
                width=grid.width,
                height=grid.height,
                resampling=Resampling.nearest,
                add_alpha=self._dataset.nodata is None and self._dataset.count == 1,  # a mask band comes through it
            )
        except (RasterioError, CRSError) as error:
            raise RasterError(
                f"{self.path}: cannot be warped to the grid of {scene} ({gdal_reason(error)}); "
                "resample it first (gdalwarp)"
            ) from error

    def read(self, window: Window) -> Marks:
        """See `MarkReader`.

        Raises:
            RasterError: the file is damaged there.
        """
        try:
            with gdal_session():
                return self._marks(self._dataset, window) if self._warped is None else self._warped_marks(window)
        except RasterioError as error:
            raise RasterError(
                f"{self.path}: cannot be read ({gdal_reason(error)}); the mask looks damaged, get it again"
            ) from error

    def _warped_marks(self, window: Window) -> Marks:
        top, left = (start // _BLOCK * _BLOCK for start in (window.row, window.col))
        bottom, right = (round_up(stop, _BLOCK) for stop in (window.row_stop, window.col_stop))
        out = np.zeros((bottom - top, right - left), np.bool_)
        for row, col in product(range(0, bottom - top, _BLOCK), range(0, right - left, _BLOCK)):
            height = min(_BLOCK, self._grid.height - top - row)
            width = min(_BLOCK, self._grid.width - left - col)
            block = Window(top + row, left + col, height, width)
            out[row : row + height, col : col + width] = self._marks(self._warped, block)
        row, col = window.row - top, window.col - left
        return out[row : row + window.height, col : col + window.width]

    def _marks(self, dataset: Any, window: Window) -> Marks:
        values = dataset.read(self._band, window=to_rasterio(window))
        marked = (values != 0) & (dataset.read_masks(self._band, window=to_rasterio(window)) > 0)
        return np.asarray(marked & ~np.isnan(values) if values.dtype.kind == "f" else marked)

    def close(self) -> None:
        """Close the file."""
        if self._warped is not None:
            self._warped.close()
        self._dataset.close()


def _only_band(dataset: Any, path: str) -> int:
    """Number of the one band that is not alpha."""
    bands = [b for b, kind in enumerate(dataset.colorinterp, start=1) if kind != ColorInterp.alpha]
    if len(bands) != 1 or "complex" in dataset.dtypes[bands[0] - 1]:
        raise RasterError(f"{path}: has {len(bands)} bands of {dataset.dtypes[0]}; a mask has one band of numbers")
    return bands[0]


@dataclass(frozen=True)
class SceneMasks:
    """How the masks of one scene are opened: `left_out` marks invalid pixels, `area` those whose scores are wanted."""

    left_out: Callable[[], MarkReader] | None = None
    area: Callable[[], MarkReader] | None = None

    def any_usable(self, box: Window) -> bool:
        """Whether a pixel of a box within the scene is in the area and not left out."""
        with ExitStack() as stack:
            left_out, area = (
                None if opened is None else stack.enter_context(closing(opened()))
                for opened in (self.left_out, self.area)
            )
            rows = max(1, _MOST_PIXELS // box.width)
            for row in range(box.row, box.row_stop, rows):
                part = Window(row, box.col, min(rows, box.row_stop - row), box.width)
                usable = np.ones(part.shape, np.bool_) if area is None else area.read(part)
                if (usable if left_out is None else usable & ~left_out.read(part)).any():
                    return True
        return False


class MaskedScene:
    """A scene with masks, in a ``with`` block.

    Pixels that are left out are invalid as nodata is: they have no score, and holes are filled before their neighbours
    are scored. Pixels outside the area have no score either, but count as neighbours.
    """

    def __init__(self, scene: Scene, masks: SceneMasks) -> None:
        self._scene = scene
        self._left_out = None if masks.left_out is None else masks.left_out()
        self._area = None if masks.area is None else masks.area()

    @property
    def may_have_invalid(self) -> bool:
        """See `ChipReader`."""
        return self._left_out is not None or self._scene.may_have_invalid

    def read(self, window: Window) -> Chip:
        """See `Scene.read`; pixels are not read where none has a score."""
        usable = None if self._left_out is None else ~self._mirrored(self._left_out, window)
        wanted = None if self._area is None else self._mirrored(self._area, window)
        for marks in (usable, wanted):
            if marks is not None and not marks.any():
                return Chip(np.zeros((self._scene.band_count, *window.shape), np.float32), np.zeros_like(marks), wanted)
        chip = self._scene.read(window)
        if usable is None or usable.all():
            return Chip(chip.pixels, chip.valid, wanted)
        return Chip(np.where(usable, chip.pixels, np.float32(0)), chip.valid & usable, wanted)

    def _mirrored(self, marks: MarkReader, window: Window) -> Marks:
        """Marks of a window that may reach over the edges, mirrored there as the pixels are."""
        grid = self._scene.grid
        rows = reflected_indices(window.row, window.row_stop, grid.height)
        cols = reflected_indices(window.col, window.col_stop, grid.width)
        top, left = int(rows.min()), int(cols.min())
        found = marks.read(Window(top, left, int(rows.max()) - top + 1, int(cols.max()) - left + 1))
        return found[rows - top].take(cols - left, axis=1)

    def close(self) -> None:
        """Close all files."""
        for reader in (self._left_out, self._area, self._scene):
            if reader is not None:
                reader.close()

    def __enter__(self) -> MaskedScene:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
