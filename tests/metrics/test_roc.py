from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as theirs

from asd_cli.errors import InputError
from asd_cli.metrics.iou import confusion_at
from asd_cli.metrics.roc import (
    auc,
    auc_uncertainty,
    average_precision,
    curve_of_counts,
    precision_recall,
    roc_curve,
    upper_left,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics.npz"
Pairs = tuple[NDArray[np.float64], NDArray[np.bool_]]


def drawn(count: int, levels: int, seed: int) -> Pairs:
    random = np.random.default_rng(seed)
    label = random.random(count) < 0.3
    label[:2] = [True, False]
    return np.floor(levels * random.beta(1.0 + label, 2.0)), label


pairs = st.builds(drawn, st.integers(2, 200), st.sampled_from([1, 3, 20, 10_000]), st.integers(0, 10_000))


def test_golden_numbers() -> None:
    golden = np.load(GOLDEN)
    counted = golden["label"] != golden["ignore_value"]
    curve = roc_curve(golden["score"][counted], golden["label"][counted] == 1)
    point = upper_left(curve)
    assert auc(curve) == pytest.approx(float(golden["auc"]), abs=1e-12)
    assert point.threshold == float(golden["threshold_upper_left"])
    assert point.tpr == pytest.approx(float(golden["tpr"]), abs=1e-12)
    assert point.fpr == pytest.approx(float(golden["fpr"]), abs=1e-12)
    assert confusion_at(curve, point.threshold).miou == pytest.approx(float(golden["miou"]), abs=1e-12)


@settings(max_examples=80, deadline=None)
@given(pair=pairs)
def test_equals_scikit_learn(pair: Pairs) -> None:
    score, label = pair
    curve = roc_curve(score, label)
    fpr, tpr, thresholds = theirs.roc_curve(label, score, drop_intermediate=False)
    np.testing.assert_array_equal(curve.thresholds, thresholds)
    np.testing.assert_allclose(curve.tpr, tpr)
    np.testing.assert_allclose(curve.fpr, fpr)
    assert auc(curve) == pytest.approx(theirs.roc_auc_score(label, score), abs=1e-12)
    assert average_precision(curve) == pytest.approx(theirs.average_precision_score(label, score), abs=1e-12)
    points = precision_recall(curve)
    precision, recall, _ = theirs.precision_recall_curve(label, score)
    # Theirs runs upwards and may stop once every anomalous pixel is found.
    np.testing.assert_allclose(points.precision[: len(precision)], precision[::-1][: len(points.precision)])
    np.testing.assert_allclose(points.recall[: len(recall)], recall[::-1][: len(points.recall)])


@settings(max_examples=60, deadline=None)
@given(pair=pairs)
def test_naive_twins(pair: Pairs) -> None:
    score, label = pair
    curve = roc_curve(score, label)
    for threshold, tp, fp in zip(curve.thresholds, curve.tp, curve.fp, strict=True):
        assert tp == np.sum(label & (score >= threshold))
        assert fp == np.sum(~label & (score >= threshold))
    gaps = score[label][:, None] - score[~label][None, :]
    assert auc(curve) == pytest.approx(np.mean(gaps > 0) + np.mean(gaps == 0) / 2, abs=1e-12)
    assert auc_uncertainty(curve) == pytest.approx(np.mean(gaps == 0) / 2, abs=1e-12)
    gains = [
        (np.sum(label & (score >= t)) * np.sum(~label) - np.sum(~label & (score >= t)) * np.sum(label), t)
        for t in curve.thresholds
    ]
    assert upper_left(curve).threshold == max(gains)[1]


def test_shapes_types_and_invalid_scores() -> None:
    score = np.array([[0.1, np.nan], [0.8, 0.4]], dtype=np.float32)
    label = np.array([[False, True], [True, False]])
    curve = roc_curve(score, label)
    assert (curve.positives, curve.negatives) == (1, 2)
    assert auc(curve) == 1.0
    assert upper_left(curve).threshold == pytest.approx(0.8)
    assert curve.thresholds.dtype == np.float64


def test_an_absent_class_gives_nan() -> None:
    score = np.array([0.2, 0.7, 0.7])
    normal, anomalous = roc_curve(score, np.zeros(3, bool)), roc_curve(score, np.ones(3, bool))
    empty = roc_curve(score[:0], np.zeros(0, bool))
    for curve in (normal, anomalous, empty):
        assert not curve.has_both_classes
        assert np.isnan(auc(curve))
        assert np.isnan(auc_uncertainty(curve))
        assert all(np.isnan(upper_left(curve)))
    assert np.isnan(normal.tpr).all()
    assert np.isnan(anomalous.fpr).all()
    assert np.isnan(average_precision(normal))
    assert average_precision(anomalous) == 1.0
    assert empty.thresholds.tolist() == [np.inf]
    assert precision_recall(empty).precision.tolist() == [1.0]


def test_useless_scores_call_nothing_anomalous() -> None:
    curve = roc_curve(np.array([0.0, 1.0]), np.array([True, False]))
    assert auc(curve) == 0.0
    assert upper_left(curve).threshold == np.inf


def test_ties_take_the_largest_threshold_also_for_huge_counts() -> None:
    small = curve_of_counts(np.array([3.0, 2.0, 1.0]), np.array([1, 1, 0]), np.array([0, 1, 0]))
    assert upper_left(small).threshold == 3.0
    big = 2**40
    huge = curve_of_counts(np.array([3.0, 2.0]), np.array([3 * big, big]), np.array([0, 2**33]))
    assert upper_left(huge) == (3.0, 0.75, 0.0)


def test_errors() -> None:
    with pytest.raises(InputError, match=r"scores \(3,\) and labels \(2,\) differ in shape"):
        roc_curve(np.zeros(3), np.zeros(2, bool))
    with pytest.raises(InputError, match="labels are uint8, not boolean"):
        roc_curve(np.zeros(3), np.zeros(3, np.uint8))
