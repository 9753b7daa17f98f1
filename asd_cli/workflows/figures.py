"""What `asd evaluate` reports: one row of figures for all pixels, for each class, for each tile."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asd_cli.metrics.histogram import ScoreCollector
from asd_cli.metrics.iou import confusion_at
from asd_cli.metrics.roc import RocCurve, auc, average_precision, upper_left

_AT = ("miou", "iou_normal", "iou_anomalous", "f1", "precision", "recall", "false_alarm_rate")
_SHOWN = ("miou", "f1", "precision", "recall")
_HEADS = ("", "anomalous", "AUC", "AP", "mIoU", "F1", "prec.", "recall", "FAR", "mIoU*", "F1*", "prec.*", "recall*")
_ONE = int(np.float32(1).view(np.uint32))


@dataclass(frozen=True)
class Direction:
    """Turns scores >= 0 so that higher = more anomalous, and thresholds back into what is written in the raster.

    False-alarm rates (0 to 1, low = anomalous) are turned by mirroring their float32 bit pattern at that of 1: every
    two different rates stay different, and the bins of `ScoreHistogram` keep their relative width.
    """

    lower_is_anomalous: bool = False

    def upwards(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores as written -> higher = more anomalous; NaN stays NaN."""
        if not self.lower_is_anomalous:
            return scores
        known = ~np.isnan(scores)
        bits = (np.where(known, scores, 0) + np.float32(0)).astype(np.float32).view(np.uint32)
        return np.where(known, (_ONE - bits).astype(np.uint32).view(np.float32), np.float32(np.nan))

    def threshold(self, written: float) -> float:
        """A threshold as written -> one for scores turned upwards."""
        return float(self.upwards(np.array([written], np.float32))[0]) if self.lower_is_anomalous else written

    def as_written(self, threshold: float) -> float:
        """Inverse of `threshold`; inf (nothing is called anomalous) becomes a rate of 0."""
        if not self.lower_is_anomalous or math.isnan(threshold):
            return threshold
        return 0.0 if math.isinf(threshold) else self.threshold(threshold)


@dataclass(frozen=True)
class Figures:
    """One row of the table. NaN where a figure has no meaning (no anomalous or no normal pixel).

    `calibrated` figures are at the model's own threshold, `oracle` ones at the upper-left point of the ROC curve of
    this very truth. Thresholds are in units of the scores as written.
    """

    name: str
    pixels: int
    anomalous: int
    auc: float
    average_precision: float
    calibrated_threshold: float
    calibrated: dict[str, float]
    oracle_threshold: float
    oracle: dict[str, float]

    @classmethod
    def of(cls, name: str, curve: RocCurve, threshold: float, direction: Direction) -> Figures:
        """Figures of a curve of scores turned upwards; `threshold` as written."""
        best = upper_left(curve).threshold if curve.has_both_classes else math.nan
        return cls(
            name=name,
            pixels=curve.positives + curve.negatives,
            anomalous=curve.positives,
            auc=auc(curve),
            average_precision=average_precision(curve),
            calibrated_threshold=threshold,
            calibrated=_at(curve, direction.threshold(threshold)),
            oracle_threshold=direction.as_written(best),
            oracle=_at(curve, best),
        )

    def flat(self) -> dict[str, Any]:
        """All figures by name, on one level."""
        row = asdict(self)
        for kind in ("calibrated", "oracle"):
            row.update({f"{kind}_{key}": value for key, value in row.pop(kind).items()})
        return row


def _at(curve: RocCurve, threshold: float) -> dict[str, float]:
    if math.isnan(threshold) or not curve.positives + curve.negatives:
        return dict.fromkeys(_AT, math.nan)
    confusion = confusion_at(curve, threshold)
    return {name: float(getattr(confusion, name)) for name in _AT}


