"""Localised virtual anomalies change blobs alone; what they draw from elsewhere is used only where normal."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asd_cli.data.localised import LocalAmplitudes, LocalAnomalies, Patch, blob, smooth_noise, stripes


def patches(value: float, normal: bool = True):
    """A source of patches of one colour; tells which sizes were asked for."""
    asked: list[tuple[int, int]] = []

    def draw(shape: tuple[int, int], random: np.random.Generator) -> Patch:
        asked.append(shape)
        return Patch(np.full((3, *shape), value, np.float32), np.full(shape, normal))

    return draw, asked


def texture(shape: tuple[int, int], bands: int = 3) -> np.ndarray:
    return np.random.default_rng(9).uniform(0, 1, (bands, *shape)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    bands=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_only_the_pixels_that_are_told_change(height: int, width: int, bands: int, seed: int) -> None:
    unit = texture((height, width), bands)
    source = texture((141, 141), bands)

    def draw(shape: tuple[int, int], random: np.random.Generator) -> Patch:
        return Patch(source[:, : shape[0], : shape[1]], random.random(shape) < 0.7)

    virtual, changed = LocalAnomalies(LocalAmplitudes())(unit, draw, np.random.default_rng(seed))
    assert virtual.shape == unit.shape
    assert (virtual.dtype, changed.dtype) == (np.float32, bool)
    np.testing.assert_array_equal(virtual[:, ~changed], unit[:, ~changed])
    assert virtual.min() >= -1
    assert virtual.max() <= 2


def test_the_same_seed_gives_the_same_anomaly() -> None:
    unit, maker = texture((64, 48)), LocalAnomalies(LocalAmplitudes())
    found = [maker(unit, patches(0.3)[0], np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert not np.array_equal(found[0][0], found[2][0])


def test_nothing_comes_from_where_another_place_is_not_normal() -> None:
    unit = texture((64, 64))
    for seed in range(40):
        draw, asked = patches(50.0, normal=False)
        virtual, _ = LocalAnomalies(LocalAmplitudes(contrast=0, colour=0, noise=0))(
            unit, draw, np.random.default_rng(seed)
        )
        assert virtual.max() < 2, asked


def test_other_places_come_at_half_and_double_scale_too() -> None:
    draw, asked = patches(0.5)
    for seed in range(60):
        LocalAnomalies(LocalAmplitudes())(texture((40, 60)), draw, np.random.default_rng(seed))
    assert {tuple(sorted(shape)) for shape in asked} == {(20, 30), (40, 60), (80, 120)}


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_a_blob_covers_its_share(share: float) -> None:
    random = np.random.default_rng(0)
    inside = blob((80, 90), random, share=(share, share), grain=(3, 60))
    assert np.mean(inside) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(("period", "angle"), [(8.0, 0.0), (5.5, np.pi / 2), (13.0, 0.7)])
def test_stripes_come_every_period_in_their_direction(period: float, angle: float) -> None:
    found = stripes((240, 240), period, angle, np.random.default_rng(1))
    assert (found.dtype, float(found.min()), float(found.max())) == (np.float32, 0.0, 1.0)
    power = np.abs(np.fft.fft2(found - found.mean(), (960, 960))) ** 2
    row, col = np.unravel_index(np.argmax(power[:480]), (480, 960))
    frequency = np.hypot(row / 960, min(col, 960 - col) / 960)
    assert 1 / frequency == pytest.approx(period, rel=0.03)
    assert np.tan(angle) * row == pytest.approx(col, abs=3) if angle < 1 else row == 0


def test_a_pattern_has_two_colours() -> None:
    maker = LocalAnomalies(LocalAmplitudes(noise=0.0))
    for seed in range(20):
        found = maker._pattern((3, 90, 80), np.random.default_rng(seed))
        spread = found.reshape(3, -1).max(axis=1) - found.reshape(3, -1).min(axis=1)
        weave = (found - found.min(axis=(1, 2), keepdims=True)) / spread[:, None, None]
        weave = np.where((weave[:1] - weave).std(axis=(1, 2), keepdims=True) > 0.2, 1 - weave, weave)
        np.testing.assert_allclose(weave, np.broadcast_to(weave[:1], weave.shape), atol=1e-3)
        assert 0.01 < weave[0].mean() < 0.99


@pytest.mark.parametrize("grain", [1.0, 2.5, 20.0])
def test_noise_is_smooth_on_the_scale_of_its_grain(grain: float) -> None:
    noise = smooth_noise((200, 200), grain, np.random.default_rng(0))
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.std() == pytest.approx(1, abs=0.02)
    neighbours = np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]
    assert (abs(neighbours) < 0.02) if grain == 1 else (neighbours > 0.5)
    assert grain < 10 or neighbours > 0.98
