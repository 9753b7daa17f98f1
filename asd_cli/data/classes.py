"""Classes of a set of tiles: which codes their labels hold, and what the user may call them.

Names come from ``classes.csv`` (in the folder of the labels, the one above, or that of the tiles), else from
the category names in the label rasters, else from their colour tables (``#rrggbb``); what has no name is
called by its number, or ``r,g,b`` in colour images. Numbers and colours are understood beside any names.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from asd_cli.data.class_names import ClassNames, find_class_names
from asd_cli.data.discovery import TileSource
from asd_cli.data.listing import parent_of
from asd_cli.errors import LabelError
from asd_cli.raster.grid import Grid
from asd_cli.raster.scene import Scene
from asd_cli.raster.windows import Window, write_windows
from asd_cli.vector.label_polygons import UNLABELLED, LabelPolygons
from asd_cli.vector.labels import IGNORED, LabelReader, LabelSource, RasterLabels, colour_name

_SCAN_PX = 2048  # side of the windows in which labels are scanned
_LISTED = 20  # classes named in an error

Codes = NDArray[np.int32]


class ConstantLabels:
    """A label that is the same everywhere: the class of a tile's folder, or no label at all."""

    def __init__(self, code: int) -> None:
        self._code = code

    @property
    def names(self) -> Mapping[int, str]:
        """Empty: the name is that of the folder."""
        return {}

    def read(self, window: Window) -> Codes:
        """(height, width) int32, all the same code."""
        return np.full(window.shape, self._code, dtype=np.int32)

    def close(self) -> None:
        """Nothing to close."""


class LabelOpener:
    """Opens the labels of one set of tiles alike; vector files are loaded once and kept."""

    def __init__(self, sources: Sequence[TileSource], names: ClassNames | None = None) -> None:
        """Find ``classes.csv``, unless `names` are known, and the classes by folder of `sources`."""
        self.class_names: ClassNames | None = names or (find_class_names(_folders(sources)) if sources else None)
        folders = sorted({source.folder_class for source in sources if source.folder_class})
        self.folder_codes: Mapping[str, int] = {name: code for code, name in enumerate(folders, start=1)}
        self._polygons: dict[LabelSource, LabelPolygons] = {}

    def open(self, source: TileSource, grid: Grid, *, quiet: bool = False) -> LabelReader:
        """The label of a tile on its grid; `quiet`: no warning about a cropped overhang."""
        label = source.label
        if label is None:
            return ConstantLabels(self.folder_codes.get(source.folder_class or "", UNLABELLED))
        if label.is_vector:
            if label not in self._polygons:
                self._polygons[label] = LabelPolygons.load(label.path, label.field)
            return self._polygons[label].on_grid(grid, source.path)
        by_colour = self.class_names is not None and self.class_names.by_colour
        return RasterLabels(label.path, grid, source.path, virtual=label.virtual, expand_palette=by_colour, quiet=quiet)


