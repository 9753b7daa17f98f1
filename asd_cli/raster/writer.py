"""MapWriter: maps written window by window, finished as cloud-optimised GeoTIFFs (COG)."""

from __future__ import annotations

import math
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # what rasterio.shutil raises; it has no public name
from rasterio.errors import RasterioError

from asd_cli.errors import OutputError
from asd_cli.raster.gdal import gdal_reason, gdal_session, open_raster, to_rasterio
from asd_cli.raster.grid import Grid
from asd_cli.raster.parts import Parts, unwritable
from asd_cli.raster.windows import Window

BLOCK = 512
_OVERVIEWS = ("nearest", "average", "rms", "gauss", "bilinear", "cubic", "cubicspline", "lanczos", "mode")
_VERIFY_BLOCKS = 8  # blocks read at once when the result is checked


@dataclass(frozen=True)
class BandInfo:
    """What one band of a map holds: a description and the unit of its values ("" if they have none)."""

    description: str
    unit: str = ""


class BandStatistics:
    """Count, range, mean and standard deviation of a band, added block by block and mergeable.

    Blocks are summed up in exact fractions (each in float64 around its own mean), so the order in which they
    come, and with it the window size, does not change a digit.
    """

    def __init__(self) -> None:
        self.count = 0
        self.minimum = math.inf
        self.maximum = -math.inf
        self._total = Fraction(0)
        self._squares = Fraction(0)  # of the block means, weighted
        self._scatter = Fraction(0)  # around the block means

    def add(self, block: NDArray[np.float32]) -> None:
        """Add the finite pixels of a block."""
        finite = np.isfinite(block)
        values = (block if finite.all() else block[finite]).astype(np.float64)
        if not values.size:
            return
        mean = float(values.mean())
        self.count += values.size
        self.minimum = min(self.minimum, float(values.min()))
        self.maximum = max(self.maximum, float(values.max()))
        self._total += Fraction(mean) * values.size
        self._squares += Fraction(mean) ** 2 * values.size
        values -= mean
        self._scatter += Fraction(float(np.square(values, out=values).sum()))

    def merge(self, other: BandStatistics) -> None:
        """Add what `other` has seen."""
        self.count += other.count
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)
        self._total += other._total
        self._squares += other._squares
        self._scatter += other._scatter

    @property
    def mean(self) -> float:
        """Mean; NaN without pixels."""
        return float(self._total / self.count) if self.count else math.nan

    @property
    def stddev(self) -> float:
        """Population standard deviation; NaN without pixels."""
        if not self.count:
            return math.nan
        scatter = self._scatter + self._squares - self._total**2 / self.count
        return math.sqrt(max(0.0, float(scatter / self.count)))

    def tags(self, pixel_count: int) -> dict[str, str]:
        """GDAL's ``STATISTICS_*`` items for a band of `pixel_count` pixels."""
        tags = {"STATISTICS_VALID_PERCENT": f"{100 * self.count / pixel_count:.4g}"}
        if self.count:
            tags |= {
                "STATISTICS_MINIMUM": f"{self.minimum:.14g}",
                "STATISTICS_MAXIMUM": f"{self.maximum:.14g}",
                "STATISTICS_MEAN": f"{self.mean:.14g}",
                "STATISTICS_STDDEV": f"{self.stddev:.14g}",
            }
        return tags


