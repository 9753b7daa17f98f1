"""Scores counted per class in constant memory, for maps that do not fit into it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from asd_cli.errors import InputError
from asd_cli.metrics.roc import IntArray, RocCurve, curve_of_counts, roc_curve

_DROPPED_BITS = 11
BINS = 1 << 20
_HIGHEST_CLASS = 254
# Below this many pixels, scattered additions beat a pass over all bins.
_SMALL = 1 << 16


def score_bins(scores: NDArray[np.float32]) -> IntArray:
    """(n,) scores >= 0, no NaN -> (n,) bins 0 to `BINS` - 1: the float32 bit patterns without their low 11 bits."""
    return ((scores + np.float32(0)).view(np.uint32) >> _DROPPED_BITS).astype(np.int64)


class ScoreHistogram:
    """Streaming, mergeable histogram of scores >= 0 (float32, higher = more anomalous) per class.

    Bins are the float32 bit patterns without their low 11 bits: 2^20 bins, at most 2^-12 of their score wide.
    The curve is exact at every bin edge, and its AUC is within `auc_uncertainty(curve)` of the exact one.
    Memory: 8 MiB for each class that occurs.

    Class 0 is normal, 1 to 254 are anomalous classes (a boolean label means 0 and 1).
    """

    def __init__(self) -> None:
        self._counts: dict[int, IntArray] = {}

    def add(self, score: NDArray[np.floating], label: NDArray[np.integer] | NDArray[np.bool_]) -> None:
        """Count pixels; score and label have one shape, pixels with a NaN score count for nothing.

        Raises:
            InputError: shapes differ, a score is negative, or a class is outside 0 to 254.
        """
        self._count(*_checked(score, label))

    def _count(self, scores: NDArray[np.float32], labels: NDArray[np.uint8]) -> None:
        bins = score_bins(scores)
        for index in np.flatnonzero(np.bincount(labels)):
            chosen = bins[labels == index]
            counts = self._of_class(int(index))
            if chosen.size < _SMALL:
                np.add.at(counts, chosen, 1)
            else:
                counts += np.bincount(chosen, minlength=BINS)

    def _of_class(self, index: int) -> IntArray:
        if index not in self._counts:
            self._counts[index] = np.zeros(BINS, dtype=np.int64)
        return self._counts[index]

    def merge(self, other: ScoreHistogram) -> None:
        """Add the counts of another histogram; the order of merges does not matter."""
        for index, counts in other._counts.items():
            self._of_class(index)[:] += counts

    @property
    def classes(self) -> tuple[int, ...]:
        """Classes that occur, in ascending order."""
        return tuple(sorted(self._counts))

    def count(self, class_index: int) -> int:
        """Number of pixels of a class."""
        return int(self._counts[class_index].sum()) if class_index in self._counts else 0

    def curve(self, class_index: int | None = None) -> RocCurve:
        """Curve of one anomalous class, or all (None), against normal; thresholds are lower bin edges."""
        normal = self._counts.get(0, np.zeros(BINS, dtype=np.int64))
        anomalous = np.zeros(BINS, dtype=np.int64)
        for index in _wanted(class_index, self.classes):
            anomalous += self._counts[index]
        filled = np.flatnonzero(normal + anomalous)[::-1]
        edges = (filled.astype(np.uint32) << _DROPPED_BITS).view(np.float32)
        return curve_of_counts(edges.astype(np.float64), anomalous[filled], normal[filled])


class ScoreCollector:
    """Scores per class: exact up to `exact_limit` pixels (5 bytes each), beyond that a `ScoreHistogram`.

    Which of the two depends on the number of pixels only, so the result is the same for every order of tiles
    and merges. Scores (>= 0, higher = more anomalous) are kept as float32; classes as in `ScoreHistogram`.
    """

    def __init__(self, exact_limit: int = 4_000_000) -> None:
        self.exact_limit = exact_limit
        self._size = 0
        self._chunks: list[tuple[NDArray[np.float32], NDArray[np.uint8]]] = []
        self._histogram: ScoreHistogram | None = None

    @property
    def exact(self) -> bool:
        """Whether every score is still kept as it is."""
        return self._histogram is None

    @property
    def size(self) -> int:
        """Number of pixels with a score."""
        return self._size

    def add(self, score: NDArray[np.floating], label: NDArray[np.integer] | NDArray[np.bool_]) -> None:
        """Take in pixels; score and label have one shape, pixels with a NaN score count for nothing.

        Raises:
            InputError: shapes differ, a score is negative, or a class is outside 0 to 254.
        """
        self._take(*_checked(score, label))

    def _take(self, scores: NDArray[np.float32], labels: NDArray[np.uint8]) -> None:
        self._size += scores.size
        if self._histogram is None:
            self._chunks.append((scores, labels))
            if self._size > self.exact_limit:
                self._spill()
        else:
            self._histogram._count(scores, labels)

    def _spill(self) -> ScoreHistogram:
        if self._histogram is None:
            self._histogram = ScoreHistogram()
            for scores, labels in self._chunks:
                self._histogram._count(scores, labels)
            self._chunks.clear()
        return self._histogram

    def merge(self, other: ScoreCollector) -> None:
        """Take in what another collector holds; the other one stays as it is."""
        if other._histogram is None:
            for scores, labels in list(other._chunks):
                self._take(scores, labels)
        else:
            self._spill().merge(other._histogram)
            self._size += other._size

    @property
    def classes(self) -> tuple[int, ...]:
        """Classes that occur, in ascending order."""
        if self._histogram is not None:
            return self._histogram.classes
        return tuple(sorted({int(index) for _, labels in self._chunks for index in np.unique(labels)}))

    def count(self, class_index: int) -> int:
        """Number of pixels of a class."""
        if self._histogram is not None:
            return self._histogram.count(class_index)
        return sum(int(np.count_nonzero(labels == class_index)) for _, labels in self._chunks)

    def curve(self, class_index: int | None = None) -> RocCurve:
        """Curve of one anomalous class, or of all of them (None), against normal."""
        if self._histogram is not None:
            return self._histogram.curve(class_index)
        _wanted(class_index, ())
        scores = np.concatenate([np.empty(0, dtype=np.float32), *(scores for scores, _ in self._chunks)])
        labels = np.concatenate([np.empty(0, dtype=np.uint8), *(labels for _, labels in self._chunks)])
        if class_index is not None:
            chosen = (labels == 0) | (labels == class_index)
            scores, labels = scores[chosen], labels[chosen]
        return roc_curve(scores, labels > 0)


def _wanted(class_index: int | None, classes: tuple[int, ...]) -> list[int]:
    if class_index is not None and not 1 <= class_index <= _HIGHEST_CLASS:
        raise ValueError(f"class {class_index} is no anomalous class; they are 1 to {_HIGHEST_CLASS}")
    return [index for index in classes if index > 0 and class_index in (None, index)]


def _checked(
    score: NDArray[np.floating], label: NDArray[np.integer] | NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Own, flat copies without NaN scores; negative zero becomes zero, for the bit patterns' sake."""
    score, label = np.asarray(score), np.asarray(label)
    if score.shape != label.shape:
        raise InputError(f"scores {score.shape} and labels {label.shape} differ in shape; bring them onto one grid")
    scored = ~np.isnan(score)
    scores = score[scored].astype(np.float32) + np.float32(0.0)
    labels = label[scored]
    if scores.size and scores.min() < 0.0:
        raise InputError(f"score {scores.min():g} is negative; scores and distances must be 0 or more")
    if labels.size and not 0 <= labels.min() <= labels.max() <= _HIGHEST_CLASS:
        raise InputError(
            f"label classes {labels.min()} to {labels.max()} are outside 0 to {_HIGHEST_CLASS};"
            " leave out ignored pixels (often 255)"
        )
    return scores, labels.astype(np.uint8)
