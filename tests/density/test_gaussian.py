from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

from asd_cli.density.gaussian import Gaussian, fit_ledoit_wolf
from asd_cli.density.moments import Moments
from asd_cli.errors import InputError

GOLDEN = Path(__file__).parents[1] / "golden" / "gaussian.npz"


def correlated(count: int, length: int, seed: int = 0) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    return random.normal(size=(count, length)) @ random.normal(size=(length, length)) + random.normal(size=length)


def test_golden_numbers() -> None:
    golden = np.load(GOLDEN)
    fitted = fit_ledoit_wolf(Moments.of(golden["train"]))
    largest = np.abs(golden["precision"]).max()
    np.testing.assert_allclose(fitted.mean, golden["mean"], atol=3e-6)
    # The published figures are float32 throughout, and the condition number is near 1,400.
    np.testing.assert_allclose(fitted.precision, golden["precision"], rtol=1e-4, atol=1e-6 * largest)
    np.testing.assert_allclose(fitted.distance(golden["test"]), golden["mahalanobis"], rtol=2e-5)
    assert fitted.condition == pytest.approx(np.linalg.cond(golden["precision"].astype(np.float64)), rel=1e-3)


@pytest.mark.parametrize(("count", "length"), [(2, 3), (4, 9), (30, 1), (40, 5), (5000, 5), (300, 16)])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_equals_scikit_learn(count: int, length: int, offset: float) -> None:
    values = correlated(count, length) + offset
    theirs = LedoitWolf().fit(values)
    ours = fit_ledoit_wolf(Moments.of(values[: count // 3]).merge(Moments.of(values[count // 3 :])))
    assert ours.shrinkage == pytest.approx(theirs.shrinkage_, rel=1e-8, abs=1e-12)
    scale = np.abs(theirs.covariance_).max()
    np.testing.assert_allclose(ours.mean, theirs.location_, rtol=1e-12)
    np.testing.assert_allclose(ours.covariance, theirs.covariance_, rtol=1e-8, atol=1e-9 * scale)
    squared = theirs.mahalanobis(values)
    np.testing.assert_allclose(ours.distance(values), np.sqrt(squared), rtol=1e-8)


def test_whitening_is_a_root_of_the_precision() -> None:
    fitted = fit_ledoit_wolf(Moments.of(correlated(500, 4)))
    white = fitted.whitening
    assert white.shape == (4, 4)
    np.testing.assert_array_equal(white, np.tril(white))
    np.testing.assert_allclose(white.T @ white @ fitted.covariance, np.eye(4), atol=1e-10)
    np.testing.assert_allclose(fitted.precision, np.linalg.inv(fitted.covariance), rtol=1e-8, atol=1e-10)
    assert fitted.rank == 4


def test_distance_equals_the_formula_row_by_row() -> None:
    fitted = fit_ledoit_wolf(Moments.of(correlated(500, 3)))
    values = np.random.default_rng(3).normal(size=(20, 3))
    expected = [np.sqrt((x - fitted.mean) @ np.linalg.inv(fitted.covariance) @ (x - fitted.mean)) for x in values]
    np.testing.assert_allclose(fitted.distance(values), expected, rtol=1e-10)
    values[4, 1] = np.nan
    assert np.flatnonzero(np.isnan(fitted.distance(values))).tolist() == [4]
    assert fitted.distance(values[:0]).shape == (0,)
    with pytest.raises(ValueError, match=r"must be \(n, 3\), got shape \(3,\)"):
        fitted.distance(values[0])


@pytest.mark.parametrize("constant", [0.0, 7.5, -1e6])
def test_constant_descriptors_get_a_ridge(constant: float, caplog: pytest.LogCaptureFixture) -> None:
    values = np.full((50, 3), constant, dtype=np.float32)
    with caplog.at_level(logging.WARNING):
        fitted = fit_ledoit_wolf(Moments.of(values))
    assert "descriptors of 50 normal pixels hardly vary" in caplog.text
    assert np.isfinite(fitted.whitening).all()
    np.testing.assert_allclose(fitted.distance(values), 0.0, atol=1e-3)
    away = fitted.distance(values + np.float32(max(abs(constant), 1.0)))
    assert np.isfinite(away).all()
    assert away.min() > 100.0


def test_one_constant_band_stays_finite(caplog: pytest.LogCaptureFixture) -> None:
    values = correlated(100, 1)
    fitted = fit_ledoit_wolf(Moments.of(np.column_stack([values, np.zeros(100)])))
    assert np.isfinite(fitted.whitening).all()
    assert not caplog.records  # the shrinkage alone does it


def test_few_or_broken_descriptors_are_refused() -> None:
    with pytest.raises(InputError, match="1 normal pixels are too few, at least 2 are needed"):
        fit_ledoit_wolf(Moments.of(np.ones((1, 3))))
    with pytest.raises(InputError, match="0 normal pixels"):
        fit_ledoit_wolf(Moments.empty(3))
    with pytest.raises(InputError, match="descriptors of 3 normal pixels are not finite"):
        fit_ledoit_wolf(Moments.of(np.array([[1.0], [np.nan], [2.0]])))


def test_impossible_gaussians_are_refused() -> None:
    with pytest.raises(InputError, match="do not fit"):
        Gaussian(np.zeros(2), np.eye(3), 0.0)
    with pytest.raises(InputError, match="not finite"):
        Gaussian(np.zeros(1), np.array([[np.nan]]), 0.0)
    with pytest.raises(InputError, match="not symmetric"):
        Gaussian(np.zeros(2), np.array([[1.0, 0.5], [0.0, 1.0]]), 0.0)
    flat = Gaussian(np.zeros(2), np.diag([1.0, 0.0]), 0.0)
    assert flat.rank == 1
    assert flat.condition == np.inf
    with pytest.raises(InputError, match=r"not positive definite \(rank 1\)"):
        _ = flat.whitening
