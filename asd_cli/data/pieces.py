"""Pieces of training tiles: what is trained on, what is held out, and one pass over the tiles to know both.

Whole tiles are held out where there are several with normal pixels; of a single one, the region behind a cut across
its longer side. Tiles can be held out in turn, and from each of several networks other ones.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from asd_cli.data.tiles import LabelledTile, TileSet
from asd_cli.density.sample import PixelSample
from asd_cli.errors import TrainingError
from asd_cli.raster.context import read_with_halo
from asd_cli.raster.scene import Chip
from asd_cli.raster.windows import Window

_log = logging.getLogger(__name__)
_SAMPLE_PIXELS = 200_000
_SAMPLE_VALUES = 20_000_000
_LEAST_GAP = 40  # px between what is trained on and what is held out of one tile; farther around weighs little
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Piece:
    """A window of a tile, the region of the tile that it may move in, and its number of normal pixels (at least 1)."""

    tile: int
    window: Window
    region: Window
    normal: int

    @property
    def key(self) -> tuple[int, int, int]:
        """Its own among the pieces of a survey, and their order."""
        return self.tile, self.window.row, self.window.col


@dataclass(frozen=True)
class Survey:
    """The pieces of all tiles and a sample (n, bands) of the raw normal pixels of the training pieces.

    folds: groups of held-out pieces. One is held out from everything; of several, each from the Gaussian and from the
    networks whose number leaves its place as remainder, if there is one, while `training` holds all pieces. None:
    nothing is held out. identities: of each tile with normal pixels, by its number, 64 bits of a hash of its valid
    pixels, whatever its name and labels.
    """

    training: tuple[Piece, ...]
    folds: tuple[tuple[Piece, ...], ...]
    sample: PixelSample
    skipped: tuple[str, ...]
    identities: Mapping[int, int]

    @property
    def held_out(self) -> tuple[Piece, ...]:
        """The pieces that show how a model does: those of the folds, or all where nothing is held out."""
        return tuple(piece for fold in self.folds for piece in fold) if self.folds else self.training

    def trains(self, network: int) -> tuple[Piece, ...]:
        """The pieces that a network (counted from 0) is trained on."""
        gone = set(self.folds[network % len(self.folds)]) if self.folds else set()
        return tuple(piece for piece in self.training if piece not in gone)

    @property
    def normal_pixels(self) -> int:
        """Number of normal pixels in the training pieces."""
        return sum(piece.normal for piece in self.training)

    @property
    def training_tiles(self) -> int:
        """Number of tiles with training pieces."""
        return len({piece.tile for piece in self.training})

    @property
    def held_out_tiles(self) -> int:
        """Number of tiles with held-out pieces."""
        return len({piece.tile for fold in self.folds for piece in fold})


@dataclass(frozen=True, eq=False)
class PieceData:
    """Pixels of a piece with `halo` px around, its normal pixels (h, w) and its class codes (h, w)."""

    chip: Chip
    normal: BoolArray
    codes: NDArray[np.int32]


def read_piece(tiles: TileSet, tile: LabelledTile, window: Window, halo: int, *, block: int = 1) -> PieceData:
    """Read a window of an open tile; holes near valid pixels are filled, but never normal.

    With `block` the chip is grown to whole blocks, to the right and downwards; `normal` and `codes` are of the window
    alone.
    """
    chip = read_with_halo(tile.scene, window.round_up(block), halo)
    rows, cols = slice(halo, halo + window.height), slice(halo, halo + window.width)
    codes = tile.read_codes(window)
    inner = Chip(chip.pixels[:, rows, cols], chip.valid[rows, cols])
    return PieceData(chip, tiles.normal_mask(inner, codes), codes)


def survey_tiles(
    tiles: TileSet,
    *,
    crop: int,
    halo: int,
    holdout: float,
    seed: int,
    in_turn: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Survey:
    """One pass over the tiles: pieces of at most `crop` px a side, the held-out share, a sample of normal pixels.

    The same tiles and seed give the same split. `in_turn`: all tiles are held out, in folds of that share, but for
    folds of more than two thirds of the normal pixels, and the sample is of all tiles. With a `holdout` of 0 nothing
    is. `progress` gets tiles done and in all.

    Raises:
        TrainingError: no tile has a normal pixel, or a single tile has too few to hold some out.
    """
    surveyor = _Surveyor(tiles, crop, seed)
    useful: list[list[Piece]] = []
    held: list[list[Piece]] = []
    skipped: list[str] = []
    identities: dict[int, int] = {}
    sample, held_sample = surveyor.empty_sample(), surveyor.empty_sample()
    order = np.random.default_rng([seed, 0]).permutation(len(tiles))
    for done, index in enumerate(int(i) for i in order):
        pieces, pixels, identity = surveyor.whole_tile(index)
        progress(done + 1, len(tiles))
        if not pieces:
            skipped.append(tiles.sources[index].path)
            continue
        identities[index] = identity
        if holdout and useful and len(held) < max(1, round((len(useful) + len(held) + 1) * holdout)):
            held.append(pieces)
            held_sample.merge(pixels)
        else:
            useful.append(pieces)
            sample.merge(pixels)
    if not useful:
        raise TrainingError(
            f"none of the {len(tiles)} tiles has a normal pixel; check --normal, labels, masks and nodata"
        )
    groups: list[list[Piece]] = []
    training = _joined(useful)
    if held:
        groups = [_joined(held)]
        if in_turn and len(held) * 3 <= (len(held) + len(useful)) * 2:
            further = [_joined(useful[place : place + len(held)]) for place in range(0, len(useful), len(held))]
            groups = _fair([*groups, *further], training + groups[0])
            kept = set(groups[0]) if len(groups) == 1 else set()
            training = [piece for piece in chain(training, *held) if piece not in kept]
            sample.merge(held_sample)
    elif holdout:
        training, split_off, sample = surveyor.split(training[0].tile, halo, holdout)
        groups = [split_off]
    ordered = tuple(_in_order(group) for group in groups)
    return Survey(_in_order(training), ordered, sample, tuple(sorted(skipped)), identities)


def _in_order(pieces: list[Piece]) -> tuple[Piece, ...]:
    return tuple(sorted(pieces, key=lambda piece: piece.key))


def _fair(groups: list[list[Piece]], everything: list[Piece]) -> list[list[Piece]]:
    """The groups that leave at least a third of the normal pixels to train on; the first where none does."""
    most = sum(piece.normal for piece in everything) * 2 / 3
    return [group for group in groups if sum(piece.normal for piece in group) <= most] or groups[:1]


def _joined(groups: list[list[Piece]]) -> list[Piece]:
    return list(chain.from_iterable(groups))


class _Surveyor:
    def __init__(self, tiles: TileSet, crop: int, seed: int) -> None:
        self._tiles, self._crop, self._seed = tiles, crop, seed

    def empty_sample(self) -> PixelSample:
        bands = self._tiles.band_count
        return PixelSample(min(_SAMPLE_PIXELS, max(2000, _SAMPLE_VALUES // bands)), bands, self._seed)

    def whole_tile(self, index: int) -> tuple[list[Piece], PixelSample, int]:
        """Pieces that have a normal pixel, a sample of these pixels, and the tile's identity."""
        with self._tiles.open(index) as tile:
            return self._region(index, tile, Window(0, 0, *tile.grid.shape))

    def _region(self, index: int, tile: LabelledTile, region: Window) -> tuple[list[Piece], PixelSample, int]:
        pieces: list[Piece] = []
        sample = self.empty_sample()
        # sums of the bits of all pixels: the same however the region is cut into windows
        sums = np.zeros(self._tiles.band_count + 1, np.uint64)
        for window in partition(region, self._crop) if min(region.shape) > 0 else ():
            data = read_piece(self._tiles, tile, window, 0)
            valid = data.chip.pixels[:, data.chip.valid]
            sums += np.append(valid.view(np.uint32).sum(axis=1, dtype=np.uint64), np.uint64(valid.shape[1]))
            count = int(np.count_nonzero(data.normal))
            if count:
                sample.add(data.chip.pixels[:, data.normal].T, (index, window.row, window.col))
                pieces.append(Piece(index, window, region, count))
        identity = hashlib.sha256(repr((region.shape, sums.tolist())).encode()).digest()
        return pieces, sample, int.from_bytes(identity[:8], "big")

    def split(self, index: int, halo: int, holdout: float) -> tuple[list[Piece], list[Piece], PixelSample]:
        """Cut a tile so that about `holdout` of its normal pixels lie behind the cut, a halo away from the rest; of a
        small tile, of which that would take too much, at least 40 px."""
        with self._tiles.open(index) as tile:
            height, width = tile.grid.shape
            along = 0 if height >= width else 1
            counts = self._profile(tile, along)
            gap = min(halo, max(_LEAST_GAP, len(counts) // 8))
            cut = int(np.searchsorted(np.cumsum(counts), (1 - holdout) * counts.sum())) // 2 * 2
            if along == 0:
                before, behind = Window(0, 0, cut - gap, width), Window(cut, 0, height - cut, width)
            else:
                before, behind = Window(0, 0, height, cut - gap), Window(0, cut, height, width - cut)
            training, sample, _ = self._region(index, tile, before)
            held_out, *_ = self._region(index, tile, behind)
            if not training or not held_out:
                raise TrainingError(
                    f"{self._tiles.sources[index].path}: the only tile with normal pixels, and it has too few "
                    f"({int(counts.sum())}) to "
                    f"hold out a share of {holdout:g}; give more or larger tiles"
                )
            return training, held_out, sample

    def _profile(self, tile: LabelledTile, axis: int) -> NDArray[np.int64]:
        """Normal pixels in each row (axis 0) or column (axis 1)."""
        height, width = tile.grid.shape
        counts = np.zeros(height if axis == 0 else width, np.int64)
        for window in partition(Window(0, 0, height, width), self._crop):
            normal = read_piece(self._tiles, tile, window, 0).normal
            if axis == 0:
                counts[window.row : window.row_stop] += normal.sum(axis=1)
            else:
                counts[window.col : window.col_stop] += normal.sum(axis=0)
        return counts


def partition(region: Window, size: int) -> list[Window]:
    """Windows of at most `size` px a side that cover a region once, of nearly equal size, at even offsets from its
    corner."""
    return [
        Window(region.row + top, region.col + left, bottom - top, right - left)
        for top, bottom in _spans(region.height, size)
        for left, right in _spans(region.width, size)
    ]


def _spans(length: int, size: int) -> list[tuple[int, int]]:
    size = max(size // 2 * 2, 2)
    count = -(-length // size)
    edges = [min(2 * round(i * length / count / 2), length) for i in range(count)] + [length]
    return [(a, b) for a, b in pairwise(edges) if b > a]


def jittered(piece: Piece, size: int, random: np.random.Generator) -> Window:
    """A window of `size` px a side (or the whole region, where that is smaller) up to half a size away from the
    piece."""
    starts = []
    for origin, first, length in (
        (piece.window.row, piece.region.row, piece.region.height),
        (piece.window.col, piece.region.col, piece.region.width),
    ):
        wanted = origin + int(random.integers(-(size // 2), size // 2 + 1))
        starts.append(int(np.clip(wanted, first, first + max(length - size, 0))))
    return Window(starts[0], starts[1], min(size, piece.region.height), min(size, piece.region.width))
