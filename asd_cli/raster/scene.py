"""Scene: a raster opened for reading chips, with the validity of every pixel."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError

from asd_cli.errors import RasterError
from asd_cli.raster.bad_blocks import read_around, unreadable
from asd_cli.raster.findings import BadBlock, Findings
from asd_cli.raster.gdal import gdal_session, open_raster, to_rasterio
from asd_cli.raster.grid import Grid
from asd_cli.raster.members import lost_members
from asd_cli.raster.virtual import VirtualRaster
from asd_cli.raster.windows import Window, reflected_indices

_NODATA_RTOL = 1e-6  # files and tags often hold the same number at different precision


@dataclass(frozen=True, eq=False)
class Chip:
    """Pixels `(C, H, W)` float32, 0 where invalid, with their validity `(H, W)` bool.

    `wanted` `(H, W)` bool: the pixels whose scores are wanted, the others being context; None: all.
    """

    pixels: NDArray[np.float32]
    valid: NDArray[np.bool_]
    wanted: NDArray[np.bool_] | None = None


class Scene:
    """A raster open for reading; used by one thread at a time, in a ``with`` block.

    A pixel is valid if every selected band is: no nodata value, no NaN, no Inf (also none beyond float32),
    not masked by a mask band or ``.msk`` file, and alpha above 0. An alpha band that is selected by its
    number is data, no mask. Values are as stored: scale and offset tags are not applied.
    """

    def __init__(
        self, dataset: Any, path: str, bands: tuple[int, ...], nodata: float | None, opened: str, findings: Findings
    ) -> None:
        """Use `Scene.open`."""
        self._dataset, self._opened, self.findings = dataset, opened, findings
        self.path = path
        self.files = tuple(dataset.files)  # sources of a VRT and side files included
        self.grid = Grid.from_dataset(dataset)
        self.bands = bands
        self.band_count = len(bands)
        self.file_bands = int(dataset.count)  # those not chosen and alpha, too
        self.tagged_alpha = _alpha_bands(dataset)  # chosen as data or not
        self.band_names = tuple(dataset.descriptions[b - 1] or f"band {b}" for b in bands)
        dtypes = [np.dtype(dataset.dtypes[b - 1]) for b in bands]
        self.dtype = max(dtypes, key=lambda dtype: (dtype.kind == "f", dtype.itemsize)).name
        self.alpha_bands = tuple(b for b in _alpha_bands(dataset) if b not in bands)
        unique = tuple(dict.fromkeys(bands))
        values = {b: dataset.nodatavals[b - 1] if nodata is None else nodata for b in unique}
        self.nodata_values: tuple[float | None, ...] = tuple(values.values())  # of the bands used, alpha not among them
        self._nodata = {b: _nodata_test(dataset.dtypes[b - 1], values[b]) for b in unique}
        self._masks = _mask_bands(dataset, unique, overridden=nodata is not None)
        certain = all(dtype.kind in "iu" for dtype in dtypes) and not any(self._nodata.values())
        self.may_have_invalid = not certain or bool(self.alpha_bands or self._masks) or findings.mask
        self.block_bands = _by_block(dataset, (*unique, *self.alpha_bands))
        self.atomic = dataset.driver == "GTiff" and not self._masks

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        bands: Sequence[int] | None = None,
        nodata: float | None = None,
        virtual: VirtualRaster | None = None,
        findings: Findings | None = None,
    ) -> Scene:
        """Open a raster; anything that GDAL reads, ``/vsizip/`` and the like included.

        Args:
            path: file or GDAL name.
            bands: numbers from 1, in the order wanted, repeats allowed; None: all but alpha.
            nodata: replaces the file's own nodata value in all bands.
            virtual: is opened in place of the file; messages still name `path`.
            findings: shared by all readers of the scene; says what becomes of damaged blocks and GDAL's warnings.

        Raises:
            RasterError: missing, no raster, no bands, complex or colour-mapped, or no such band; members of a VRT that
                are missing.
        """
        name, findings = str(path), findings or Findings(str(path))
        opened = virtual.text if virtual else name
        with gdal_session(hear=findings.hear):
            dataset = _open_dataset(name, opened)
            try:
                scene = cls(dataset, name, _select_bands(dataset, name, bands), nodata, opened, findings)
                scene.files += virtual.files if virtual else ()
                if dataset.driver == "VRT" and not virtual:
                    findings.check_once(scene._check_members)
                return scene
            except BaseException:
                dataset.close()
                raise

    def read(self, window: Window) -> Chip:
        """Chip of a window; beyond the scene's edges pixels and validity are mirrored, the edge not repeated.

        Raises:
            RasterError: the file is damaged there.
        """
        rows = reflected_indices(window.row, window.row_stop, self.grid.height)
        cols = reflected_indices(window.col, window.col_stop, self.grid.width)
        top, left = int(rows.min()), int(cols.min())
        box = Window(top, left, int(rows.max()) - top + 1, int(cols.max()) - left + 1)
        with gdal_session(hear=self.findings.hear):
            pixels, valid = read_around(self, box, self.findings)
        if box != window:  # whole rows first: they are copied at once
            pixels = pixels[:, rows - top].take(cols - left, axis=2)
            valid = valid[rows - top].take(cols - left, axis=1)
        return Chip(pixels, valid)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.grid.shape

    def probe(self, box: Window, bands: tuple[int, ...]) -> None:
        """See `BlockFile`."""
        self._read_raw(box, bands)
        if self._masks:
            self._dataset.read_masks(list(self._masks), window=to_rasterio(box))

    def reopen(self) -> None:
        """See `BlockFile`."""
        self._dataset.close()
        self._dataset = _open_dataset(self.path, self._opened)

    def _check_members(self) -> None:
        """Members of a VRT that cannot be opened are bad blocks."""
        chosen = {band for bands in self.block_bands.values() for band in bands}
        for member, reason in lost_members(self._dataset, self.path):
            bands = tuple(sorted(chosen & set(member.bands or chosen)))
            window = member.window
            bad = BadBlock(window.row, window.col, window.height, window.width, bands, f"{member.path}: {reason}")
            if bands and not self.findings.mask:
                raise unreadable(self.path, bad)
            if bands:
                self.findings.add_bad(bad)

    def read_box(self, box: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Selected bands as float32, 0 where invalid, and validity of a window that lies inside the scene."""
        raw = self._read_raw(box, (*self._nodata, *self.alpha_bands))
        valid = np.ones(box.shape, dtype=np.bool_)
        for band, is_nodata in self._nodata.items():
            if is_nodata is not None:
                valid &= ~is_nodata(raw[band])
        for band in self.alpha_bands:
            valid &= raw[band] > 0
        if self._masks:
            masks = self._dataset.read_masks(list(self._masks), window=to_rasterio(box))
            valid &= (masks > 0).all(axis=0)
        pixels = np.empty((self.band_count, *box.shape), dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for index, band in enumerate(self.bands):
                pixels[index] = raw[band]
                if raw[band].dtype.kind == "f":
                    valid &= np.isfinite(pixels[index])
        if not valid.all():
            np.copyto(pixels, 0.0, where=~valid)
        return pixels, valid

    def _read_raw(self, box: Window, bands: Sequence[int]) -> dict[int, NDArray[Any]]:
        """Arrays `(H, W)` in their own types by band number, one read per type."""
        groups: dict[str, list[int]] = {}
        for band in bands:
            groups.setdefault(self._dataset.dtypes[band - 1], []).append(band)
        raw: dict[int, NDArray[Any]] = {}
        for group in groups.values():
            raw.update(zip(group, self._dataset.read(group, window=to_rasterio(box)), strict=True))
        return raw

    def close(self) -> None:
        """Close the file."""
        self._dataset.close()

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open_dataset(name: str, opened: str) -> Any:
    """Open dataset with at least one band; `opened`: what GDAL is given, `name`: what messages call it."""
    try:
        dataset = open_raster(opened)
    except (RasterioError, ValueError) as error:
        reason = str(error)
        if isinstance(error, UnicodeEncodeError):
            raise RasterError(f"{name}: the name is not UTF-8, as GDAL wants it; rename the file") from error
        if os.path.isdir(name):  # noqa: PTH112 - unlike Path it copes with names that are too long
            raise RasterError(f"{name}: is a folder; name a raster, or several with a glob such as '*.tif'") from error
        if not name or "No such file" in reason or "does not exist" in reason:
            raise RasterError(f"{name or '(empty name)'}: no such file; check the path") from error
        reason = reason.replace(f"'{name}'", "").replace(name, "").replace(opened, "").strip(" :.")
        raise RasterError(f"{name}: cannot be opened as a raster ({reason}); see what gdalinfo says of it") from error
    if dataset.count:
        return dataset
    parts = list(dataset.subdatasets)
    dataset.close()
    if parts:
        shown = ", ".join(parts[:3]) + (", ..." if len(parts) > 3 else "")
        raise RasterError(f"{name}: holds {len(parts)} subdatasets; name one of them instead: {shown}")
    raise RasterError(f"{name}: has no raster bands; give a raster with at least one band")


def _select_bands(dataset: Any, name: str, bands: Sequence[int] | None) -> tuple[int, ...]:
    """Band numbers to read, checked."""
    if bands is None:
        alpha = _alpha_bands(dataset)
        selected = tuple(b for b in range(1, dataset.count + 1) if b not in alpha)
        if not selected:
            raise RasterError(f"{name}: has an alpha band only; select it by its number if it is data")
    else:
        selected = tuple(int(b) for b in bands)
        if not selected:
            raise RasterError(f"{name}: no band selected; choose from 1 to {dataset.count}")
    kinds = dataset.colorinterp  # asks for all bands each time
    for band in selected:
        if not 1 <= band <= dataset.count:
            has = "1 band" if dataset.count == 1 else f"{dataset.count} bands"
            raise RasterError(f"{name}: no band {band}; the raster has {has}, numbered from 1")
        if "complex" in dataset.dtypes[band - 1]:
            raise RasterError(
                f"{name}: band {band} holds complex numbers ({dataset.dtypes[band - 1]}); convert it to real "
                "values first, such as amplitude"
            )
        if kinds[band - 1] == ColorInterp.palette:
            raise RasterError(
                f"{name}: band {band} is colour-mapped; expand it first: gdal_translate -expand rgb IN OUT"
            )
    return selected


def _alpha_bands(dataset: Any) -> tuple[int, ...]:
    """Numbers of the bands that the file calls alpha."""
    return tuple(b for b, kind in enumerate(dataset.colorinterp, start=1) if kind == ColorInterp.alpha)


def _mask_bands(dataset: Any, bands: Sequence[int], *, overridden: bool) -> tuple[int, ...]:
    """Bands whose GDAL mask must be read besides nodata and alpha: one if all bands share it.

    GDAL shows one kind of mask only (a stored one hides nodata, nodata hides alpha): the others are looked
    up here.
    """
    own: list[int] = []
    of_all = dataset.mask_flag_enums  # asks for all bands each time
    for band in bands:
        flags = set(of_all[band - 1])
        if MaskFlags.all_valid in flags or MaskFlags.alpha in flags or flags == {MaskFlags.nodata}:
            continue
        if overridden and MaskFlags.nodata in flags:  # NODATA_VALUES of the file, one per band
            continue
        own.append(band)
        if MaskFlags.per_dataset in flags:
            return (band,)
    return tuple(own)


def _nodata_test(dtype: str, value: float | None) -> Callable[[NDArray[Any]], NDArray[np.bool_]] | None:
    """Test for nodata in the band's own type; None if no pixel can equal it, or NaN (never valid)."""
    if value is None or math.isnan(value):
        return None
    kind = np.dtype(dtype)
    if kind.kind != "f":
        limits = np.iinfo(kind)
        if not float(value).is_integer() or not limits.min <= int(value) <= limits.max:
            return None
        exact = kind.type(int(value))
        return lambda raw: np.asarray(raw == exact)
    finite = np.finfo(kind)
    reach = abs(value) * _NODATA_RTOL if math.isfinite(value) else 0.0
    low = kind.type(min(max(value - reach, float(finite.min)), float(finite.max)))
    high = kind.type(min(max(value + reach, float(finite.min)), float(finite.max)))
    return lambda raw: np.asarray((raw >= low) & (raw <= high))


def _by_block(dataset: Any, bands: Sequence[int]) -> dict[tuple[int, int], tuple[int, ...]]:
    """Bands by (height, width) of their blocks."""
    groups: dict[tuple[int, int], list[int]] = {}
    for band in bands:
        groups.setdefault(tuple(dataset.block_shapes[band - 1]), []).append(band)
    return {shape: tuple(sorted(group)) for shape, group in groups.items()}
