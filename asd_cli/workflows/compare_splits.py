"""Which tiles train and which test: whole tiles, sorted by name, always the same ones."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from asd_cli.data.tiles import TileSet
from asd_cli.errors import InputError
from asd_cli.options import FIRST_HALF, CompareOptions

_log = logging.getLogger(__name__)
_PARTS = ("train", "test")


@dataclass(frozen=True)
class Split:
    """A name and the places of the tiles that train and test."""

    name: str
    train: tuple[int, ...]
    test: tuple[int, ...]


def splits_of(options: CompareOptions, tiles: TileSet) -> tuple[Split, ...]:
    """The splits that `--split` or `--folds` asks for.

    Raises:
        InputError: too few tiles, a damaged file of parts, or a part without normal or anomalous pixels.
    """
    paths = [source.path for source in tiles.sources]
    order = sorted(range(len(paths)), key=lambda place: (PurePosixPath(paths[place]).name, paths[place]))
    if options.folds is not None:
        splits = _folds(order, options.folds)
    elif options.split == FIRST_HALF:
        _require(len(order), 2, "--split first-half")
        half = len(order) // 2
        splits = (Split(FIRST_HALF, tuple(order[:half]), tuple(order[half:])),)
    else:
        splits = (_of_file(options.split, order, paths),)
    _check_pixels(splits, tiles)
    return splits


def _folds(order: Sequence[int], count: int) -> tuple[Split, ...]:
    """K runs of neighbours by name, as neighbours often overlap: each tests once, the others train."""
    _require(len(order), count, f"--folds {count}")
    parts = [part.tolist() for part in np.array_split(np.array(order), count)]
    return tuple(
        Split(
            f"fold-{place}-of-{count}",
            tuple(index for other in parts if other is not part for index in other),
            tuple(part),
        )
        for place, part in enumerate(parts, start=1)
    )


def _require(found: int, wanted: int, option: str) -> None:
    if found < wanted:
        raise InputError(f"{option}: needs {wanted} tiles, {found} found; give more")


def _of_file(name: str, order: Sequence[int], paths: Sequence[str]) -> Split:
    rows = _rows(name)
    chosen: dict[str, list[int]] = {part: [] for part in _PARTS}
    meant: dict[str, str] = {}
    for place in order:
        tile = PurePosixPath(paths[place])
        called = tile.name if tile.name in rows else tile.stem
        if called in rows:
            if called in meant:
                raise InputError(f"--split {name}: {called} is both {meant[called]} and {paths[place]}; rename one")
            meant[called] = paths[place]
            chosen[rows[called]].append(place)
    unknown = [called for called in rows if called not in meant]
    if unknown:
        raise InputError(f"--split {name}: there is no tile {unknown[0]}; name tiles as their files are called")
    for part, places in chosen.items():
        if not places:
            raise InputError(f"--split {name}: no tile is for {part}; its lines are NAME,train or NAME,test")
    return Split(Path(name).stem, tuple(chosen["train"]), tuple(chosen["test"]))


def _rows(name: str) -> dict[str, str]:
    """Part by name of the tile."""
    try:
        text = Path(name).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--split {name}: is neither {FIRST_HALF} nor a text file of NAME,train and NAME,test"
        ) from error
    rows: dict[str, str] = {}
    for number, row in enumerate(csv.reader(text.splitlines()), start=1):
        cells = [cell.strip() for cell in row]
        if len(cells) == 2 and cells[1] in _PARTS:
            if rows.setdefault(*cells) != cells[1]:
                raise InputError(f"--split {name}, line {number}: {cells[0]} cannot both train and test")
        elif any(cells):
            raise InputError(f"--split {name}, line {number}: '{','.join(row)}' is not NAME,train or NAME,test")
    return rows


def _check_pixels(splits: Sequence[Split], tiles: TileSet) -> None:
    """Refuse splits that cannot be trained on or tell nothing, by the labels alone."""
    normal = tiles.normal_pixels()
    telling = []
    for split in splits:
        if not sum(normal[place] for place in split.train):
            raise InputError(
                f"{split.name}: its {len(split.train)} training tile(s) hold no normal pixel; split otherwise"
            )
        telling.append(any(_other_pixels(tiles, place) for place in split.test))
    if not any(telling):
        raise InputError(
            f"{splits[0].name}: no test tile holds an anomalous pixel; split otherwise (--folds, --split FILE)"
        )
    for split, tells in zip(splits, telling, strict=True):
        if not tells:
            _log.warning("%s: no test tile holds an anomalous pixel; most figures leave it out", split.name)


def _other_pixels(tiles: TileSet, place: int) -> int:
    counts: Mapping[int, int] = tiles.classes.by_tile.get(tiles.sources[place].path, {})
    codes = np.array(list(counts), np.int32)
    other = tiles.anomalous_class(codes)
    return sum(counts[int(code)] for code in other if code >= 0)


def drawn(split: Split, tiles: TileSet, number: int) -> tuple[int, ...]:
    """Places of at most `number` test tiles to show, evenly spread over those with normal and anomalous pixels."""
    normal = tiles.normal_pixels()
    both = [place for place in split.test if normal[place] and _other_pixels(tiles, place)] or list(split.test)
    spread = np.linspace(0, len(both) - 1, min(number, len(both))).round().astype(int)
    return tuple(both[index] for index in dict.fromkeys(spread.tolist()))
