"""The calibration of a model from held-out normal pixels, and how good it looks."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from asd_cli.data.pieces import Piece, PieceData
from asd_cli.data.tiles import TileSet
from asd_cli.density.calibration import Calibration
from asd_cli.density.sample import PixelSample, shared_samples
from asd_cli.density.typical import typical, typical_distances
from asd_cli.methods.base import Detector, EvidenceDetector
from asd_cli.metrics.histogram import ScoreCollector
from asd_cli.metrics.roc import auc
from asd_cli.vector.labels import IGNORED
from asd_cli.workflows.blind import Blind, weigh_signs
from asd_cli.workflows.fitting import Advance, mapped_pieces
from asd_cli.workflows.mapping import BlockMapper

_log = logging.getLogger(__name__)
_KEPT = 2_000_000
_OFF = 3.0  # a cross-check this many times off the rate that was asked for is worth a warning
_ODD_TILE = 10.0  # share of a held-out tile above the threshold of the others, in units of the rate
_TINY = 1e-30
_FEWEST_ALARMS = 10  # expected false alarms below which a share says nothing


@dataclass(frozen=True)
class HeldOutFigures:
    """How the model does on held-out normal pixels.

    median, threshold: distances of the typical tile. false_alarm_check: share of the typical one of half the held-out
    tiles above the threshold that the other half gives (of a single tile, halves of its pieces), None where there is
    too little of them. auc: against other classes in the held-out tiles, None without any.
    """

    pixels: int
    median: float
    threshold: float
    false_alarm_rate: float
    false_alarm_check: float | None
    auc: float | None

    def for_header(self) -> dict[str, float | int | None]:
        """What the model file keeps: figures of normal pixels, on which alone its content depends."""
        return {name: value for name, value in asdict(self).items() if name != "auc"}

    def summary(self) -> str:
        """One line for people."""
        text = (
            f"held-out normal pixels: {self.pixels}, median distance {self.median:.3g}, threshold {self.threshold:.3g}"
        )
        if self.false_alarm_check is not None:
            text += f", false alarms {self.false_alarm_check:.2g} for {self.false_alarm_rate:.2g} asked (cross-checked)"
        return text if self.auc is None else f"{text}, AUC against other classes {self.auc:.3f}"


@dataclass(frozen=True)
class _Kept:
    """Samples of distances of held-out normal pixels: of each tile by its number, or of both halves of a single one."""

    parts: dict[int, PixelSample]
    several_tiles: bool
    scores: ScoreCollector

    @property
    def count(self) -> int:
        """How many distances there were."""
        return sum(part.count for part in self.parts.values())

    def distances(self) -> dict[int, NDArray[np.float32]]:
        """Those of each part that has any, (n,)."""
        return {number: part.rows[:, 0] for number, part in self.parts.items() if part.count}

    def of_tiles(self) -> list[NDArray[np.float32]]:
        """Those of each tile that has any, (n,)."""
        if self.several_tiles:
            return list(self.distances().values())
        first, second = self.parts.values()
        whole = PixelSample(first.capacity, 1, first.seed)
        whole.merge(first)
        whole.merge(second)
        return [whole.rows[:, 0]] if whole.count else []


def calibrate(
    detector: Detector,
    tiles: TileSet,
    held_out: Sequence[Blind],
    device: torch.device,
    *,
    rate: float,
    seed: int,
    advance: Advance,
) -> tuple[Calibration, HeldOutFigures]:
    """Distances of held-out normal pixels -> calibration for the typical tile, and how good it looks; warns of what
    makes it doubtful.

    A detector of several signs first learns from the same pixels how to weigh them. At most two million distances are
    kept, or a thousand of each tile where there are more than two thousand: a uniform sample of those of each (of a
    single tile a million).
    """
    if isinstance(detector, EvidenceDetector):
        weigh_signs(detector, held_out, tiles, device, seed)
    kept = _collect(held_out, tiles, device, seed, advance)
    parts = kept.distances()
    distances = typical_distances(kept.of_tiles(), rate)
    calibration = replace(Calibration.fit(distances, rate), count=kept.count)
    curve = kept.scores.curve()
    figures = HeldOutFigures(
        pixels=kept.count,
        median=float(np.median(distances)),
        threshold=calibration.threshold,
        false_alarm_rate=rate,
        false_alarm_check=_cross_check(list(parts.values()), rate),
        auc=auc(curve) if curve.has_both_classes else None,
    )
    _warn(figures, _odd_tiles(parts, rate) if kept.several_tiles else {}, tiles)
    return calibration, figures


def _collect(held_out: Sequence[Blind], tiles: TileSet, device: torch.device, seed: int, advance: Advance) -> _Kept:
    pieces = [piece for _, some in held_out for piece in some]
    numbers = list(dict.fromkeys(piece.tile for piece in pieces))
    several = len(numbers) > 1
    kept = _Kept(shared_samples(numbers if several else [0, 1], _KEPT, 1, seed), several, ScoreCollector())
    for place, (piece, data, distances) in enumerate(_distances(held_out, tiles, device, advance)):
        normal = distances[data.normal][:, None]
        # neighbours in one tile are alike: only whole tiles make an honest check
        key = piece.tile if several else 2 * place // len(pieces)
        kept.parts[key].add(normal, piece.key)
        kept.scores.add(normal[:, 0], np.zeros(len(normal), np.uint8))
        other = ~np.isnan(distances) & (tiles.anomalous_class(data.codes) != IGNORED)
        kept.scores.add(distances[other], np.ones(np.count_nonzero(other), np.uint8))
    return kept


def _distances(
    held_out: Sequence[Blind], tiles: TileSet, device: torch.device, advance: Advance
) -> Iterator[tuple[Piece, PieceData, NDArray[np.float32]]]:
    """Each piece with its data and its distances (h, w)."""
    for detector, pieces in held_out:
        with BlockMapper(detector.distance_engine(device, detector.piece_side()), detector.halo) as mapper:
            for piece, data, values in mapped_pieces(mapper, tiles, pieces, advance):
                yield piece, data, values[0]


def _cross_check(parts: Sequence[NDArray[np.float32]], rate: float) -> float | None:
    """Share of the typical one of every other tile above the threshold of the rest, and the other way round: the mean
    of both. None where either half has fewer than 100 pixels."""
    halves = parts[::2], parts[1::2]
    if min(sum(map(len, half)) for half in halves) < 100:
        return None
    one, other = (Calibration.fit(typical_distances(half, rate), rate) for half in halves)
    return float(one.rate(other.threshold) + other.rate(one.threshold)) / 2


def _odd_tiles(tiles: Mapping[int, NDArray[np.float32]], rate: float) -> dict[int, float]:
    """Held-out tiles with far more pixels above the threshold of the other held-out tiles than asked: their share."""
    telling = {tile: own for tile, own in tiles.items() if len(own) * rate >= _FEWEST_ALARMS / 10}
    if len(telling) < 2:
        return {}
    thresholds = np.array([max(float(np.quantile(own, 1 - rate)), _TINY) for own in telling.values()])
    odd: dict[int, float] = {}
    for place, (tile, own) in enumerate(telling.items()):
        share = float(np.mean(own > typical(np.delete(thresholds, place))))
        if share > _ODD_TILE * rate:
            odd[tile] = share
    return odd


def _warn(figures: HeldOutFigures, odd: Mapping[int, float], tiles: TileSet) -> None:
    for tile, share in odd.items():
        _log.warning(
            "%s: %.2g of its held-out normal pixels lie above the threshold of the other held-out tiles (%.2g asked); "
            "check its labels, or give more tiles like it",
            tiles.sources[tile].path,
            share,
            figures.false_alarm_rate,
        )
    check, rate = figures.false_alarm_check, figures.false_alarm_rate
    if check is None or figures.pixels * max(rate, check) < _FEWEST_ALARMS or rate / _OFF <= check <= rate * _OFF:
        return
    _log.warning(
        "the calibration is doubtful: halves of the held-out tiles give each other %.2g false alarms for %.2g asked; "
        "give more tiles, or hold out more of them",
        check,
        rate,
    )
