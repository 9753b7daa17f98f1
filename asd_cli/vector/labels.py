"""Labels on a grid: the class code of every pixel, from a label raster or from label polygons.

A label raster has one band of whole numbers (the code is the value, and a colour table or category names may
name it) or three bands of 8-bit colours with or without alpha (the code is ``r << 16 | g << 8 | b``, the name
``r,g,b``). Its nodata value, its masks and transparent pixels mean: no label.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any, Protocol
from xml.etree import ElementTree

import numpy as np
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError

from asd_cli.errors import LabelError
from asd_cli.raster.gdal import gdal_reason, gdal_session, open_raster, to_rasterio
from asd_cli.raster.grid import Grid
from asd_cli.raster.virtual import VirtualRaster
from asd_cli.raster.windows import Window
from asd_cli.vector.label_polygons import UNLABELLED, LabelPolygons, apply_affine, is_vector

__all__ = [
    "IGNORED",
    "UNLABELLED",
    "LabelReader",
    "LabelSource",
    "RasterLabels",
    "colour_name",
    "open_labels",
    "read_truth",
]

IGNORED = -1
"""Code of pixels without a label: nodata of the label raster, ignored classes, pixels outside the image."""
MAX_OVERHANG = 16
"""Pixels by which a label may be wider or higher than its image before that is an error."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelSource:
    """Where the label of a tile comes from: a label raster or a vector file with its column of classes.

    `virtual` is read in place of the label raster.
    """

    path: str
    field: str | None = None
    virtual: VirtualRaster | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """All files that it is read from."""
        return (self.path, *(self.virtual.files if self.virtual else ()))

    @property
    def is_vector(self) -> bool:
        """Whether the label consists of polygons."""
        return is_vector(self.path)


class LabelReader(Protocol):
    """Class codes of the pixels of one image."""

    @property
    def names(self) -> Mapping[int, str]:
        """Class names by code, as far as the label itself knows them."""

    def read(self, window: Window) -> NDArray[np.int32]:
        """(height, width) int32 class codes, -1 = no label; the window lies within the image."""

    def close(self) -> None:
        """Let go of open files."""


def colour_name(code: int) -> str:
    """``r,g,b`` of a colour code."""
    return f"{code >> 16 & 255},{code >> 8 & 255},{code & 255}"


