from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from asd_cli.density.calibration import Calibration
from asd_cli.errors import InputError, ModelFileError

DISTRIBUTIONS = {
    "exponential": stats.expon(),
    "half-normal": stats.halfnorm(scale=3.0),
    "chi of 5": stats.chi(5),
    "Student of 4": stats.t(4),
}


def draw(name: str, count: int, seed: int = 0) -> NDArray[np.float64]:
    values = DISTRIBUTIONS[name].rvs(count, random_state=np.random.default_rng(seed))
    return np.abs(np.asarray(values, dtype=np.float64))


def true_rate(name: str, distance: NDArray[np.float64] | float) -> NDArray[np.float64]:
    sides = 2.0 if name.startswith("Student") else 1.0
    return np.asarray(sides * DISTRIBUTIONS[name].sf(distance))


def true_distance(name: str, rate: float) -> float:
    return float(DISTRIBUTIONS[name].isf(rate / (2.0 if name.startswith("Student") else 1.0)))


samples = st.builds(
    lambda kind, count, seed, scale: scale * np.abs(kind(np.random.default_rng(seed), count)),
    st.sampled_from(
        [
            lambda random, count: random.exponential(size=count),
            lambda random, count: random.standard_t(2, size=count),
            lambda random, count: random.uniform(size=count),
            lambda random, count: np.floor(random.exponential(2.0, size=count)),
            lambda random, count: np.maximum(random.normal(size=count), 0.0),
        ]
    ),
    st.integers(100, 3000),
    st.integers(0, 10_000),
    st.sampled_from([1e-6, 0.1, 1.0, 1e5]),
)


@pytest.mark.parametrize("name", list(DISTRIBUTIONS))
def test_rates_agree_with_the_truth_within_sampling_error(name: str) -> None:
    count = 200_000
    calibration = Calibration.fit(draw(name, count))
    for rate in (0.99, 0.9, 0.5, 0.1, 0.01, 1e-3, 3e-4):
        got = float(calibration.rate(true_distance(name, rate)))
        # Five deviations of the empirical share, and 1 % for the line between two knots.
        assert got == pytest.approx(rate, rel=0.01, abs=5 * np.sqrt(rate * (1 - rate) / count))


# Tails lighter than exponential are overestimated, on the safe side: the shape is never below 0.
@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("exponential", 1 / 3, 3.0), ("half-normal", 1.0, 20.0), ("Student of 4", 1 / 4, 4.0)],
)
def test_the_tail_reaches_ten_times_beyond_the_data(name: str, least: float, most: float) -> None:
    for seed in range(3):
        calibration = Calibration.fit(draw(name, 200_000, seed))
        ratio = float(calibration.rate(true_distance(name, 5e-7))) / 5e-7
        assert least < ratio < most


def test_tail_shape_follows_the_distribution() -> None:
    assert Calibration.fit(draw("Student of 4", 400_000)).tail_shape == pytest.approx(0.25, abs=0.08)
    assert Calibration.fit(draw("exponential", 400_000)).tail_shape < 0.05
    assert Calibration.fit(draw("half-normal", 400_000)).tail_shape == 0.0
    cauchy = np.abs(np.random.default_rng(0).standard_cauchy(100_000))
    assert Calibration.fit(cauchy).tail_shape == 0.5


def test_threshold_holds_its_rate_on_new_pixels() -> None:
    calibration = Calibration.fit(draw("chi of 5", 300_000), false_alarm_rate=0.002)
    fresh = draw("chi of 5", 300_000, seed=1)
    assert np.mean(fresh >= calibration.threshold) == pytest.approx(0.002, rel=0.15)
    assert calibration.count == 300_000
    assert len(calibration.knots) <= 256


@settings(max_examples=60, deadline=None)
@given(values=samples, points=st.lists(st.floats(0.0, 50.0), min_size=2, max_size=30))
def test_rates_fall_strictly(values: NDArray[np.float64], points: list[float]) -> None:
    calibration = Calibration.fit(values)
    scale = float(calibration.knots[-1]) or calibration.tail_scale
    distances = np.unique(np.round(points, 3)) * scale
    rates = calibration.rate(distances)
    assert ((rates > 0) & (rates <= 1)).all()
    assert (np.diff(rates) <= 0).all()
    assert (np.diff(rates)[rates[1:] > 1e-300] < 0).all()
    assert float(calibration.rate(0.0)) == 1.0


@settings(max_examples=60, deadline=None)
@given(values=samples, exponent=st.floats(-12.0, 0.0))
def test_distance_is_the_inverse_of_rate(values: NDArray[np.float64], exponent: float) -> None:
    calibration = Calibration.fit(values)
    rate = 10.0**exponent
    distance = calibration.distance(rate)
    assert 0.0 <= distance < np.inf
    # Between knots that nearly coincide, one step of float64 in the distance is a larger one in the rate.
    next_one = float(calibration.rate(np.nextafter(distance, np.inf)))
    assert float(calibration.rate(distance)) == pytest.approx(rate, rel=1e-9, abs=2 * abs(rate - next_one))


