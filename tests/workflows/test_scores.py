from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from asd_cli.density.calibration import Calibration
from asd_cli.errors import InputError
from asd_cli.workflows.scores import ScoreScale

CALIBRATION = Calibration.fit(np.random.default_rng(0).gamma(4, 1, 20_000), 0.01)
RATES = st.sampled_from([0.5, 0.1, 0.05, 0.01, 0.003, 1e-3, 1e-6, 1e-30])


def around(value: float) -> NDArray[np.float32]:
    """The float32 numbers next to a value, and some far off; NaN last."""
    near = np.float32(value)
    below, above = np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(np.inf))
    return np.array([0, 0.3, 2, below, near, above, 50, 1e20, np.nan], np.float32)


@settings(max_examples=40, deadline=None)
@given(rate=RATES)
def test_the_kinds_agree_on_what_is_anomalous(rate: float) -> None:
    distance = CALIBRATION.distance(rate)
    distances = around(distance)
    expected = distances.astype(np.float64) >= distance
    for kind in ("unit", "distance", "far"):
        scale = ScoreScale.build(kind, CALIBRATION, rate=rate, threshold=None)
        found = scale.anomalous(scale.scores(distances))
        assert found.dtype == bool
        # a score that float32 cannot tell from the threshold's counts as reaching it
        ties = scale.scores(distances) == scale.threshold
        np.testing.assert_array_equal(found[~ties], expected[~ties])
        assert found[ties].all()
        assert not found[-1]
        assert scale.false_alarm_rate == pytest.approx(rate, rel=1e-3)
    exact = ScoreScale.build("distance", CALIBRATION, rate=rate, threshold=None)
    np.testing.assert_array_equal(exact.anomalous(distances), expected)


def test_the_models_own_rate_is_a_half_in_units() -> None:
    scale = ScoreScale.build("unit", CALIBRATION, rate=0.01, threshold=None)
    assert scale.threshold == 0.5
    distances = around(CALIBRATION.threshold)
    expected = distances.astype(np.float64) >= CALIBRATION.threshold
    np.testing.assert_array_equal(scale.anomalous(scale.scores(distances)), expected)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["unit", "distance", "far"]),
    threshold=st.floats(0.001, 0.999, allow_nan=False),
    distances=st.lists(st.floats(0, 1000, width=32), min_size=1, max_size=20),
)
def test_a_threshold_is_one_of_the_written_scores(kind: str, threshold: float, distances: list[float]) -> None:
    scale = ScoreScale.build(kind, CALIBRATION, rate=0.01, threshold=threshold)  # type: ignore[arg-type]
    assert scale.threshold == np.float32(threshold)
    scores = scale.scores(np.array(distances, np.float32))
    assert scores.dtype == np.float32
    stated = float(repr(float(scale.threshold)))  # as the tag says it
    reached = [(s <= stated) if kind == "far" else (s >= stated) for s in scores.astype(np.float64)]
    assert scale.anomalous(scores).tolist() == reached


def test_scores_keep_their_order_and_range() -> None:
    distances = np.linspace(0, 60, 5000, dtype=np.float32)
    unit, distance, far = (
        ScoreScale.build(kind, CALIBRATION, rate=0.01, threshold=None).scores(distances)
        for kind in ("unit", "distance", "far")
    )
    assert (np.diff(unit) >= 0).all()
    assert unit[0] == 0
    assert unit[-1] < 1
    assert distance is distances
    assert (np.diff(far) <= 0).all()
    assert far[0] == 1
    assert far[-1] >= 0


@pytest.mark.parametrize("kind", ["unit", "distance", "far"])
@pytest.mark.parametrize("threshold", [0.0, -1.0, math.nan, math.inf, -math.inf, 1e39, 1e-60])
def test_thresholds_out_of_range(kind: str, threshold: float) -> None:
    with pytest.raises(InputError) as caught:
        ScoreScale.build(kind, CALIBRATION, rate=0.01, threshold=threshold)  # type: ignore[arg-type]
    high = "inf" if kind == "distance" else "1"
    assert str(caught.value) == f"--threshold {threshold}: must be above 0 and below {high} for --score {kind}"


@pytest.mark.parametrize("kind", ["unit", "far"])
@pytest.mark.parametrize("threshold", [1.0, 7.0])
def test_thresholds_of_one_and_more_are_distances(kind: str, threshold: float) -> None:
    with pytest.raises(InputError, match=rf"--threshold {threshold}: must be above 0 and below 1 for --score {kind}"):
        ScoreScale.build(kind, CALIBRATION, rate=0.01, threshold=threshold)  # type: ignore[arg-type]
    assert ScoreScale.build("distance", CALIBRATION, rate=0.01, threshold=threshold).threshold == threshold


def test_each_band_says_what_it_holds() -> None:
    bands = {
        kind: ScoreScale.build(kind, CALIBRATION, rate=0.01, threshold=None).band  # type: ignore[arg-type]
        for kind in ("unit", "distance", "far")
    }
    assert (bands["unit"].description, bands["unit"].unit) == ("anomaly score", "0-1, 0.5 at the model's threshold")
    assert (bands["distance"].description, bands["distance"].unit) == ("anomaly distance", "Mahalanobis distance")
    assert (bands["far"].description, bands["far"].unit) == ("expected false-alarm rate", "share of normal pixels")
