"""Training tiles: pixels with their validity and the class code of each, window by window."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from asd_cli.data.classes import ClassTable
from asd_cli.data.discovery import TileSource
from asd_cli.errors import LabelError, RasterError
from asd_cli.raster.grid import Grid
from asd_cli.raster.scene import Chip, Scene
from asd_cli.raster.windows import Window
from asd_cli.vector.label_polygons import UNLABELLED
from asd_cli.vector.labels import IGNORED, LabelReader

Codes = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class TileChip:
    """A chip and the class codes `(H, W)` int32 of its pixels; -1 = no label, ignored or outside the tile."""

    chip: Chip
    codes: Codes


class LabelledTile:
    """A tile open for reading together with its label; a context manager, used by one thread at a time."""

    def __init__(self, scene: Scene, labels: LabelReader, ignored: frozenset[int]) -> None:
        """`ignored`: codes that are read as -1."""
        self.scene = scene
        self._labels = labels
        self._ignored = sorted(ignored)

    @property
    def grid(self) -> Grid:
        """Where the pixels lie."""
        return self.scene.grid

    @property
    def path(self) -> str:
        """File of the tile's pixels."""
        return self.scene.path

    @property
    def may_have_invalid(self) -> bool:
        """False only when every pixel is certainly valid."""
        return self.scene.may_have_invalid

    def read(self, window: Window) -> TileChip:
        """Pixels and class codes of a window; beyond the edges pixels are mirrored and codes are -1.

        Raises:
            RasterError, LabelError: a file is damaged there.
        """
        return TileChip(self.scene.read(window), self.read_codes(window))

    def read_codes(self, window: Window) -> Codes:
        """(height, width) int32 class codes of a window; -1 beyond the edges."""
        top, left = max(window.row, 0), max(window.col, 0)
        bottom, right = min(window.row_stop, self.grid.height), min(window.col_stop, self.grid.width)
        codes = np.full(window.shape, IGNORED, dtype=np.int32)
        if bottom <= top or right <= left:
            return codes
        inside = self._labels.read(Window(top, left, bottom - top, right - left))
        if self._ignored:
            inside = np.where(np.isin(inside, self._ignored), np.int32(IGNORED), inside)
        codes[top - window.row : bottom - window.row, left - window.col : right - window.col] = inside
        return codes

    def close(self) -> None:
        """Close both files."""
        self._labels.close()
        self.scene.close()

    def __enter__(self) -> LabelledTile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TileSet:
    """Tiles that share bands and classes. Files are open only while they are read; it can be pickled."""

    def __init__(
        self,
        sources: Sequence[TileSource],
        classes: ClassTable,
        *,
        normal: Sequence[str],
        ignore: Sequence[str] = (),
        bands: Sequence[int] | None = None,
        nodata: float | None = None,
    ) -> None:
        """Look at the header of every tile.

        Args:
            sources: the tiles, as found by `discover_tiles`.
            classes: their classes, as found by `scan_classes`.
            normal: names of the normal classes; just a name if there are no labels.
            ignore: names of classes that count nowhere.
            bands: band numbers from 1; None: all but alpha.
            nodata: replaces the tiles' own nodata values.

        Raises:
            RasterError: a tile cannot be opened, or the tiles differ in their number of bands.
            LabelError: no such class, none given, or one that is both normal and ignored.
        """
        self.sources = tuple(sources)
        self.classes = classes
        self._bands = None if bands is None else tuple(bands)
        self._nodata = nodata
        self.normal_codes, self.ignored_codes = _roles(classes, normal, ignore)
        self._not_anomalous = sorted(
            self.normal_codes | {IGNORED} | ({UNLABELLED} if classes.polygons or not classes.labelled else set())
        )
        self._look_at_headers()

    def _look_at_headers(self) -> None:
        if not self.sources:
            raise RasterError("no tiles; give a folder of rasters")
        grids: list[Grid] = []
        files = [name for source in self.sources if source.label is not None for name in source.label.files]
        for source in self.sources:
            with self._scene(source) as scene:
                if not grids:
                    self.band_count, self.band_names, self.dtype = scene.band_count, scene.band_names, scene.dtype
                    self.bands, self.file_bands = scene.bands, scene.file_bands
                    self.tagged_alpha = scene.tagged_alpha
                elif scene.band_count != self.band_count:
                    raise RasterError(
                        f"{source.path} has {scene.band_count} bands, but {self.sources[0].path} has "
                        f"{self.band_count}; choose common ones with --bands, or give tiles of one kind ('*S2.tif')"
                    )
                grids.append(scene.grid)
                files += scene.files
        self.grids: tuple[Grid, ...] = tuple(grids)
        self.files = frozenset(files)  # all that is read, labels and the sources of a VRT too

    def __len__(self) -> int:
        return len(self.sources)

    def open(self, index: int) -> LabelledTile:
        """Open a tile and its label; use in a ``with`` block."""
        source = self.sources[index]
        scene = self._scene(source)
        try:
            labels = self.classes.opener.open(source, scene.grid, quiet=True)
        except BaseException:
            scene.close()
            raise
        return LabelledTile(scene, labels, self.ignored_codes)

    def _scene(self, source: TileSource) -> Scene:
        return Scene.open(source.path, bands=self._bands, nodata=self._nodata, virtual=source.virtual)

    def subset(self, indices: Iterable[int]) -> TileSet:
        """Some of the tiles, in the order of `indices`; no file is opened. Codes and names stay the same."""
        chosen = list(indices)
        part = copy.copy(self)
        part.sources = tuple(self.sources[index] for index in chosen)
        part.grids = tuple(self.grids[index] for index in chosen)
        return part

    def normal_pixels(self) -> list[int]:
        """Pixels labelled normal of each tile, by the scan of the classes; invalid ones are counted, too."""
        counts = [self.classes.by_tile.get(source.path, {}) for source in self.sources]
        return [sum(count.get(code, 0) for code in self.normal_codes) for count in counts]

    def normal_mask(self, chip: Chip, codes: Codes) -> NDArray[np.bool_]:
        """(H, W) bool: valid pixels of a normal class."""
        mask: NDArray[np.bool_] = chip.valid & np.isin(codes, sorted(self.normal_codes))
        return mask

    def anomalous_class(self, codes: Codes) -> Codes:
        """(H, W) int32: the class code of pixels that are labelled but not normal; -1 elsewhere.

        Pixels outside all polygons of a vector file are neither normal (unless named) nor anomalous.
        """
        return np.where(np.isin(codes, self._not_anomalous), np.int32(IGNORED), codes)


def _roles(classes: ClassTable, normal: Sequence[str], ignore: Sequence[str]) -> tuple[frozenset[int], frozenset[int]]:
    """(normal codes, ignored codes)."""
    if not classes.labelled:
        return frozenset((UNLABELLED,)), frozenset()
    if not normal:
        raise LabelError(f"the tiles have labels: say which class is normal with --normal; found: {classes.listed()}")
    normal_codes = classes.resolve(normal)
    ignored = classes.resolve(ignore, option="--ignore-label", known_suffices=True)
    both = sorted(normal_codes & ignored)
    if both:
        raise LabelError(f"class {classes.name(both[0])} is given to both --normal and --ignore-label; choose one")
    return frozenset(normal_codes), frozenset(ignored)
