from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from asd_cli.errors import InputError
from asd_cli.metrics.histogram import ScoreCollector, ScoreHistogram
from asd_cli.metrics.iou import confusion_at
from asd_cli.metrics.roc import RocCurve, auc, auc_uncertainty, average_precision, roc_curve, upper_left

Pixels = tuple[NDArray[np.float32], NDArray[np.uint8]]


def pixels(count: int, seed: int = 0) -> Pixels:
    random = np.random.default_rng(seed)
    label = random.choice(3, size=count, p=[0.8, 0.15, 0.05]).astype(np.uint8)
    return random.gamma(2.0 + label, size=count).astype(np.float32), label


def assert_same_curve(got: RocCurve, expected: RocCurve) -> None:
    np.testing.assert_array_equal(got.thresholds, expected.thresholds)
    np.testing.assert_array_equal(got.tp, expected.tp)
    np.testing.assert_array_equal(got.fp, expected.fp)
    assert (got.positives, got.negatives) == (expected.positives, expected.negatives)


def rounded(score: NDArray[np.float32]) -> NDArray[np.float32]:
    """The lower bin edge of every score."""
    return ((score.view(np.uint32) >> 11) << 11).view(np.float32)


def test_curve_is_that_of_scores_rounded_down_to_bin_edges() -> None:
    score, label = pixels(100_000)
    histogram = ScoreHistogram()
    histogram.add(score, label)
    edges = rounded(score)
    assert np.max(score / edges - 1.0) < 2**-12
    assert_same_curve(histogram.curve(), roc_curve(edges, label > 0))
    chosen = label != 1
    assert_same_curve(histogram.curve(2), roc_curve(edges[chosen], label[chosen] == 2))
    assert histogram.classes == (0, 1, 2)
    assert histogram.count(2) == np.sum(label == 2)
    assert histogram.count(7) == 0


def test_exact_for_scores_on_bin_edges() -> None:
    score, label = pixels(5000)
    edges = rounded(score)
    histogram = ScoreHistogram()
    histogram.add(edges, label)
    assert_same_curve(histogram.curve(), roc_curve(edges, label > 0))


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e6])
def test_figures_are_within_the_stated_bound(scale: float) -> None:
    score, label = pixels(60_000, seed=3)
    score = score * np.float32(scale)
    histogram = ScoreHistogram()
    histogram.add(score, label)
    curve, exact = histogram.curve(), roc_curve(score, label > 0)
    bound = auc_uncertainty(curve)
    assert 0.0 < bound < 1e-4
    assert abs(auc(curve) - auc(exact)) <= bound + 1e-15
    assert average_precision(curve) == pytest.approx(average_precision(exact), abs=1e-3)
    for edge in curve.thresholds[::97]:
        assert confusion_at(curve, edge) == confusion_at(exact, edge)
    ours, best = upper_left(curve), upper_left(exact)
    assert ours.tpr - ours.fpr == pytest.approx(best.tpr - best.fpr, abs=1e-3)


def test_extreme_scores_find_a_bin() -> None:
    score = np.array([0.0, -0.0, 1e-45, 1e-38, 1.0, 3.4e38, np.inf], dtype=np.float32)
    histogram = ScoreHistogram()
    histogram.add(score, np.array([False, True, True, True, True, True, True]))
    curve = histogram.curve()
    assert curve.thresholds[1] == np.inf
    assert curve.thresholds[-1] == 0.0
    assert curve.tp[-1] == 6


def test_small_and_large_batches_and_merges_agree() -> None:
    score, label = pixels(200_000, seed=1)
    whole, first, second = ScoreHistogram(), ScoreHistogram(), ScoreHistogram()
    whole.add(score, label)
    for start in range(0, 150_000, 9_999):
        first.add(score[start : min(start + 9_999, 150_000)], label[start : min(start + 9_999, 150_000)])
    second.add(score[150_000:].reshape(100, 500), label[150_000:].reshape(100, 500))
    second.merge(first)
    assert_same_curve(second.curve(), whole.curve())
    assert_same_curve(second.curve(1), whole.curve(1))


def test_collector_is_exact_up_to_its_limit() -> None:
    score, label = pixels(1000)
    collector = ScoreCollector(exact_limit=1000)
    collector.add(score[:400], label[:400])
    collector.add(score[400:], label[400:])
    assert collector.exact
    assert collector.size == 1000
    assert collector.classes == (0, 1, 2)
    assert collector.count(1) == np.sum(label == 1)
    assert_same_curve(collector.curve(), roc_curve(score, label > 0))
    chosen = label != 2
    assert_same_curve(collector.curve(1), roc_curve(score[chosen], label[chosen] == 1))
    collector.add(score[:1], label[:1])
    assert not collector.exact
    assert collector.size == 1001
    histogram = ScoreHistogram()
    histogram.add(score, label)
    histogram.add(score[:1], label[:1])
    assert_same_curve(collector.curve(2), histogram.curve(2))
    assert collector.classes == (0, 1, 2)
    assert collector.count(0) == histogram.count(0)


@pytest.mark.parametrize("limit", [99, 100])
def test_collector_does_not_depend_on_order_or_merging(limit: int) -> None:
    score, label = pixels(100)
    parts = [(score[:30], label[:30]), (score[30:35], label[30:35]), (score[35:], label[35:])]
    collectors = []
    for order in itertools.permutations(parts):
        flat, left, right = (ScoreCollector(exact_limit=limit) for _ in range(3))
        for part in order:
            flat.add(*part)
        left.add(*order[0])
        right.add(*order[1])
        right.add(*order[2])
        left.merge(right)
        collectors += [flat, left]
        again = ScoreCollector(exact_limit=limit)
        again.merge(flat)
        collectors.append(again)
    for collector in collectors:
        assert collector.exact is (limit == 100)
        assert collector.size == 100
        assert_same_curve(collector.curve(), collectors[0].curve())


def test_later_changes_to_the_input_do_not_show() -> None:
    score, label = pixels(50)
    collector = ScoreCollector()
    collector.add(score, label)
    expected = collector.curve()
    score[:] = 0.0
    label[:] = 0
    assert_same_curve(collector.curve(), expected)


@pytest.mark.parametrize("target", [ScoreHistogram, ScoreCollector])
def test_invalid_pixels_and_errors(target: type[ScoreHistogram] | type[ScoreCollector]) -> None:
    sink = target()
    sink.add(np.array([np.nan, 1.0, 2.0]), np.array([1, 0, 1]))
    assert (sink.count(0), sink.count(1)) == (1, 1)
    sink.add(np.zeros(0), np.zeros(0, dtype=np.uint8))
    with pytest.raises(InputError, match=r"score -0\.5 is negative"):
        sink.add(np.array([-0.5]), np.array([0]))
    with pytest.raises(InputError, match=r"label classes 0 to 255 are outside 0 to 254; leave out ignored pixels"):
        sink.add(np.ones(2), np.array([0, 255]))
    with pytest.raises(InputError, match=r"scores \(2,\) and labels \(3,\) differ in shape"):
        sink.add(np.ones(2), np.array([0, 1, 1]))
    with pytest.raises(ValueError, match="class 0 is no anomalous class"):
        sink.curve(0)
    assert sink.curve(9).positives == 0
    assert target().curve().thresholds.tolist() == [np.inf]