class RasterLabels:
    """A label raster, fitted to the grid of its image; also a context manager.

    `colours`: the codes are packed colours. `palette`: packed colour by value, from the colour table.
    """

    def __init__(
        self,
        path: str,
        grid: Grid,
        image: str,
        *,
        virtual: VirtualRaster | None = None,
        expand_palette: bool = False,
        quiet: bool = False,
    ) -> None:
        """Open the label at `path`, or `virtual` in its place, for `image`; `expand_palette`: codes are the colours of
        its colour table.

        Raises:
            LabelError: not a raster, of an unusable kind, or it does not fit the image; a label that only
                overhangs at the right or bottom is cropped with a warning (none if `quiet`).
        """
        self.path = path
        self._dataset = _open(path, virtual.text if virtual else path)
        try:
            self._bands = _label_bands(self._dataset, path)
            check_fit(self._dataset, path, grid, image, quiet=quiet)
            self.palette = _palette(self._dataset)
            self._expand = expand_palette and bool(self.palette)
            self.colours = len(self._bands) == 3 or self._expand
            self.nodata: float | None = self._dataset.nodata
            flags = self._dataset.mask_flag_enums  # asks for all bands each time
            self._masked = any(MaskFlags.all_valid not in flags[b - 1] for b in self._bands)
        except BaseException:
            self._dataset.close()
            raise

    @cached_property
    def names(self) -> Mapping[int, str]:
        """Category names, else colours of the colour table, by code; empty where the codes are colours."""
        return {} if self.colours else _own_names(self._dataset, self.palette)

    def read(self, window: Window) -> NDArray[np.int32]:
        """(height, width) int32 class codes, -1 = no label; the window lies within the image."""
        part = to_rasterio(window)
        try:
            with gdal_session():
                values = self._dataset.read(self._bands, window=part)
                masks = self._dataset.read_masks(self._bands, window=part) if self._masked else None
        except RasterioError as error:
            raise LabelError(
                f"{self.path}: cannot be read ({gdal_reason(error)}); the label looks damaged, get it again"
            ) from error
        labelled = None if masks is None else masks.max(axis=0) > 0
        codes = _pack(values) if len(values) == 3 else self._whole_numbers(values[0], labelled)
        if self._expand:
            codes = self._expanded(codes)
        if labelled is not None:
            codes[~labelled] = IGNORED
        return codes

    def close(self) -> None:
        """Close the file."""
        self._dataset.close()

    def __enter__(self) -> RasterLabels:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _whole_numbers(self, values: NDArray[Any], labelled: NDArray[np.bool_] | None) -> NDArray[np.int32]:
        """Values as codes; those of pixels without a label (nodata is often -3e38) are not judged."""
        if labelled is not None:
            values = np.where(labelled, values, values.dtype.type(0))
        if values.dtype.kind == "f":
            values = np.where(np.isfinite(values), values, IGNORED)
            odd = values[values != np.floor(values)]
            if odd.size:
                raise LabelError(f"{self.path}: {odd[0]:g} is no class number; a label raster holds whole numbers")
        limits = np.iinfo(np.int32)
        if values.size and (values.min() < limits.min or values.max() > limits.max):
            raise LabelError(f"{self.path}: holds class numbers beyond {limits.max}; renumber the classes")
        return values.astype(np.int32)

    def _expanded(self, codes: NDArray[np.int32]) -> NDArray[np.int32]:
        """Values -> packed colours of the colour table; values that are not in it -> no label."""
        table = np.full(max(self.palette) + 2, IGNORED, dtype=np.int32)  # the last entry is for strangers
        table[list(self.palette)] = list(self.palette.values())
        inside = (codes >= 0) & (codes < len(table) - 1)
        expanded: NDArray[np.int32] = table[np.where(inside, codes, len(table) - 1)]
        return expanded


def open_labels(
    source: LabelSource, grid: Grid, image: str, polygons: LabelPolygons | None = None, *, quiet: bool = False
) -> LabelReader:
    """The label of `image` on its `grid`; `polygons`: the vector file of `source`, when loaded before."""
    if source.is_vector:
        return (polygons or LabelPolygons.load(source.path, source.field)).on_grid(grid, image)
    return RasterLabels(source.path, grid, image, virtual=source.virtual, quiet=quiet)


def read_truth(
    path: str, grid: Grid, window: Window, *, image: str = "the map", field: str | None = None
) -> NDArray[np.int32]:
    """(height, width) int32 class codes of a truth raster or vector file within a window of a grid.

    For many windows keep the reader of `open_labels` instead: a vector file is loaded anew by every call.
    """
    reader = open_labels(LabelSource(path, field), grid, image)
    try:
        return reader.read(window)
    finally:
        reader.close()


def check_fit(dataset: Any, path: str, grid: Grid, image: str, *, quiet: bool) -> None:
    """Refuse a label whose size or place differs from its image's; crop a small overhang with a warning.

    Raises:
        LabelError: the sizes differ by more than an overhang at the right or bottom, or the places by over
            half a pixel.
    """
    label_size, image_size = f"{dataset.width} x {dataset.height}", f"{grid.width} x {grid.height}"
    extra = (dataset.width - grid.width, dataset.height - grid.height)
    if min(extra) < 0 or max(extra) > MAX_OVERHANG:
        raise LabelError(
            f"{path} is {label_size} px, but its image {image} is {image_size} px; labels must have "
            "the size of their image"
        )
    _check_place(dataset, path, grid, image)
    if max(extra) > 0 and not quiet:
        _log.warning(
            "%s is %s px, its image %s is %s px: the label is cropped at the right or bottom edge",
            path,
            label_size,
            image,
            image_size,
        )


