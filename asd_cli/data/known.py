"""Tiles that networks are trained on, told by their pixels: which network has not seen which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asd_cli.data.pieces import Survey


@dataclass(frozen=True, eq=False)
class KnownTiles:
    """The tiles of a training.

    identities: (n,) uint64, see `Survey`. folds: (n,) int16, the place of the fold that a tile belongs to, -1 where all
    networks are trained on it.
    """

    identities: NDArray[np.uint64]
    folds: NDArray[np.int16]

    @classmethod
    def none(cls) -> KnownTiles:
        """Of networks that are trained on nothing."""
        return cls(np.empty(0, np.uint64), np.empty(0, np.int16))

    @classmethod
    def of(cls, survey: Survey) -> KnownTiles:
        """The tiles of a survey."""
        place = {piece.tile: number for number, fold in enumerate(survey.folds) for piece in fold}
        folds = [place.get(tile, -1) for tile in survey.identities]
        return cls(np.array(list(survey.identities.values()), np.uint64), np.array(folds, np.int16))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> KnownTiles:
        """What `to_arrays` gave; of no arrays, no tiles.

        Raises:
            ValueError: the arrays are not such.
        """
        if not arrays:
            return cls.none()
        identities, folds = arrays["identities"], arrays["folds"]
        shaped = identities.ndim == 1 and identities.shape == folds.shape
        if not (shaped and identities.dtype == np.uint64 and folds.dtype == np.int16 and (folds >= -1).all()):
            raise ValueError("the list of training tiles is damaged")
        return cls(np.array(identities), np.array(folds))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """For the model file."""
        return {"identities": self.identities, "folds": self.folds} if len(self.folds) else {}

    def new_to(self, identity: int, networks: int) -> tuple[int, ...] | None:
        """Which of so many networks are not trained on a tile; None for a tile that is not of the training."""
        places = np.flatnonzero(self.identities == np.uint64(identity))
        if not len(places):
            return None
        count = int(self.folds.max()) + 1
        # the same pixels may have come twice, in two folds
        lacked = [set(range(int(fold), networks, count)) if fold >= 0 else set() for fold in self.folds[places]]
        return tuple(sorted(set.intersection(*lacked)))
