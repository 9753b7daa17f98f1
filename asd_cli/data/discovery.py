"""Which rasters are training tiles, and where the label of each comes from.

Tiles are given as folders, files or globs (``*``, ``?``, ``[...]``, ``**``), also inside ``/vsi...`` paths. A
folder stands for the rasters directly in it (GeoTIFF, VRT, ENVI, JPEG 2000, PNG, JPEG), or those in its
``images/``. Labels are looked for in this order; the first rule that finds any holds for all tiles:

1. ``--labels``: a folder of rasters with equal names but for the suffix (also ``NAME_label``, ``NAME_mask``, and
   ``NAME`` for a score raster ``NAME_anomaly``), one raster for a single tile, or a vector file (``--label-field``
   names its column of classes; pixels outside all polygons are of the class ``unlabelled``, which is not normal unless
   named by ``--normal``);
2. ``labels/`` or ``masks/`` (also ``label/``, ``mask/``, ``gt/``) beside ``images/``, or inside the tiles'
   folder, with equal names but for the suffix;
3. ``NAME_label.tif`` (also ``_labels``, ``_mask``, ``_gt``) beside ``NAME.tif``;
4. one folder per class: the folder given holds no rasters itself but sub-folders of rasters; or, where
   folders or files are given, ``--normal`` names a folder of theirs. The folder's name is the class of every
   pixel;
5. none: every valid pixel is normal.
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from asd_cli.data.listing import (
    Folder,
    Listing,
    expand_glob,
    has_wildcard,
    is_side_file,
    is_vsi,
    join,
    parent_of,
    stem_of,
)
from asd_cli.errors import LabelError, RasterError
from asd_cli.raster.virtual import VirtualRaster
from asd_cli.vector.label_polygons import is_vector
from asd_cli.vector.labels import LabelSource

IMAGE_FOLDER = "images"
LABEL_FOLDERS = ("labels", "label", "masks", "mask", "gt")
LABEL_ENDINGS = ("_label", "_labels", "_mask", "_gt")
SCORE_ENDING = "_anomaly"  # `asd predict` calls the score raster of NAME.tif so in a folder of several

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TileSource:
    """A training raster with its label (a raster or vector file), its class by folder, or neither.

    `virtual` is read in place of the file, which it is named after.
    """

    path: str
    label: LabelSource | None = None
    folder_class: str | None = None
    virtual: VirtualRaster | None = None


def discover_tiles(
    paths: Sequence[str],
    *,
    labels: str | None = None,
    label_field: str | None = None,
    normal: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> list[TileSource]:
    """Tiles below `paths`, sorted by path, each once, with labels found by the rules of this module.

    `normal`: class names as given to ``--normal``, used by rule 4 only. `exclude`: patterns of names or paths
    to leave out.

    Raises:
        RasterError: a path does not exist or holds no rasters.
        LabelError: some tiles have a label and others none, or labels cannot be told apart.
    """
    listing = Listing()
    tiles = [tile for tile in _all_below(paths, listing, exclude) if tile.path != labels]
    if not tiles:
        raise RasterError(f"{', '.join(paths)}: no tiles left to read; give a folder of rasters")
    if labels is not None:
        return _with_given_labels(tiles, labels, label_field, listing)
    if label_field is not None:
        raise LabelError(f"--label-field {label_field}: needs --labels with a vector file")
    paired = [replace(tile, label=_paired_label(tile.path, listing)) for tile in tiles]
    if any(tile.label for tile in paired):
        _require_labels(paired, "labels/, masks/ or NAME_label beside it")
        return [replace(tile, folder_class=None) for tile in paired]
    _refuse_stray_labels(tiles, listing)
    return _with_folder_classes(tiles, normal)


def discover_rasters(paths: Sequence[str]) -> list[TileSource]:
    """As `discover_tiles`, without labels.

    Raises:
        RasterError: a path does not exist or holds no rasters.
    """
    return [replace(tile, label=None, folder_class=None) for tile in _all_below(paths, Listing(), ())]


def _all_below(paths: Sequence[str], listing: Listing, exclude: Sequence[str]) -> list[TileSource]:
    """The tiles of all arguments, sorted by path, each once."""
    found = {tile.path: tile for path in paths for tile in _expand(path, listing)}
    return [found[path] for path in sorted(found) if not _is_excluded(path, exclude)]


def _expand(path: str, listing: Listing) -> list[TileSource]:
    """Tiles of one argument: a file, a folder, or a pattern."""
    text = path if is_vsi(path) else Path(path).as_posix()
    if is_vsi(text):
        exists = bool(PurePosixPath(text).suffix) and not has_wildcard(text)
        exists = exists or listing.folder(text).exists
    else:
        exists = Path(text).exists()
    if not exists and has_wildcard(text):
        matches = [match for match in expand_glob(text) if _is_folder(match, listing) or _is_tile(match, listing)]
        if not matches:
            raise RasterError(f"{path}: no raster or folder matches this pattern")
        return [tile for match in matches for tile in _expand_one(match, listing, by_name=False)]
    if not exists:
        remote = "; in remote stores name the files" if is_vsi(text) else ""
        raise RasterError(f"{path}: no such file or folder{remote}")
    return _expand_one(text, listing, by_name=True)


def _expand_one(path: str, listing: Listing, *, by_name: bool) -> list[TileSource]:
    """Tiles of an existing file or folder; `by_name`: the user named it, no pattern did."""
    if _is_folder(path, listing):
        return _tiles_of_folder(listing.folder(path), listing)
    if is_side_file(PurePosixPath(path).name):
        return []  # the shell expands tiles/* to side files, too
    folder = listing.folder(parent_of(path))
    if _labels_what(path, folder) or (not by_name and _looks_like_label(path)):
        return []
    return [TileSource(path)]


def _tiles_of_folder(folder: Folder, listing: Listing) -> list[TileSource]:
    images = [name for name in folder.folders if name.lower() == IMAGE_FOLDER]
    for name in images:
        inner = listing.folder(join(folder.path, name))
        if inner.rasters:
            if folder.rasters:
                _log.warning("%s: only images/ is read, %d rasters beside it are not", folder.path, len(folder.rasters))
            return _own_tiles(inner)
    if folder.rasters:
        return _own_tiles(folder)
    subs = {name: listing.folder(join(folder.path, name)) for name in folder.folders}
    subs = {name: sub for name, sub in subs.items() if sub.rasters}
    stray = [name for name in subs if name.lower() in LABEL_FOLDERS]
    if stray and len(subs) > len(stray):
        raise LabelError(
            f"{folder.path}: has {stray[0]}/ but no images/ beside it; rename the folder of the tiles "
            f"to images, or give that folder and --labels {join(folder.path, stray[0])}"
        )
    tiles = [replace(tile, folder_class=name) for name, sub in subs.items() for tile in _own_tiles(sub)]
    if not tiles:
        raise RasterError(
            f"{folder.path}: holds no rasters (.tif, .vrt, .jp2, .png, .jpg, ENVI ...), neither "
            "itself nor in images/ nor in one sub-folder per class"
        )
    return tiles


def _own_tiles(folder: Folder) -> list[TileSource]:
    """The rasters directly in a folder, label files left out."""
    tiles = []
    for name in folder.rasters:
        path = join(folder.path, name)
        if _labels_what(path, folder):
            continue
        if _looks_like_label(path):
            _log.warning("%s: named like a label, but there is no tile of that name; skipped", path)
            continue
        tiles.append(TileSource(path))
    return tiles


def _is_folder(path: str, listing: Listing) -> bool:
    if is_vsi(path):
        return listing.folder(path).exists
    return Path(path).is_dir()


def _is_tile(path: str, listing: Listing) -> bool:
    return PurePosixPath(path).name in listing.folder(parent_of(path)).rasters


def _is_excluded(path: str, patterns: Iterable[str]) -> bool:
    name = PurePosixPath(path).name
    return any(fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(path, pattern) for pattern in patterns)


def _label_base(path: str) -> str | None:
    """Stem of the tile that a file of this name would label; None when it is not named like a label."""
    stem = stem_of(PurePosixPath(path).name)
    for ending in LABEL_ENDINGS:
        if stem.lower().endswith(ending) and len(stem) > len(ending):
            return stem[: -len(ending)]
    return None


def _looks_like_label(path: str) -> bool:
    return _label_base(path) is not None


def _labels_what(path: str, folder: Folder) -> bool:
    """Whether a file is the label of a tile in the same folder."""
    base = _label_base(path)
    return base is not None and base in folder.by_stem


def _paired_label(path: str, listing: Listing) -> LabelSource | None:
    """The label of a tile by rules 2 and 3."""
    folder = listing.folder(parent_of(path))
    stem = stem_of(PurePosixPath(path).name)
    for place in _label_folders(folder, listing):
        match = _match(stem, path, place, ("", *LABEL_ENDINGS))
        if match:
            return LabelSource(match)
    match = _match(stem, path, folder, LABEL_ENDINGS)
    return LabelSource(match) if match else None


def _label_folders(folder: Folder, listing: Listing) -> list[Folder]:
    """Folders of labels for tiles in `folder` by rule 2, in order; those without rasters left out."""
    places = []
    if PurePosixPath(folder.path).name.lower() == IMAGE_FOLDER or folder.path == ".":
        inside = Path.cwd().name.lower() if folder.path == "." else IMAGE_FOLDER
        if inside == IMAGE_FOLDER:
            places.append(listing.folder(parent_of(folder.path) if folder.path != "." else ".."))
    places.append(folder)
    candidates = []
    for place in places:
        by_lower = {name.lower(): name for name in place.folders}
        names = [by_lower[name] for name in LABEL_FOLDERS if name in by_lower]
        candidates += [listing.folder(join(place.path, name)) for name in names]
    return [candidate for candidate in candidates if candidate.rasters]


def _match(stem: str, tile: str, folder: Folder, endings: Iterable[str]) -> str | None:
    """The one raster in `folder` that is called like the tile, for the first ending that fits."""
    for ending in endings:
        names = folder.by_stem.get(stem + ending, ())
        if len(names) > 1:
            raise LabelError(f"{tile}: has several labels in {folder.path}: {', '.join(names)}; keep one")
        if names:
            return join(folder.path, names[0])
    return None


def _with_given_labels(
    tiles: Sequence[TileSource], labels: str, field: str | None, listing: Listing
) -> list[TileSource]:
    """Rule 1."""
    vector = is_vector(labels)
    if field is not None and not vector:
        raise LabelError(f"--label-field {field}: is for vector files, but --labels {labels} is none")
    if vector:
        return [TileSource(tile.path, LabelSource(labels, field)) for tile in tiles]
    path = labels if is_vsi(labels) else Path(labels).as_posix()
    if _is_folder(path, listing):
        folder = listing.folder(path)
        matches = [(tile.path, _given_label(tile.path, folder)) for tile in tiles]
        paired = [TileSource(tile, LabelSource(match) if match else None) for tile, match in matches]
        _require_labels(paired, labels)
        return paired
    if not is_vsi(path) and not Path(path).exists():
        raise LabelError(f"--labels {labels}: no such file or folder")
    if len(tiles) > 1:
        raise LabelError(
            f"--labels {labels}: is one raster, but there are {len(tiles)} tiles; give a folder of "
            "label rasters with equal names, or a vector file"
        )
    return [TileSource(tiles[0].path, LabelSource(path))]


def _given_label(tile: str, folder: Folder) -> str | None:
    """The label of a tile in the folder of labels; that of a score raster may be called like its scene."""
    stem = stem_of(PurePosixPath(tile).name)
    endings = ("", *LABEL_ENDINGS)
    found = _match(stem, tile, folder, endings)
    if found is None and stem.endswith(SCORE_ENDING):
        found = _match(stem.removesuffix(SCORE_ENDING), tile, folder, endings)
    return found


def _require_labels(tiles: Sequence[TileSource], where: str) -> None:
    missing = [tile.path for tile in tiles if tile.label is None]
    if missing:
        raise LabelError(
            f"{missing[0]}: has no label in {where}; {len(missing)} of {len(tiles)} tiles have none; "
            "add them or leave those tiles out"
        )


def _refuse_stray_labels(tiles: Sequence[TileSource], listing: Listing) -> None:
    """A folder of labels of which none fits is a mistake in the names, not a set without labels."""
    for tile in tiles:
        places = _label_folders(listing.folder(parent_of(tile.path)), listing)
        if places:
            raise LabelError(
                f"{tile.path}: has no label of equal name in {places[0].path} (there: "
                f"{places[0].rasters[0]} ...), nor has any other tile; rename them or give --labels"
            )


def _with_folder_classes(tiles: Sequence[TileSource], normal: Sequence[str]) -> list[TileSource]:
    """Rules 4 and 5."""
    wanted = {name.strip().casefold() for name in normal}
    parents = {tile.path: PurePosixPath(parent_of(tile.path)).name for tile in tiles}
    by_folder = any(tile.folder_class for tile in tiles)
    if not by_folder and not any(name.casefold() in wanted for name in parents.values()):
        return list(tiles)
    classed = [replace(tile, folder_class=tile.folder_class or parents[tile.path]) for tile in tiles]
    nameless = [tile.path for tile in classed if not tile.folder_class]
    if nameless:
        raise LabelError(f"{nameless[0]}: lies in no folder that names its class; move it into one")
    return classed
