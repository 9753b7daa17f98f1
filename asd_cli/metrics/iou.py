"""Counts of right and wrong pixels at one threshold, and the figures made of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asd_cli.errors import InputError
from asd_cli.metrics.roc import RocCurve, flat_pairs


@dataclass(frozen=True)
class Confusion:
    """Pixel counts; "positive" = called anomalous. Figures are in [0, 1], and NaN where they would be 0 / 0.

    Counts of several tiles add up with `+`.
    """

    tp: int
    fp: int
    tn: int
    fn: int

    @classmethod
    def of(cls, called: NDArray[np.bool_], label: NDArray[np.bool_]) -> Confusion:
        """Count pixels called anomalous against labels (True = anomalous) of one shape.

        Raises:
            InputError: shapes differ, or one of the arrays is not boolean.
        """
        called, label = np.asarray(called), np.asarray(label)
        if called.shape != label.shape:
            raise InputError(f"called pixels {called.shape} and labels {label.shape} differ in shape; use one grid")
        if called.dtype != np.bool_ or label.dtype != np.bool_:
            raise InputError(f"called pixels are {called.dtype} and labels {label.dtype}; both must be boolean")
        tp = int(np.count_nonzero(called & label))
        fp = int(np.count_nonzero(called)) - tp
        fn = int(np.count_nonzero(label)) - tp
        return cls(tp, fp, called.size - tp - fp - fn, fn)

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.tp + other.tp, self.fp + other.fp, self.tn + other.tn, self.fn + other.fn)

    @property
    def iou_anomalous(self) -> float:
        """TP / (TP + FP + FN); NaN when nothing is anomalous or called so."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def iou_normal(self) -> float:
        """TN / (TN + FP + FN); NaN when nothing is normal or called so."""
        return _ratio(self.tn, self.tn + self.fp + self.fn)

    @property
    def miou(self) -> float:
        """Mean IoU of normal and anomalous; a class whose IoU is NaN does not count, NaN when both are."""
        defined = [value for value in (self.iou_normal, self.iou_anomalous) if not np.isnan(value)]
        return sum(defined) / len(defined) if defined else float("nan")

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); NaN when nothing is anomalous or called so."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def precision(self) -> float:
        """TP / (TP + FP); NaN when nothing is called anomalous."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """TP / (TP + FN); NaN without anomalous pixels."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def false_alarm_rate(self) -> float:
        """FP / (FP + TN); NaN without normal pixels."""
        return _ratio(self.fp, self.fp + self.tn)


def confusion_at(curve: RocCurve, threshold: float) -> Confusion:
    """Counts for score >= threshold from a curve.

    Exact for an exact curve. For a histogram's curve, exact when `threshold` is a bin edge; else pixels in
    the threshold's own bin (2^-12 of its value wide) count as not called.

    Raises:
        InputError: the threshold is NaN.
    """
    if np.isnan(threshold):
        raise InputError("the threshold is not a number; it is undefined when one of the classes is absent")
    # Scores between two neighbouring thresholds do not occur, so the smallest one >= threshold tells all.
    place = int(np.searchsorted(-curve.thresholds, -threshold, side="right")) - 1
    tp, fp = int(curve.tp[max(place, 0)]), int(curve.fp[max(place, 0)])
    return Confusion(tp, fp, curve.negatives - fp, curve.positives - tp)


def confusion_of(score: NDArray[np.floating], label: NDArray[np.bool_], threshold: float) -> Confusion:
    """Counts for score >= threshold from arrays of one shape (True = anomalous); NaN scores do not count.

    Raises:
        InputError: shapes differ, labels are not boolean, or the threshold is NaN.
    """
    if np.isnan(threshold):
        raise InputError("the threshold is not a number; it is undefined when one of the classes is absent")
    scores, labels = flat_pairs(score, label)
    return Confusion.of(scores >= threshold, labels)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