@dataclass(frozen=True)
class ClassTable:
    """Names and codes of the classes of a set of tiles, with the labelled pixels of each.

    `names`: by code, as far as there are any; `pixels`: labelled pixels by code, over all tiles; `by_tile`:
    the same for each tile by its path; `colours`: codes are packed colours; `palette`: packed colour by
    value; `polygons`: the labels are polygons, so code 0 is 'unlabelled'; `labelled`: False if no tile has a
    label or a class by folder; `nodata`: by value, a label that declares it as nodata.
    """

    names: Mapping[int, str] = field(default_factory=dict)
    pixels: Mapping[int, int] = field(default_factory=dict)
    by_tile: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    colours: bool = False
    palette: Mapping[int, int] = field(default_factory=dict)
    polygons: bool = False
    labelled: bool = True
    nodata: Mapping[int, str] = field(default_factory=dict)
    opener: LabelOpener = field(default_factory=lambda: LabelOpener(()))

    @property
    def found(self) -> tuple[int, ...]:
        """Codes that at least one pixel has, in order."""
        return tuple(sorted(code for code, count in self.pixels.items() if count))

    def name(self, code: int) -> str:
        """What a class is called: its name, else its number or ``r,g,b``."""
        if code in self.names:
            return self.names[code]
        return colour_name(code) if self.colours else str(code)

    def listed(self) -> str:
        """The classes found, for messages: all of them in order, or the 20 largest where there are more."""
        codes = self.found
        if len(codes) > _LISTED:
            codes = tuple(sorted(codes, key=lambda code: (-self.pixels[code], code))[:_LISTED])
        names = [self.name(code) for code in codes]
        more = f" and {len(self.found) - _LISTED} more" if len(self.found) > _LISTED else ""
        return ("; " if any("," in name for name in names) else ", ").join(names) + more if names else "none"

    def has(self, name: str) -> bool:
        """Whether a pixel is of the class of just this name, in any case; other ways to name it do not count."""
        return name.strip().casefold() in {self.name(code).casefold() for code in self.found}

    def resolve(self, names: Iterable[str], *, option: str = "--normal", known_suffices: bool = False) -> set[int]:
        """Codes of the classes called so: a name (in any case), a number, ``r,g,b`` or ``#rrggbb``.

        With `known_suffices` a class that no pixel has may be named, if it has a name or is a number.

        Raises:
            LabelError: there is no such class; lists those found and the nearest.
        """
        return {code for name in names for code in self._resolve_one(name.strip(), option, known_suffices)}

    def _resolve_one(self, name: str, option: str, known_suffices: bool) -> set[int]:
        codes = self._codes_called(name)
        present = codes & set(self.found)
        if present or (codes and known_suffices):
            return present or codes
        by_lower = {(other := self.name(code)).casefold(): other for code in self.found}
        near = difflib.get_close_matches(name.casefold(), by_lower, n=1, cutoff=0.5)
        nearest = f" (nearest: {by_lower[near[0]]})" if near else ""
        reason = "no pixel is of this class" if codes & set(self.names) else "no such class"
        hidden = [f"; {code} is nodata in {self.nodata[code]}" for code in sorted(codes) if code in self.nodata]
        raise LabelError(f"{option} {name}: {reason}; found: {self.listed()}{nearest}{''.join(hidden)}")

    def _codes_called(self, name: str) -> set[int]:
        """Codes that `name` may mean, used or not: taken as a name, else a colour, else a number."""
        known = {*self.names, *self.found}
        by_name = {code for code in known if self.name(code).casefold() == name.casefold()}
        if by_name:
            return by_name
        colour = _parse_colour(name)
        if colour is not None:
            return {colour} if self.colours else {code for code in known if self.palette.get(code) == colour}
        is_number = re.fullmatch(r"[+-]?\d+", name) is not None
        return {int(name)} if is_number and not (self.colours or self.polygons) else set()


