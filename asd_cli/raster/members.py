"""Members of a VRT that cannot be opened. GDAL tells of them at the first read only, later ones give zeros."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import rasterio.shutil
from rasterio.errors import RasterioError

from asd_cli.raster.findings import overlap
from asd_cli.raster.gdal import gdal_reason, gdal_session, open_raster
from asd_cli.raster.windows import Window


@dataclass(frozen=True)
class Member:
    """A file that a VRT reads for some bands (none: its mask) into `window`."""

    path: str
    window: Window
    bands: tuple[int, ...]


def lost_members(dataset: Any, path: str) -> Iterator[tuple[Member, str]]:
    """Members of an open VRT that cannot be opened, or whose own members cannot, with the reason."""
    with gdal_session():
        yield from _lost(dataset, path, {})


def _lost(dataset: Any, path: str, reasons: dict[str, str | None]) -> Iterator[tuple[Member, str]]:
    for member in _members(dataset, path):
        if member.path not in reasons:
            reasons[member.path] = None  # a VRT that is its own member ends here
            reasons[member.path] = _reason(member.path, reasons)
        if (reason := reasons[member.path]) is not None:
            yield member, reason


def _reason(path: str, reasons: dict[str, str | None]) -> str | None:
    """Why a file cannot be read; None if it can."""
    try:
        if rasterio.shutil.exists(path) and not path.lower().endswith(".vrt"):  # 15 times as fast as opening
            return None
        with open_raster(path) as dataset:
            if dataset.driver == "VRT":
                for member, reason in _lost(dataset, path, reasons):
                    return f"its member {member.path}: {reason}"
    except (RasterioError, ValueError) as error:
        return gdal_reason(error).replace(path, "").strip("'` :") or "cannot be opened"
    return None


def _members(dataset: Any, path: str) -> list[Member]:
    """Members with the pixels that they fill, those of equal place joined."""
    text = "".join(dataset.tags(ns="xml:VRT").values())
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return []
    whole = Window(0, 0, dataset.height, dataset.width)
    bands: dict[tuple[str, Window], list[int]] = {}
    for band in root.iter("VRTRasterBand"):
        for source in band:
            name = source.find("SourceFilename")
            if name is None or not source.tag.endswith("Source") or _is_gdals_own(name, source):
                continue
            window = overlap(_place(source.find("DstRect"), whole), whole)
            if window is not None:
                number = int(band.get("band") or 0)
                bands.setdefault((_resolved(name, path), window), []).append(number)
    return [Member(name, window, tuple(sorted(set(of) - {0}))) for (name, window), of in bands.items()]


def _is_gdals_own(name: ElementTree.Element, source: ElementTree.Element) -> bool:
    """Whether only GDAL knows how to open it: with options, or a part of a file named relative to the VRT."""
    relative = name.get("relativeToVRT") == "1"
    return source.find("OpenOptions") is not None or (relative and ":" in (name.text or ""))


def _resolved(name: ElementTree.Element, path: str) -> str:
    text = name.text or ""
    return os.path.join(os.path.dirname(path), text) if name.get("relativeToVRT") == "1" else text  # noqa: PTH118, PTH120


def _place(rectangle: ElementTree.Element | None, whole: Window) -> Window:
    """Pixels that a source touches, rounded outwards."""
    if rectangle is None:
        return whole
    left, top, width, height = (float(rectangle.get(key, "0")) for key in ("xOff", "yOff", "xSize", "ySize"))
    row, col = math.floor(top), math.floor(left)
    return Window(row, col, math.ceil(top + height) - row, math.ceil(left + width) - col)
