"""Training batches from pieces of tiles: the one place where training pixels become tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch

from asd_cli.data.amplitudes import Amplitudes
from asd_cli.data.localised import DrawPatch, Image, LocalAmplitudes, LocalAnomalies, Mask, Patch
from asd_cli.data.pieces import Piece, PieceData, Survey, jittered, read_piece
from asd_cli.data.scaling import Scaling
from asd_cli.data.tiles import TileSet
from asd_cli.methods.base import TrainingBatch
from asd_cli.raster.windows import Window

_FEWEST = 64  # normal pixels below which a crop says nothing about the spread of descriptors
_SHARE = 0.3  # of normal pixels, below which their statistics in a crop are too rough to train with
_MARGIN = 1.0  # how far outside the normal range virtual anomalies may lie, in units of that range
VirtualAnomaly = Callable[[Image, DrawPatch, np.random.Generator], tuple[Image, Mask]]
"""(bands, H, W) in [0, 1], another place to draw from, randomness -> a virtual anomaly and which pixels it changed."""


def virtual_anomaly(amplitudes: Amplitudes | LocalAmplitudes) -> VirtualAnomaly:
    """What makes virtual anomalies of the whole image, or of parts of it."""
    if isinstance(amplitudes, LocalAmplitudes):
        return LocalAnomalies(amplitudes)
    from asd_cli.data.augment import VirtualAnomalies  # its library takes seconds to import

    everywhere = VirtualAnomalies(amplitudes)

    def change(unit: Image, draw: DrawPatch, random: np.random.Generator) -> tuple[Image, Mask]:
        image = everywhere(np.clip(unit, 0.0, 1.0), int(random.integers(2**31)))
        return image, np.ones(unit.shape[1:], bool)

    return change


@dataclass(frozen=True)
class Draws:
    """What the number of a batch stands for.

    seed: of the order, the jitter and the virtual anomalies. networks: how many take turns. crops: batches of a turn.
    """

    seed: int
    networks: int = 1
    crops: int = 1

    def turn(self, number: int) -> tuple[int, int]:
        """The network that a batch is for, and how many it has had before."""
        step, crop = divmod(number, self.crops)
        turn, network = divmod(step, self.networks)
        return network, turn * self.crops + crop


class PieceBatches:
    """Batches of one crop each, a function of `draws` and their number; see `asd_cli.workflows.training.Batches`.

    Args:
        tiles: where pixels come from.
        survey: the pieces.
        scaling: range of each band, for the virtual anomalies.
        virtual: makes them.
        halo: pixels of context.
        draws: what a number stands for; each network sees the pieces that are not held out from it.
        crop: side of a crop, moved at random around its piece, pieces left out that are poor in normal pixels (where
            most are, their poorer half); None takes every piece as it is.
        review_pieces: pieces looked at after an epoch, evenly spread; None takes all.
    """

    def __init__(
        self,
        tiles: TileSet,
        survey: Survey,
        scaling: Scaling,
        virtual: VirtualAnomaly,
        *,
        halo: int,
        draws: Draws,
        crop: int | None,
        review_pieces: int | None,
    ) -> None:
        self._tiles, self._survey, self._scaling, self._virtual = tiles, survey, scaling, virtual
        self._halo, self._draws, self._crop, self._review = halo, draws, crop, review_pieces
        trained = [survey.trains(network) for network in range(draws.networks)]
        self.pieces: Sequence[Sequence[Piece]] = [pieces if crop is None else _rich(pieces) for pieces in trained]
        self._order = lru_cache(maxsize=2 * draws.networks)(self._shuffled)

    def _shuffled(self, network: int, epoch: int) -> list[int]:
        random = np.random.default_rng([self._draws.seed, 1, epoch, network])
        return [int(i) for i in random.permutation(len(self.pieces[network]))]

    def batch(self, number: int) -> TrainingBatch:
        """A crop, with its virtual anomaly."""
        network, before = self._draws.turn(number)
        pieces = self.pieces[network]
        epoch, place = divmod(before, len(pieces))
        piece = pieces[self._order(network, epoch)[place]]
        random = np.random.default_rng([self._draws.seed, 2, number])
        data = None
        if self._crop is not None:
            data = self._read(piece, jittered(piece, self._crop, random))
        if data is None or np.count_nonzero(data.normal) < min(max(_FEWEST, _SHARE * data.normal.size), piece.normal):
            data = self._read(piece, piece.window)
        unit = self._scaling.to_unit(data.chip.pixels, margin=_MARGIN)
        virtual, changed = self._virtual(unit, partial(self._draw, pieces), random)
        inner = changed[self._halo : changed.shape[0] - self._halo, self._halo : changed.shape[1] - self._halo]
        seed = int(random.integers(2**31))
        return _batch(data, self._scaling.from_unit(virtual), inner, seed=seed, network=network)

    def _draw(self, pieces: Sequence[Piece], shape: tuple[int, int], random: np.random.Generator) -> Patch:
        """A patch of a random piece; what the piece's region lacks is mirrored and not normal."""
        piece = pieces[int(random.integers(len(pieces)))]
        window = jittered(piece, max(shape), random)
        with self._tiles.open(piece.tile) as tile:
            data = read_piece(self._tiles, tile, window, 0)
        image = self._scaling.to_unit(data.chip.pixels, margin=_MARGIN)[:, : shape[0], : shape[1]]
        normal = data.normal[: shape[0], : shape[1]]
        missing = [(0, wanted - found) for wanted, found in zip(shape, normal.shape, strict=True)]
        return Patch(np.pad(image, ((0, 0), *missing), mode="symmetric"), np.pad(normal, missing))

    def training(self) -> Iterable[TrainingBatch]:
        """Training pieces, unchanged."""
        return self._unchanged([(piece, 0) for piece in self._survey.training])

    def held_out(self) -> Iterable[TrainingBatch]:
        """Held-out pieces, unchanged, each for a network that does not train on it."""
        folds = self._survey.folds or (self._survey.held_out,)
        mine = enumerate(folds[: self._draws.networks])
        return self._unchanged([(piece, network) for network, fold in mine for piece in fold])

    def _unchanged(self, pieces: Sequence[tuple[Piece, int]]) -> Iterator[TrainingBatch]:
        count = len(pieces) if self._review is None else min(self._review, len(pieces))
        for i in range(count):
            piece, network = pieces[i * len(pieces) // count]
            data = self._read(piece, piece.window)
            yield _batch(data, data.chip.pixels, None, network=network)

    def _read(self, piece: Piece, window: Window) -> PieceData:
        with self._tiles.open(piece.tile) as tile:
            return read_piece(self._tiles, tile, window, self._halo)


def _rich(pieces: Sequence[Piece]) -> Sequence[Piece]:
    """The pieces with enough normal pixels to train with; all of them if none has."""
    shares = [piece.normal / (piece.window.height * piece.window.width) for piece in pieces]
    least = min(_SHARE, float(np.median(shares)))
    rich = [piece for piece, share in zip(pieces, shares, strict=True) if share >= least and piece.normal >= _FEWEST]
    return rich or pieces


def _batch(data: PieceData, virtual: Image, changed: Mask | None, *, seed: int = 0, network: int = 0) -> TrainingBatch:
    arrays = (data.chip.pixels, virtual, data.normal)
    image, other, mask = (torch.from_numpy(np.ascontiguousarray(array))[None] for array in arrays)
    places = None if changed is None else torch.from_numpy(np.ascontiguousarray(changed))[None]
    return TrainingBatch(image, other, mask, places, seed, network)