class MapWriter:
    """Writes a float32 map of K bands, NaN where invalid, in a ``with`` block; `finish` makes the file.

    Windows are kept as `parts` until then: those of the caller, which may hold some already, or a folder
    ``<path>.parts`` that is removed at the end, whatever happens. Memory: GDAL's block cache and one window, whatever
    the size of the map. `path` is the (staged) file to make, `target` the name for messages, `overviews` GDAL's
    resampling of the reduced levels.
    """

    def __init__(
        self,
        path: Path,
        grid: Grid,
        bands: Sequence[BandInfo],
        tags: Mapping[str, str],
        overviews: str = "average",
        *,
        target: Path | None = None,
        parts: Parts | None = None,
    ) -> None:
        if overviews not in _OVERVIEWS:
            raise ValueError(f"overviews={overviews!r} is not one of {', '.join(_OVERVIEWS)}")
        self._path = path
        self._target = target or path
        self._grid = grid
        self._bands = tuple(bands)
        self._tags = dict(tags)
        self._overviews = overviews
        self._own_folder = path.with_name(f"{path.name}.parts") if parts is None else None
        self._given = parts
        self._finished = False
        self._digests: dict[tuple[int, int, int], int] = {}
        self.statistics = tuple(BandStatistics() for _ in self._bands)

    def __enter__(self) -> MapWriter:
        if self._own_folder is not None:
            with self._guard():
                self._own_folder.mkdir()
                self._given = Parts(self._own_folder, len(self._bands), target=self._target)
        return self

    @property
    def _parts(self) -> Parts:
        if self._given is None:
            raise RuntimeError("a MapWriter is used in a with block")
        return self._given

    def write(self, window: Window, values: NDArray[np.float32]) -> None:
        """Write `(K, H, W)` float32, NaN = invalid; a window is whole 512 px blocks (less at the edges).

        A window that the parts hold is counted only: `values` are theirs.

        Raises:
            OutputError: the disk is full or failing.
            ValueError: the window is not block-aligned, was written before, or does not fit `values`.
        """
        self._check(window, values)
        values = np.ascontiguousarray(values, dtype=np.float32)
        for row, col, blocks in _blocks(window, values):
            for band, block in enumerate(blocks, start=1):
                self._digests[band, row, col] = _digest(block)
                self.statistics[band - 1].add(block)
        if window not in self._parts:
            self._parts.add(window, values)

    def add_tags(self, tags: Mapping[str, str]) -> None:
        """Tags that show only while the map is made."""
        self._tags.update(tags)

    def finish(self) -> None:
        """Make a COG of what was written and check it by reading it back; blocks never written are NaN.

        Raises:
            OutputError: the disk is full or failing.
        """
        # parts are many files in one folder, which need not be listed for each of them
        with self._guard(), rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN=True):
            source = self._virtual_map()
            rasterio.shutil.copy(
                str(source),
                str(self._path),
                driver="COG",
                COMPRESS="DEFLATE",
                LEVEL=1,  # 6 makes scores 1.5 % smaller in twice the time
                PREDICTOR="FLOATING_POINT",
                BLOCKSIZE=BLOCK,
                OVERVIEWS="AUTO",
                OVERVIEW_RESAMPLING=self._overviews.upper(),
                BIGTIFF="IF_SAFER",
                NUM_THREADS="ALL_CPUS",
            )
            # GDAL may close a file on a full disk without an error
            with open_raster(self._path, num_threads="ALL_CPUS") as result:
                intact = self._pixels_intact(result) and self._overviews_intact(result)
        if not intact:
            raise self._output_error("what was written reads back differently")
        self._finished = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._own_folder is not None and self._given is not None:
            self._given.close()
            shutil.rmtree(self._own_folder, ignore_errors=True)
        if not self._finished:
            for suffix in (".ovr.tmp", ".aux.xml", ""):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def _virtual_map(self) -> Path:
        """A VRT of the parts with all that goes with the map; it and its empty model lie beside the parts."""
        folder = self._parts.folder.absolute()  # GDAL takes some relative names for its own
        empty, path = folder / "map.tif", folder / "map.vrt"
        with open_raster(empty, "w", **self._creation_options()) as dataset:
            self._describe(dataset)
        rasterio.shutil.copy(str(empty), str(path), driver="VRT")
        document = ElementTree.parse(path)
        for number, band in enumerate(document.getroot().findall("VRTRasterBand"), start=1):
            for source in band.findall("SimpleSource") + band.findall("ComplexSource"):
                band.remove(source)
            self._parts.add_sources(band, number)
        document.write(path, encoding="utf-8")
        return path

    def _creation_options(self) -> dict[str, Any]:
        """Arguments of `rasterio.open` for an empty map."""
        grid = self._grid
        georeference: dict[str, Any] = {}
        if grid.gcps is None:
            georeference["crs"] = grid.crs
            if not grid.transform.is_identity:
                georeference["transform"] = grid.transform
        return georeference | {
            "driver": "GTiff",
            "width": grid.width,
            "height": grid.height,
            "count": len(self._bands),
            "dtype": "float32",
            "nodata": math.nan,
            "tiled": True,
            "blockxsize": BLOCK,
            "blockysize": BLOCK,
            "interleave": "band",
            "sparse_ok": True,
            "bigtiff": "if_safer",
        }

    def _describe(self, dataset: Any) -> None:
        """Store names, tags, statistics and what else goes with the georeference."""
        grid = self._grid
        if grid.gcps is not None:
            dataset.gcps = (list(grid.gcps[0]), grid.gcps[1])
        dataset.update_tags(ns="RPC", **dict(grid.rpc_tags))
        dataset.update_tags(**self._tags)
        # without a CRS GDAL would make one up to hold it; control points of a "Point" it would move by half a pixel
        if grid.area_or_point is not None and grid.crs and grid.gcps is None:
            dataset.update_tags(AREA_OR_POINT=grid.area_or_point)
        for number, (band, statistics) in enumerate(zip(self._bands, self.statistics, strict=True), start=1):
            dataset.set_band_description(number, band.description)
            dataset.set_band_unit(number, band.unit)
            dataset.update_tags(number, **statistics.tags(grid.width * grid.height))

    def _check(self, window: Window, values: NDArray[np.float32]) -> None:
        """Refuse what would be a bug of the caller."""
        starts = (window.row, window.col)
        stops = ((window.row_stop, self._grid.height), (window.col_stop, self._grid.width))
        aligned = all(start >= 0 and start % BLOCK == 0 for start in starts)
        if not aligned or any(stop > edge or (stop % BLOCK and stop != edge) for stop, edge in stops):
            raise ValueError(f"{window} is not made of whole {BLOCK} px blocks of a {self._grid.shape} map")
        if values.shape != (len(self._bands), *window.shape):
            raise ValueError(f"values {values.shape} do not fit {len(self._bands)} bands of {window}")
        if any((1, row, col) in self._digests for row, col, _ in _blocks(window, values)):
            raise ValueError(f"{window} has been written before")

    def _pixels_intact(self, result: Any) -> bool:
        """Whether every full-resolution block reads back as it was given."""
        height, width = self._grid.shape
        step = BLOCK * _VERIFY_BLOCKS
        for band in range(1, len(self._bands) + 1):
            for row in range(0, height, BLOCK):
                for col in range(0, width, step):
                    window = Window(row, col, min(BLOCK, height - row), min(step, width - col))
                    values = result.read([band], window=to_rasterio(window))
                    for block_row, block_col, (block,) in _blocks(window, values):
                        expected = self._digests.get((band, block_row, block_col))
                        if _digest(block) != (_digest(np.full_like(block, np.nan)) if expected is None else expected):
                            return False
        return True

    def _overviews_intact(self, result: Any) -> bool:
        """Whether every block of the reduced levels lies inside the file."""
        size = self._path.stat().st_size
        for level in range(len(result.overviews(1))):
            # the sizes are GDAL's own: it rounds now up, now down
            with open_raster(self._path, overview_level=level) as reduced:
                rows, cols = (-(-n // BLOCK) for n in reduced.shape)
            for y in range(rows):
                for x in range(cols):
                    place = [
                        result.get_tag_item(f"BLOCK_{what}_{x}_{y}", "TIFF", bidx=1, ovr=level)
                        for what in ("OFFSET", "SIZE")
                    ]
                    if None in place or sum(map(int, place)) > size:
                        return False
        return True

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """GDAL at work: its failures become `OutputError`."""
        try:
            with gdal_session():
                yield
        except (RasterioError, CPLE_BaseError, OSError) as error:
            raise self._output_error(gdal_reason(error)) from error

    def _output_error(self, reason: str) -> OutputError:
        """One line about a failed write."""
        return unwritable(self._target, reason)


def _blocks(window: Window, values: NDArray[np.float32]) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """(row, col, `(K, h, w)`) of the blocks of an aligned window, contiguous."""
    for row in range(0, window.height, BLOCK):
        for col in range(0, window.width, BLOCK):
            block = values[:, row : row + BLOCK, col : col + BLOCK]
            yield window.row + row, window.col + col, np.ascontiguousarray(block)


def _digest(block: NDArray[np.float32]) -> int:
    """Checksum of a block's values; all NaN count as equal."""
    odd = np.isnan(block)
    if odd.any():
        block = np.where(odd, np.float32(np.nan), block)
    return zlib.crc32(np.ascontiguousarray(block).data)