def scan_classes(
    sources: Sequence[TileSource],
    *,
    names: ClassNames | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ClassTable:
    """Read every label once, window by window, and tell which classes there are.

    `names` take the place of those that a ``classes.csv`` would give. `progress` is called with (tiles done, tiles in
    all). Memory: one window of 2048 x 2048 px.

    Raises:
        LabelError: a label does not fit its tile, or labels contradict each other.
    """
    opener = LabelOpener(sources, names)
    scan = _Scan(opener.class_names)
    for done, source in enumerate(sources, start=1):
        with Scene.open(source.path, virtual=source.virtual) as scene:
            grid = scene.grid
        reader = opener.open(source, grid)
        try:
            scan.add(source, reader, grid)
        finally:
            reader.close()
        if progress is not None:
            progress(done, len(sources))
    return scan.table(opener, sources)


class _Scan:
    """What the labels read so far say; contradictions end it."""

    def __init__(self, class_names: ClassNames | None) -> None:
        self._class_names = class_names
        self._by_tile: dict[str, dict[int, int]] = {}
        self._names: dict[int, tuple[str, str]] = {}  # name and the label that says so
        self._unseen: dict[int, str] = {}
        self._palette: dict[int, int] = {}
        self._nodata: dict[int, str] = {}
        self._first: dict[bool, str] = {}  # a label of values (False) and one of colours (True)

    def add(self, source: TileSource, reader: LabelReader, grid: Grid) -> None:
        """Count the classes of one tile and take over the names that its label knows."""
        label = source.label.path if source.label else source.path
        if isinstance(reader, RasterLabels):
            self._check_kind(reader, label)
            if reader.nodata is not None and float(reader.nodata).is_integer():
                self._nodata.setdefault(int(reader.nodata), label)
        counts = _count(reader, grid)
        self._by_tile[source.path] = counts
        if self._class_names is None or (source.label is not None and source.label.is_vector):
            self._take_names(reader, counts, label)

    def _take_names(self, reader: LabelReader, counts: Mapping[int, int], label: str) -> None:
        """Names count where a pixel bears them: colour tables are full of entries that mean nothing."""
        palette = reader.palette if isinstance(reader, RasterLabels) else {}
        for code, name in reader.names.items():
            if code not in counts:
                self._unseen.setdefault(code, name)
                continue
            known, where = self._names.setdefault(code, (name, label))
            if code in palette:
                self._palette.setdefault(code, palette[code])
            if known != name and known.startswith("#") == name.startswith("#"):
                raise LabelError(
                    f"{label}: class {code} is '{name}' here, but '{known}' in {where}; "
                    "tell the names in a classes.csv (value,name, or r,g,b,name to go by colour)"
                )
            if known.startswith("#"):
                self._names[code] = (name, label)

    def _check_kind(self, reader: RasterLabels, label: str) -> None:
        self._first.setdefault(reader.colours, label)
        if len(self._first) == 2:
            raise LabelError(
                f"{self._first[True]} is a colour image, but {self._first[False]} holds class "
                "numbers; make the labels alike"
            )
        names = self._class_names
        if names is not None and names.by_colour != reader.colours:
            kinds = ("a colour image", "r,g,b,name") if reader.colours else ("no colour image", "value,name")
            raise LabelError(f"{names.path}: does not fit {label}, which is {kinds[0]}; its columns must be {kinds[1]}")

    def table(self, opener: LabelOpener, sources: Sequence[TileSource]) -> ClassTable:
        """What was found, as a table."""
        polygons = any(source.label and source.label.is_vector for source in sources)
        labelled = any(source.label or source.folder_class for source in sources)
        pixels: dict[int, int] = {}
        for counts in self._by_tile.values():
            for code, count in counts.items():
                pixels[code] = pixels.get(code, 0) + count
        names = self._unseen | {code: name for code, (name, _) in self._names.items()}
        if opener.folder_codes:
            names = {code: name for name, code in opener.folder_codes.items()}
        elif self._class_names is not None and not polygons:
            names = dict(self._class_names.names)
        return ClassTable(
            names=_told_apart(names, pixels),
            pixels=pixels,
            by_tile=self._by_tile,
            colours=True in self._first,
            palette=self._palette,
            polygons=polygons,
            labelled=labelled,
            nodata=self._nodata,
            opener=opener,
        )


def _count(reader: LabelReader, grid: Grid) -> dict[int, int]:
    """Labelled pixels of a tile by code."""
    counts: dict[int, int] = {}
    for window in write_windows(grid.height, grid.width, _SCAN_PX):
        codes, numbers = np.unique(reader.read(window), return_counts=True)
        for code, number in zip(codes.tolist(), numbers.tolist(), strict=True):
            counts[code] = counts.get(code, 0) + number
    counts.pop(IGNORED, None)
    return counts


def _told_apart(names: Mapping[int, str], found: Iterable[int]) -> dict[int, str]:
    """Names without those colours of a colour table that several found classes share: they go by number."""
    shared: dict[str, int] = {}
    for code in found:
        name = names.get(code, "")
        shared[name] = shared.get(name, 0) + 1
    return {code: name for code, name in names.items() if not (name.startswith("#") and shared.get(name, 0) > 1)}


def _parse_colour(text: str) -> int | None:
    """Packed colour of ``#rrggbb`` or ``r,g,b``; None for other texts."""
    if re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        return int(text[1:], 16)
    parts = re.fullmatch(r"(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})", text.strip("() "))
    if parts is None or any(int(part) > 255 for part in parts.groups()):
        return None
    red, green, blue = (int(part) for part in parts.groups())
    return red << 16 | green << 8 | blue


def _folders(sources: Sequence[TileSource]) -> list[str]:
    """Where ``classes.csv`` may lie, in order of preference, each once."""
    labels = dict.fromkeys(parent_of(source.label.path) for source in sources if source.label)
    tiles = dict.fromkeys(parent_of(source.path) for source in sources)
    above = [parent_of(folder) if folder != "." else ".." for folder in labels]
    return list(dict.fromkeys([*labels, *above, *tiles]))
