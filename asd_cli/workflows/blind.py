"""Held-out pieces, each with the detector as it is without them.

The range of the bands alone, which scales pixels, is of all tiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from itertools import groupby
from typing import NamedTuple

import torch

from asd_cli.data.known import KnownTiles
from asd_cli.data.pieces import Piece, Survey
from asd_cli.data.tiles import TileSet
from asd_cli.density.normal import NormalPixels
from asd_cli.density.sample import PixelSample
from asd_cli.methods.base import DescriptorDetector, Detector, EvidenceDetector
from asd_cli.workflows.fitting import add_normal

_SIGN_PIXELS = 500_000


class Blind(NamedTuple):
    """A detector and pieces that it has not seen."""

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
    are trained on are left out.
    """
    found = []
    everything = tuple(range(detector.networks))
    apart = None
    if len(survey.folds) > 1 and isinstance(detector, DescriptorDetector):
        apart = _Apart(detector.length, parts, earlier)
    for fold in survey.folds or (survey.held_out,):
        normal = None if apart is None else apart.without(fold)
        groups: dict[tuple[int, ...], list[Piece]] = {}
        for tile, own in groupby(fold, key=lambda piece: piece.tile):
            networks = tiles.new_to(survey.identities[tile], detector.networks)
            groups.setdefault(everything if networks is None else networks, []).extend(own)
        for networks, pieces in groups.items():
            if networks == everything and normal is None:
                found.append(Blind(detector, pieces))
            elif networks and isinstance(detector, EvidenceDetector):
                found.append(Blind(detector.part(networks, normal), pieces))
    return found


class _Apart:
    """Normal pixels tile by tile, beside earlier ones, of which some can be left out."""

    def __init__(self, length: int, parts: Mapping[int, NormalPixels], earlier: NormalPixels | None) -> None:
        self._parts, self._earlier = parts, NormalPixels.of_all(length, [] if earlier is None else [earlier])
        self._whole = reduce(NormalPixels.merge, parts.values(), self._earlier)

    def without(self, fold: Sequence[Piece]) -> NormalPixels:
        """Those outside the tiles of a fold; all where too few for a Gaussian are left."""
        gone = {piece.tile for piece in fold}
        rest = reduce(NormalPixels.merge, (p for tile, p in self._parts.items() if tile not in gone), self._earlier)
        if rest.moments.count < 2:
            return self._whole
        # as careful as with all tiles: it stands for the Gaussian of these
        return replace(rest, squares=float(rest.moments.count) ** 2 / self._whole.tiles)


def weigh_signs(
    detector: EvidenceDetector, held_out: Sequence[Blind], tiles: TileSet, device: torch.device, seed: int
) -> None:
    """Show the detector, and those that stand for it, the signs of held-out normal pixels, a uniform sample where there
    are more than half a million.

    Raises:
        TrainingError: none of them is finite.
    """
    sample = PixelSample(_SIGN_PIXELS, detector.signs, seed)
    signing = [(one, pieces) for one, pieces in held_out if isinstance(one, EvidenceDetector)]
    for one, pieces in signing:
        engine = one.sign_engine(device, one.piece_side())
        add_normal(sample, one, engine, tiles, pieces, lambda count: None)
    for one in (detector, *(one for one, _ in signing)):
        one.set_evidence(sample.rows)


def held_out_text(tiles: int, folds: int) -> str:
    """How many tiles are held out, for people."""
    return f"{tiles} of them held out in turn" if folds > 1 else f"{tiles} tile(s) held out"