def _check_place(dataset: Any, path: str, grid: Grid, image: str) -> None:
    if dataset.crs is None or grid.crs is None or dataset.transform.is_identity or grid.transform.is_identity:
        return
    if dataset.crs != grid.crs:
        raise LabelError(f"{path} has another CRS than its image {image}; reproject it (gdalwarp -t_srs)")
    corners = np.array([(x, y) for x in (0, grid.width) for y in (0, grid.height)], dtype=np.float64)
    on_map = np.stack(apply_affine(grid.transform, corners), axis=1)
    in_label = np.stack(apply_affine(~dataset.transform, on_map), axis=1)
    shift = float(np.abs(in_label - corners).max())
    if shift > 0.5:
        raise LabelError(
            f"{path} lies {shift:.3g} px off the grid of its image {image}; resample it onto that grid "
            "(gdalwarp -te ... -tr ...)"
        )


def _open(path: str, opened: str) -> Any:
    """Dataset that GDAL opens by `opened`; messages call it `path`."""
    try:
        with gdal_session():
            return open_raster(opened)
    except (RasterioError, ValueError) as error:
        reason = gdal_reason(error).replace(opened, path)
        raise LabelError(f"{path}: cannot be opened as a label raster ({reason}); check it") from error


def _label_bands(dataset: Any, path: str) -> list[int]:
    """Bands that hold the label: one of values, or three of colours."""
    bands = [i for i, kind in zip(dataset.indexes, dataset.colorinterp, strict=True) if kind != ColorInterp.alpha]
    if dataset.dtypes[0].startswith("complex"):
        raise LabelError(f"{path}: holds complex numbers; a label raster holds whole numbers")
    if len(bands) == 1:
        return bands
    if len(bands) == 3 and all(dataset.dtypes[band - 1] == "uint8" for band in bands):
        return bands
    raise LabelError(
        f"{path}: has {len(bands)} bands of {dataset.dtypes[0]}; a label has one band of class "
        "numbers or three 8-bit bands of colours"
    )


def _pack(values: NDArray[Any]) -> NDArray[np.int32]:
    """(3, H, W) uint8 colours -> (H, W) int32 ``r << 16 | g << 8 | b``."""
    red, green, blue = values.astype(np.int32)
    packed: NDArray[np.int32] = red << 16 | green << 8 | blue
    return packed


def _palette(dataset: Any) -> dict[int, int]:
    """Packed colour by value of the colour table of the first band; empty without one."""
    try:
        table = dataset.colormap(1)
    except ValueError:
        return {}
    return {value: colour[0] << 16 | colour[1] << 8 | colour[2] for value, colour in table.items()}


def _own_names(dataset: Any, palette: Mapping[int, int]) -> dict[int, str]:
    """Names by value: GDAL's category names, else the colours of the colour table."""
    categories = _category_names(dataset)
    if any(categories):
        return {value: name for value, name in enumerate(categories) if name}
    return {value: f"#{colour:06x}" for value, colour in palette.items()}


def _category_names(dataset: Any) -> list[str]:
    """GDAL's category names of the first band, by value; rasterio shows them only in the text of a VRT."""
    virtual = f"/vsimem/asd_{uuid.uuid4().hex}.vrt"
    with gdal_session():
        rasterio.shutil.copy(dataset, virtual, driver="VRT")
        try:
            with open_raster(virtual) as copy:
                text = copy.tags(ns="xml:VRT").get("xml:VRT", "")
        finally:
            rasterio.shutil.delete(virtual, driver="VRT")
    band = ElementTree.fromstring(text).find("VRTRasterBand") if text else None
    return [
        (entry.text or "").strip() for entry in (band.iterfind("CategoryNames/Category") if band is not None else ())
    ]
