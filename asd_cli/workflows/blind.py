"""Held-out pieces, each with the detector as it is without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from asd_cli.data.pieces import Piece, Survey
from asd_cli.data.tiles import TileSet
from asd_cli.density.gaussian import fit_ledoit_wolf
from asd_cli.density.moments import Moments
from asd_cli.density.sample import PixelSample
from asd_cli.methods.base import Detector, EvidenceDetector
from asd_cli.workflows.fitting import add_normal, merged

_SIGN_PIXELS = 500_000


class Blind(NamedTuple):
    """A detector and pieces that it has not seen."""

    detector: Detector
    pieces: Sequence[Piece]


def blind(
    detector: Detector,
    survey: Survey,
    parts: Mapping[int, Moments],
    known: Moments | None = None,
    *,
    trained: bool = True,
) -> list[Blind]:
    """Each fold with a Gaussian of the other tiles' moments (and `known` ones), and where the networks are `trained` on
    these tiles, those that are not trained on the fold; of a single fold, or none, the detector as it is.

    Raises:
        InputError: the other tiles have fewer than two normal pixels.
    """
    if len(survey.folds) < 2:
        return [Blind(detector, survey.held_out)]
    assert isinstance(detector, EvidenceDetector)
    found = []
    for place, fold in enumerate(survey.folds):
        gone = {piece.tile for piece in fold}
        rest = [moments for tile, moments in parts.items() if tile not in gone]
        gaussian = fit_ledoit_wolf(merged([known or Moments.empty(detector.length), *rest], detector.length))
        networks = range(place, detector.networks, len(survey.folds)) if trained else range(detector.networks)
        found.append(Blind(detector.part(networks, gaussian), fold))
    return found


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