@dataclass(frozen=True)
class EvaluateReport:
    """Pooled figures, one row per anomalous class, one row per tile.

    `exact` is False where scores were binned (2^-12 wide); `classes_left_out`: how many smaller classes have no row of
    their own.
    """

    pooled: Figures
    classes: tuple[Figures, ...]
    tiles: tuple[Figures, ...]
    normal: tuple[str, ...]
    exact: bool
    classes_left_out: int = 0

    def as_json(self) -> dict[str, Any]:
        """All rows, JSON-ready."""
        return asdict(self)

    def rows(self) -> Iterator[tuple[str, Figures]]:
        """Kind and row, in the order of the table."""
        yield "pooled", self.pooled
        yield from (("class", row) for row in self.classes)
        yield from (("tile", row) for row in self.tiles)

    def table(self) -> str:
        """The table as text; columns marked * use the oracle threshold."""
        lines = [_HEADS, *(_cells(kind, row) for kind, row in self.rows())]
        widths = [max(len(line[i]) for line in lines) for i in range(len(_HEADS))]
        text = [
            "  ".join(f"{c:<{w}}" if i == 0 else f"{c:>{w}}" for i, (c, w) in enumerate(zip(line, widths, strict=True)))
            for line in lines
        ]
        return "\n".join([*(line.rstrip() for line in text), *self._notes()])

    def _notes(self) -> Iterator[str]:
        pooled = self.pooled
        names = "; ".join(self.normal) if any("," in name for name in self.normal) else ", ".join(self.normal)
        yield (
            f"{pooled.pixels} pixels; normal: {names}; at the calibrated threshold {pooled.calibrated_threshold:.4g}; "
            f"* oracle: at the upper-left ROC point of this truth ({pooled.oracle_threshold:.4g})"
        )
        if self.classes_left_out:
            yield f"{self.classes_left_out} smaller classes have no row; the pooled row counts them"
        if not self.exact:
            yield "pooled figures are of scores in bins of 2^-12 of their value"


def _cells(kind: str, row: Figures) -> tuple[str, ...]:
    def text(value: float) -> str:
        return "-" if math.isnan(value) else f"{value:.3f}"

    at, best = row.calibrated, row.oracle
    share = row.anomalous / row.pixels if row.pixels else math.nan
    cells = [f"{100 * share:.3g}%" if row.pixels else "-", text(row.auc), text(row.average_precision)]
    cells += [text(at[key]) for key in _SHOWN]
    cells.append("-" if math.isnan(at["false_alarm_rate"]) else f"{at['false_alarm_rate']:.2g}")
    cells += [text(best[key]) for key in _SHOWN]
    return (row.name if kind == "pooled" else f"{kind} {row.name}", *cells)


class ClassIndex:
    """Places 1, 2, ... of the anomalous classes (the largest first where there are more than `limit`, which share the
    place behind); 0 is normal. Codes of one name are one class."""

    def __init__(self, pixels: dict[str, list[int]], sizes: dict[int, int], limit: int) -> None:
        """`pixels`: anomalous codes by class name; `sizes`: labelled pixels of each code."""
        total = {name: sum(sizes.get(code, 0) for code in codes) for name, codes in pixels.items()}
        largest = sorted(total, key=lambda name: (-total[name], name))[:limit]
        self.left_out = len(pixels) - len(largest)
        self.names = tuple(largest if self.left_out else pixels)
        places = {name: place for place, name in enumerate(self.names, start=1)}
        by_code = sorted((code, places.get(name, limit + 1)) for name, codes in pixels.items() for code in codes)
        self._codes = np.array([code for code, _ in by_code], np.int32)
        self._places = np.array([place for _, place in by_code], np.uint8)

    def places(self, codes: NDArray[np.int32]) -> NDArray[np.uint8]:
        """(n,) anomalous codes -> (n,) places."""
        return self._places[np.searchsorted(self._codes, codes)]

    def rows(self, scores: ScoreCollector, threshold: float, direction: Direction) -> tuple[Figures, ...]:
        """One row for each class that has scored pixels."""
        present = [(place, name) for place, name in enumerate(self.names, start=1) if scores.count(place)]
        return tuple(Figures.of(name, scores.curve(place), threshold, direction) for place, name in present)
