"""Ranges of bands from samples of normal pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

from asd_cli.data.scaling import Scaling
from asd_cli.density.sample import PixelSample


def sample_of(rows: np.ndarray) -> PixelSample:
    sample = PixelSample(10_000, rows.shape[1], 0)
    sample.add(rows.astype(np.float32), 0)
    return sample


def test_robust_range_is_that_of_the_quantiles() -> None:
    rows = np.random.default_rng(0).normal(100, 10, (5000, 3))
    rows[:10] = 1e6
    scaling = Scaling.of("robust", sample_of(rows))
    np.testing.assert_allclose(scaling.low, np.quantile(rows.astype(np.float32), 0.005, axis=0), rtol=1e-6)
    np.testing.assert_allclose(scaling.high, np.quantile(rows.astype(np.float32), 0.995, axis=0), rtol=1e-6)
    assert (scaling.high < 140).all()
    assert scaling.low.dtype == scaling.high.dtype == np.float32


def test_the_paper_scales_by_the_largest_normal_value() -> None:
    rows = np.random.default_rng(0).uniform(1, 200, (500, 2)).astype(np.float32)
    scaling = Scaling.of("maximum", sample_of(rows))
    np.testing.assert_array_equal(scaling.low, 0)
    np.testing.assert_array_equal(scaling.high, rows.max(axis=0))
    pixels = rows.T[:, :, None]
    np.testing.assert_allclose(
        scaling.to_unit(pixels) * 2 - 1, (pixels / rows.max(axis=0)[:, None, None] - 0.5) / 0.5, atol=1e-6
    )


def test_the_paper_scaling_of_a_band_below_zero_keeps_its_range() -> None:
    """Decibels: x / max would leave nothing of the band within the network's range."""
    scaling = Scaling.by_maximum(sample_of(np.array([[-25.0], [-5.0], [-12.0]])))
    assert (scaling.low, scaling.high) == (-25, -5)


@pytest.mark.parametrize("value", [0.0, 7.0, -3.0, 1e8, -1e30, 3.4e38, 1e-40])
@pytest.mark.parametrize("kind", ["robust", "maximum"])
def test_constant_bands_get_a_range(value: float, kind: str) -> None:
    scaling = Scaling.of(kind, sample_of(np.full((50, 1), value)))  # type: ignore[arg-type]
    assert np.isfinite(scaling.high).all()
    if value < 3e38:
        assert (scaling.high > scaling.low).all()
        with np.errstate(all="raise", under="ignore"):
            unit = scaling.to_unit(np.full((1, 2, 2), value, np.float32))
        assert np.isfinite(unit).all()


def test_values_far_outside_a_narrow_range_are_clipped_without_overflow() -> None:
    scaling = Scaling(np.float32([0.0]), np.float32([6e-25]))
    with np.errstate(all="raise", under="ignore"):
        unit = scaling.to_unit(np.float32([-2e14, 3e-25, 3e38]).reshape(1, 3, 1))
    np.testing.assert_allclose(unit.ravel(), [0, 0.5, 1])


def test_a_band_that_is_nearly_always_the_same_takes_its_extremes() -> None:
    rows = np.zeros((1000, 1))
    rows[0], rows[1] = 0.004, -0.001
    scaling = Scaling.robust(sample_of(rows))
    np.testing.assert_allclose([scaling.low[0], scaling.high[0]], [-0.001, 0.004])


@settings(max_examples=60, deadline=None)
@given(
    rows=hn.arrays(
        np.float32,
        st.tuples(st.integers(1, 20), st.integers(1, 3)),
        elements=st.floats(-(2.0**100), 2.0**100, width=32),
    ),
    kind=st.sampled_from(["robust", "maximum"]),
)
def test_any_sample_gives_a_usable_range(rows: np.ndarray, kind: str) -> None:
    scaling = Scaling.of(kind, sample_of(rows))  # type: ignore[arg-type]
    assert (scaling.high > scaling.low).all()
    unit = scaling.to_unit(rows.T[:, :, None])
    assert np.isfinite(unit).all()
    assert ((unit >= 0) & (unit <= 1)).all()
    back = scaling.from_unit(unit)[:, :, 0].T
    inside = (rows >= scaling.low) & (rows <= scaling.high)
    size = np.maximum(np.abs(scaling.low), np.abs(scaling.high)).astype(np.float64)
    assert (np.abs(back.astype(np.float64) - rows)[inside] <= 1e-5 * np.broadcast_to(size, rows.shape)[inside]).all()
