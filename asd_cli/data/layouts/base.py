"""What a layout of folders is, and what several of them need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from asd_cli.data.class_names import ClassNames
from asd_cli.data.discovery import TileSource
from asd_cli.data.listing import Folder, Listing, is_vsi, join
from asd_cli.errors import LabelError, RasterError
from asd_cli.options import TileOptions
from asd_cli.raster.scene import Scene


@dataclass(frozen=True)
class Layout:
    """find: the tiles that options name, given also the normal classes, sorted by path. names: names of the classes
    where the labels do not hold them. bands: bands that are taken unless the options choose some."""

    find: Callable[[TileOptions, Sequence[str]], list[TileSource]]
    names: ClassNames | None = None
    bands: tuple[int, ...] | None = None


def folders(options: TileOptions, listing: Listing, *, part: str, holds: Callable[[Folder], bool]) -> Iterator[Folder]:
    """The folders that the options name; one that does not hold tiles itself stands for its `part` of training tiles.

    Raises:
        RasterError: a path is no folder.
        LabelError: labels are given apart, though the layout has its own.
    """
    if options.labels is not None or options.label_field is not None:
        option = "--labels" if options.labels is not None else "--label-field"
        raise LabelError(f"{option}: is not for --layout {options.layout}, which says where the labels are")
    for path in options.tiles:
        if not is_vsi(path) and not Path(path).is_dir():
            raise RasterError(f"{path}: is no folder; --layout {options.layout} takes folders as they are published")
        folder = listing.folder(path if is_vsi(path) else Path(path).as_posix())
        inner = listing.folder(join(folder.path, part))
        yield inner if not holds(folder) and inner.exists else folder


def partner(folder: Folder, name: str, tile: str) -> str:
    """Path of the file that belongs to a tile.

    Raises:
        LabelError: it is missing.
    """
    if name not in folder.files:
        raise LabelError(f"{tile}: there is no {join(folder.path, name)}; add it, or leave the tile out")
    return join(folder.path, name)


def checked(tiles: Mapping[str, TileSource], options: TileOptions, looked_for: str) -> list[TileSource]:
    """Tiles by path, sorted.

    Raises:
        RasterError: there are none.
    """
    if not tiles:
        raise RasterError(f"{', '.join(options.tiles)}: holds no {looked_for}, as --layout {options.layout} has them")
    return [tiles[path] for path in sorted(tiles)]


def size_of(path: str, *, like: tuple[str, tuple[int, int]] | None = None) -> tuple[int, int]:
    """Height and width of a raster; `like`: another file and its size, which must be the same.

    Raises:
        RasterError: it cannot be opened, or differs in size.
    """
    with Scene.open(path) as scene:
        size = scene.grid.height, scene.grid.width
    if like is not None and size != like[1]:
        raise RasterError(
            f"{path} is {size[1]} x {size[0]} px, but {like[0]} is {like[1][1]} x {like[1][0]} px; they must be alike"
        )
    return size
