"""Held-out pieces, each with the detector as it is without them.

What all networks are trained on can be held out from the Gaussian alone, and the range of the bands, which scales
pixels, is of all tiles.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import torch

from asd_cli.data.known import KnownTiles
from asd_cli.data.pieces import Piece, Survey
from asd_cli.data.tiles import TileSet
from asd_cli.density.normal import NormalPixels
from asd_cli.density.sample import shared_samples
from asd_cli.errors import TrainingError
from asd_cli.methods.base import DescriptorDetector, Detector, EvidenceDetector
from asd_cli.workflows.fitting import NOT_FINITE, covariance_rank, normal_rows

_log = logging.getLogger(__name__)
_SIGN_PIXELS = 500_000


class Blind(NamedTuple):
    """A detector and pieces that it has not seen; see `blind`."""

    detector: Detector
    pieces: Sequence[Piece]


def blind(
    detector: Detector,
    survey: Survey,
    parts: Mapping[int, NormalPixels],
    tiles: KnownTiles,
    earlier: NormalPixels | None = None,
) -> list[Blind]:
    """Held-out pieces with the networks that are not trained on their tile, of known `tiles`, and of several folds with
    what it knows of the normal pixels of the tiles outside their fold (and `earlier` ones). Pieces that all networks
    are trained on are left to all of them where the Gaussian at least is new to them, and left out of a single fold.
    """
    found = []
    everything = tuple(range(detector.networks))
    apart = None
    if len(survey.folds) > 1 and isinstance(detector, DescriptorDetector):
        apart = _Apart(detector, parts, survey.identities, earlier)
    for fold in survey.folds or (survey.held_out,):
        judge = detector if apart is None else apart.without(fold)
        groups: dict[tuple[int, ...], list[Piece]] = {}
        for tile, own in groupby(fold, key=lambda piece: piece.tile):
            networks = tiles.new_to(survey.identities[tile], detector.networks)
            groups.setdefault(everything if networks is None else networks, []).extend(own)
        for networks, pieces in groups.items():
            if networks == everything or (apart and not networks):
                found.append(Blind(judge, pieces))
            elif networks and isinstance(judge, EvidenceDetector):
                found.append(Blind(judge.part(networks), pieces))
    if apart and apart.known:
        _log.warning(
            "%d held-out tile(s) are judged by a Gaussian that knows them, since the others have too few pixels or "
            "vary in fewer bands; the calibration may expect too few false alarms: give more tiles",
            apart.known,
        )
    return found


class _Apart:
    """A detector and its normal pixels tile by tile, beside earlier ones, of which some can be left out.

    known: tiles that could not be.
    """

    def __init__(
        self,
        detector: DescriptorDetector,
        parts: Mapping[int, NormalPixels],
        identities: Mapping[int, int],
        earlier: NormalPixels | None,
    ) -> None:
        self._detector, self._parts, self._identities = detector, parts, identities
        self._earlier = [] if earlier is None else [earlier]
        self._whole = NormalPixels.of_all(detector.length, [*self._earlier, *parts.values()])
        self._rank = covariance_rank(self._whole.moments)
        self.known = 0

    def without(self, fold: Sequence[Piece]) -> DescriptorDetector:
        """The detector as it is without the tiles of a fold; as it is where those left are too few for a Gaussian, or
        do not vary in all that the whole varies in, so that distances along it would mean nothing."""
        # the same pixels may have come twice
        gone = {self._identities[piece.tile] for piece in fold}
        kept = (part for tile, part in self._parts.items() if self._identities[tile] not in gone)
        rest = NormalPixels.of_all(self._detector.length, [*self._earlier, *kept])
        if rest.moments.count < 2 or covariance_rank(rest.moments) < self._rank:
            self.known += len({piece.tile for piece in fold})
            return self._detector
        # as careful as with all tiles: it stands for the Gaussian of these
        return self._detector.knowing(replace(rest, squares=float(rest.moments.count) ** 2 / self._whole.tiles))


def weigh_signs(
    detector: EvidenceDetector, held_out: Sequence[Blind], tiles: TileSet, device: torch.device, seed: int
) -> None:
    """Show the detector, with which those that stand for it share the evidence, the signs of held-out normal pixels: of
    each of n tiles a uniform sample of at most 500,000 / n, or of 1000.

    Raises:
        TrainingError: none of them is finite.
    """
    signing = [(one, pieces) for one, pieces in held_out if isinstance(one, EvidenceDetector)]
    numbers = {piece.tile for _, pieces in signing for piece in pieces}
    samples = shared_samples(sorted(numbers), _SIGN_PIXELS, detector.signs, seed)
    for one, pieces in signing:
        engine = one.sign_engine(device, one.piece_side())
        for piece, rows in normal_rows(one, engine, detector.signs, tiles, pieces, lambda count: None):
            samples[piece.tile].add(rows, piece.key)
    shown = [sample.rows for sample in samples.values() if sample.count]
    if not shown:
        raise TrainingError(NOT_FINITE)
    detector.set_evidence(shown)


def held_out_text(tiles: int, folds: int) -> str:
    """How many tiles are held out, for people."""
    return f"{tiles} of them held out in turn" if folds > 1 else f"{tiles} tile(s) held out"
