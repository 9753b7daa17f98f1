"""Receiver operating characteristic, precision and recall from per-pixel scores; exact, ties handled.

Everywhere: higher score = more anomalous, label True = anomalous; a pixel is called anomalous when
score >= threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asd_cli.errors import InputError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RocCurve:
    """Counts of pixels called anomalous at every threshold.

    Attributes:
        thresholds: (K,) float64, strictly decreasing, the first is inf (nothing is called anomalous).
        tp: (K,) int64 anomalous pixels with score >= threshold.
        fp: (K,) int64 normal pixels with score >= threshold.
        positives: number of anomalous pixels.
        negatives: number of normal pixels.
    """

    thresholds: FloatArray
    tp: IntArray
    fp: IntArray
    positives: int
    negatives: int

    @cached_property
    def tpr(self) -> FloatArray:
        """(K,) true-positive rate (recall); NaN without anomalous pixels."""
        return _share(self.tp, self.positives)

    @cached_property
    def fpr(self) -> FloatArray:
        """(K,) false-positive rate; NaN without normal pixels."""
        return _share(self.fp, self.negatives)

    @property
    def has_both_classes(self) -> bool:
        """Whether there are anomalous and normal pixels; AUC and the upper-left point are NaN otherwise."""
        return self.positives > 0 and self.negatives > 0


class OperatingPoint(NamedTuple):
    """One point of a ROC curve; all NaN when a class is absent."""

    threshold: float
    tpr: float
    fpr: float


class PrecisionRecall(NamedTuple):
    """Precision and recall (K,) at decreasing thresholds (K,)."""

    thresholds: FloatArray
    precision: FloatArray
    recall: FloatArray


def roc_curve(score: NDArray[np.floating], label: NDArray[np.bool_]) -> RocCurve:
    """Exact curve of scores and labels of one shape, with one point per distinct score.

    Pixels with a NaN score (invalid) count for nothing. Memory about 40 bytes a pixel.

    Raises:
        InputError: shapes differ, or labels are not boolean.
    """
    scores, labels = flat_pairs(score, label)
    order = np.argsort(scores)[::-1]
    scores, labels = scores[order], labels[order]
    # Ties end where the next score differs; the appended value makes the very last pixel an end as well.
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], scores.size > 0)[: scores.size])
    tp = np.cumsum(labels, dtype=np.int64)[last]
    return RocCurve(
        np.concatenate([[np.inf], scores[last].astype(np.float64)]),
        np.concatenate([np.zeros(1, dtype=np.int64), tp]),
        np.concatenate([np.zeros(1, dtype=np.int64), last + 1 - tp]),
        int(np.count_nonzero(labels)),
        int(np.count_nonzero(~labels)),
    )


def curve_of_counts(thresholds: FloatArray, anomalous: IntArray, normal: IntArray) -> RocCurve:
    """Curve of counted pixels: `anomalous[k]` and `normal[k]` at the k-th of the decreasing `thresholds`."""
    zero = np.zeros(1, dtype=np.int64)
    tp = np.concatenate([zero, np.cumsum(anomalous, dtype=np.int64)])
    fp = np.concatenate([zero, np.cumsum(normal, dtype=np.int64)])
    return RocCurve(np.concatenate([[np.inf], thresholds]), tp, fp, int(tp[-1]), int(fp[-1]))


def auc(curve: RocCurve) -> float:
    """Area under the curve in [0, 1], ties counted half; NaN when a class is absent."""
    if not curve.has_both_classes:
        return float("nan")
    return float(np.sum(np.diff(curve.fpr) * (curve.tpr[1:] + curve.tpr[:-1])) / 2.0)


def auc_uncertainty(curve: RocCurve) -> float:
    """How far `auc` may be off when the true order within ties is unknown: half the share of tied pairs.

    NaN when a class is absent.
    """
    if not curve.has_both_classes:
        return float("nan")
    return float(np.sum(np.diff(curve.tpr) * np.diff(curve.fpr)) / 2.0)


def average_precision(curve: RocCurve) -> float:
    """Sum of precision x increase of recall over the thresholds, in steps; NaN without anomalous pixels."""
    if curve.positives == 0:
        return float("nan")
    called = (curve.tp + curve.fp)[1:]
    return float(np.sum(np.diff(curve.tpr) * curve.tp[1:] / called))


def precision_recall(curve: RocCurve) -> PrecisionRecall:
    """Precision and recall at every threshold; precision is 1 where nothing is called anomalous."""
    called = curve.tp + curve.fp
    precision = np.where(called > 0, curve.tp / np.maximum(called, 1), 1.0)
    return PrecisionRecall(curve.thresholds, precision, curve.tpr)


def upper_left(curve: RocCurve) -> OperatingPoint:
    """Point with the largest TPR - FPR (Youden 1950), of equals the one with the largest threshold.

    It sees the labels, so report it as oracle. NaN when a class is absent; inf when none beats chance.
    """
    if not curve.has_both_classes:
        return OperatingPoint(float("nan"), float("nan"), float("nan"))
    if curve.positives * curve.negatives < 2**62:
        # In integers ties are ties; rounding of the two rates would break them at random.
        best = int(np.argmax(curve.tp * curve.negatives - curve.fp * curve.positives))
    else:
        best = int(np.argmax(curve.tpr - curve.fpr))
    return OperatingPoint(float(curve.thresholds[best]), float(curve.tpr[best]), float(curve.fpr[best]))


def flat_pairs(score: NDArray[np.floating], label: NDArray[np.bool_]) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Scores and labels as vectors without the pixels whose score is NaN.

    Raises:
        InputError: shapes differ, or labels are not boolean.
    """
    score, label = np.asarray(score), np.asarray(label)
    if score.shape != label.shape:
        raise InputError(f"scores {score.shape} and labels {label.shape} differ in shape; bring them onto one grid")
    if label.dtype != np.bool_:
        raise InputError(f"labels are {label.dtype}, not boolean; compare them with the anomalous class first")
    scored = ~np.isnan(score)
    return score[scored], label[scored]


def _share(counts: IntArray, total: int) -> FloatArray:
    if total == 0:
        return np.full(counts.shape, np.nan)
    return counts / total
