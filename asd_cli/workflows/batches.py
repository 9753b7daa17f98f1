"""Training batches from pieces of tiles: the one place where training pixels become tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch

from asd_cli.data.augment import VirtualAnomalies
from asd_cli.data.pieces import Piece, PieceData, Survey, jittered, read_piece
from asd_cli.data.scaling import Scaling
from asd_cli.data.tiles import TileSet
from asd_cli.methods.base import TrainingBatch
from asd_cli.raster.windows import Window

_FEWEST = 64  # normal pixels below which a crop says nothing about the spread of descriptors


class PieceBatches:
    """Batches of one crop each, a function of (seed, step); see `asd_cli.workflows.training.Batches`.

    Args:
        tiles: where pixels come from.
        survey: the pieces.
        scaling: range of each band, for the virtual anomalies.
        virtual: makes them.
        halo: pixels of context.
        seed: of the order, the jitter and the virtual anomalies.
        crop: side of a crop, moved at random around its piece, pieces with hardly a normal pixel left out; None takes
            every piece as it is.
        review_pieces: pieces looked at after an epoch, evenly spread; None takes all.
    """

    def __init__(
        self,
        tiles: TileSet,
        survey: Survey,
        scaling: Scaling,
        virtual: VirtualAnomalies,
        *,
        halo: int,
        seed: int,
        crop: int | None,
        review_pieces: int | None,
    ) -> None:
        self._tiles, self._survey, self._scaling, self._virtual = tiles, survey, scaling, virtual
        self._halo, self._seed, self._crop, self._review = halo, seed, crop, review_pieces
        enough = [piece for piece in survey.training if piece.normal >= _FEWEST]
        self.pieces: Sequence[Piece] = survey.training if crop is None else enough or survey.training
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def _shuffled(self, epoch: int) -> list[int]:
        return [int(i) for i in np.random.default_rng([self._seed, 1, epoch]).permutation(len(self.pieces))]

    def batch(self, step: int) -> TrainingBatch:
        """The crop of a step, with its virtual anomaly."""
        epoch, place = divmod(step, len(self.pieces))
        piece = self.pieces[self._order(epoch)[place]]
        random = np.random.default_rng([self._seed, 2, step])
        data = None
        if self._crop is not None:
            data = self._read(piece, jittered(piece, self._crop, random))
        if data is None or np.count_nonzero(data.normal) < min(_FEWEST, piece.normal):
            data = self._read(piece, piece.window)
        unit = self._scaling.to_unit(data.chip.pixels)
        virtual = self._scaling.from_unit(self._virtual(unit, int(random.integers(2**31))))
        return _batch(data, virtual, seed=int(random.integers(2**31)))

    def training(self) -> Iterable[TrainingBatch]:
        """Training pieces, unchanged."""
        return self._unchanged(self._survey.training)

    def held_out(self) -> Iterable[TrainingBatch]:
        """Held-out pieces, unchanged."""
        return self._unchanged(self._survey.held_out)

    def _unchanged(self, pieces: Sequence[Piece]) -> Iterator[TrainingBatch]:
        count = len(pieces) if self._review is None else min(self._review, len(pieces))
        for i in range(count):
            piece = pieces[i * len(pieces) // count]
            data = self._read(piece, piece.window)
            yield _batch(data, data.chip.pixels)

    def _read(self, piece: Piece, window: Window) -> PieceData:
        with self._tiles.open(piece.tile) as tile:
            return read_piece(self._tiles, tile, window, self._halo)


def _batch(data: PieceData, virtual: np.ndarray, *, seed: int = 0) -> TrainingBatch:
    image, changed = (torch.from_numpy(np.ascontiguousarray(pixels))[None] for pixels in (data.chip.pixels, virtual))
    return TrainingBatch(image, changed, torch.from_numpy(data.normal)[None], seed)