@settings(max_examples=40, deadline=None)
@given(values=samples, ratios=st.lists(st.floats(0.0, 1e6, width=32), min_size=1, max_size=20))
def test_scores(values: NDArray[np.float64], ratios: list[float]) -> None:
    calibration = Calibration.fit(values, false_alarm_rate=0.01)
    threshold = calibration.threshold
    assert threshold > 0.0
    distances = np.sort(np.array(ratios)) * threshold
    scores = calibration.score(distances)
    assert scores.dtype == np.float32
    assert ((scores >= 0) & (scores < 1)).all()
    assert (np.diff(scores) >= 0).all()
    np.testing.assert_array_equal(scores >= 0.5, distances >= threshold)
    np.testing.assert_allclose(scores, distances / (distances + threshold), atol=1e-7)
    near = distances <= 100 * threshold
    np.testing.assert_allclose(
        calibration.distance_of_score(scores)[near], distances[near], rtol=1e-4, atol=1e-6 * threshold
    )


def test_scores_at_the_edges() -> None:
    calibration = Calibration.fit(draw("exponential", 1000))
    threshold = calibration.threshold
    assert calibration.score(threshold) == 0.5
    assert calibration.score(np.nextafter(threshold, 0.0)) < 0.5
    scores = calibration.score(np.array([[0.0, np.nan], [np.inf, 1e30]], dtype=np.float32))
    assert scores.shape == (2, 2)
    assert scores[0, 0] == 0.0
    assert np.isnan(scores[0, 1])
    assert scores[1].max() < 1.0
    rates = calibration.rate([0.0, np.nan, np.inf])
    assert rates[0] == 1.0
    assert np.isnan(rates[1])
    assert rates[2] > 0.0
    assert float(calibration.distance_of_score(0.5)) == threshold
    assert calibration.distance_of_score([0.0, 1.0]).tolist() == [0.0, np.inf]
    with pytest.raises(InputError, match=r"score 1\.5 is outside 0 to 1"):
        calibration.distance_of_score([0.2, 1.5])


def test_round_trip_is_exact() -> None:
    calibration = Calibration.fit(draw("Student of 4", 5000), false_alarm_rate=0.003)
    arrays = calibration.to_arrays()
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float64)}
    again = Calibration.from_arrays(arrays)
    distances = np.linspace(0, 3 * calibration.knots[-1], 500)
    np.testing.assert_array_equal(again.rate(distances), calibration.rate(distances))
    assert (again.threshold, again.count) == (calibration.threshold, 5000)
    for name, array in again.to_arrays().items():
        np.testing.assert_array_equal(array, arrays[name])


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("knots", None, "'knots' is missing"),
        ("knots", np.zeros((2, 2)), r"'knots' has shape \(2, 2\)"),
        ("log_rates", np.array([0.0, np.nan]), "'log_rates' is not finite"),
        ("log_rates", np.array([0.0]), "2 knots but 1 rates"),
        ("log_rates", np.array([-1.0, -2.0]), "do not start at distance 0"),
        ("log_rates", np.array([0.0, 0.0]), "not in order"),
        ("tail", np.array([0.0, 0.1]), "tail scale 0 or shape 0.1 is out of range"),
        ("false_alarm_rate", np.array([2.0]), "false-alarm rate 2 is outside"),
        ("count", np.zeros(2), r"'count' has shape \(2,\) instead of \(1,\)"),
    ],
)
def test_damaged_arrays_are_refused(name: str, value: NDArray[np.float64] | None, text: str) -> None:
    arrays = Calibration.fit(np.ones(200)).to_arrays()
    if value is None:
        del arrays[name]
    else:
        arrays[name] = value
    with pytest.raises(ModelFileError, match=text):
        Calibration.from_arrays(arrays)


@pytest.mark.parametrize(
    "values",
    [np.zeros(500), np.full(500, 2.5), np.zeros(1), np.ones(1), np.array([1.0, 2.0]), np.arange(60.0)],
)
def test_degenerate_distances_stay_finite(values: NDArray[np.float64]) -> None:
    calibration = Calibration.fit(values)
    assert 0.0 < calibration.threshold < np.inf
    assert calibration.threshold >= values.max() * 0.5
    rates = calibration.rate([0.0, calibration.threshold, 1e9])
    assert np.isfinite(rates).all()
    assert rates[1] == pytest.approx(0.001, rel=1e-6)
    assert np.isfinite(calibration.score(values)).all()


def test_warnings_and_errors_have_numbers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Calibration.fit(np.append(np.arange(40.0), [np.nan, np.inf]))
    assert "2 of 42 distances are not finite" in caplog.text
    assert "only 40 held-out normal pixels" in caplog.text
    with pytest.raises(InputError, match="none of 3 distances can be used"):
        Calibration.fit(np.full(3, np.nan))
    with pytest.raises(InputError, match="distance -1 is negative"):
        Calibration.fit(np.array([-1.0, 2.0]))
    for rate in (0.0, 1.0, 2.0, float("nan")):
        with pytest.raises(InputError, match=r"false-alarm rate .* is outside 0 to 1"):
            Calibration.fit(np.ones(5), false_alarm_rate=rate)
    with pytest.raises(InputError, match="false-alarm rate 0 is outside"):
        Calibration.fit(np.arange(200.0)).distance(0.0)
