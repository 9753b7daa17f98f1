from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as theirs

from asd_cli.errors import InputError
from asd_cli.metrics.iou import Confusion, confusion_at, confusion_of
from asd_cli.metrics.roc import roc_curve


@settings(max_examples=50, deadline=None)
@given(count=st.integers(4, 200), threshold=st.sampled_from([0.0, 2.0, 2.5, 4.0]), seed=st.integers(0, 10_000))
def test_equals_scikit_learn(count: int, threshold: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    label = random.random(count) < 0.4
    score = np.floor(random.uniform(0, 5, size=count) + label)
    label[:4], score[:4] = [True, True, False, False], [9.0, 0.0, 9.0, 0.0]
    called = score >= threshold
    got = confusion_of(score, label, threshold)
    assert got == confusion_at(roc_curve(score, label), threshold) == Confusion.of(called, label)
    tn, fp, fn, tp = theirs.confusion_matrix(label, called).ravel()
    assert got == Confusion(tp, fp, tn, fn)
    assert got.iou_anomalous == pytest.approx(theirs.jaccard_score(label, called))
    assert got.iou_normal == pytest.approx(theirs.jaccard_score(label, called, pos_label=False))
    assert got.miou == pytest.approx(theirs.jaccard_score(label, called, average="macro"))
    assert got.f1 == pytest.approx(theirs.f1_score(label, called))
    assert got.precision == pytest.approx(theirs.precision_score(label, called))
    assert got.recall == pytest.approx(theirs.recall_score(label, called))
    assert got.false_alarm_rate == pytest.approx(np.mean(called[~label]))


def test_thresholds_between_and_beyond_the_scores() -> None:
    score, label = np.array([1.0, 2.0, 2.0, 5.0]), np.array([False, True, False, True])
    curve = roc_curve(score, label)
    for threshold in (-np.inf, 0.0, 1.0, 1.5, 2.0, 3.0, 5.0, 6.0, np.inf):
        assert confusion_at(curve, threshold) == confusion_of(score, label, threshold)
    with pytest.raises(InputError, match="the threshold is not a number"):
        confusion_at(curve, np.nan)
    with pytest.raises(InputError, match="the threshold is not a number"):
        confusion_of(score, label, np.nan)


def test_counts_add_up() -> None:
    assert Confusion(1, 2, 3, 4) + Confusion(10, 20, 30, 40) == Confusion(11, 22, 33, 44)


def test_zero_denominators_give_nan() -> None:
    quiet = Confusion(tp=0, fp=0, tn=9, fn=0)
    assert np.isnan([quiet.iou_anomalous, quiet.f1, quiet.precision, quiet.recall]).all()
    assert (quiet.iou_normal, quiet.miou, quiet.false_alarm_rate) == (1.0, 1.0, 0.0)
    full = Confusion(tp=9, fp=0, tn=0, fn=0)
    assert np.isnan([full.iou_normal, full.false_alarm_rate]).all()
    assert full.miou == 1.0
    nothing = Confusion(0, 0, 0, 0)
    assert np.isnan(nothing.miou)
    wrong = Confusion(tp=0, fp=4, tn=0, fn=4)
    assert (wrong.miou, wrong.f1, wrong.precision, wrong.recall) == (0.0, 0.0, 0.0, 0.0)


def test_invalid_scores_do_not_count_and_errors_tell() -> None:
    score, label = np.array([np.nan, 1.0]), np.array([True, True])
    assert confusion_of(score, label, 0.5) == Confusion(1, 0, 0, 0)
    with pytest.raises(InputError, match="differ in shape"):
        Confusion.of(label, label[:1])
    with pytest.raises(InputError, match="called pixels are float64 and labels bool; both must be boolean"):
        Confusion.of(score, label)
