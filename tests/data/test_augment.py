"""Virtual anomalies: seeded, in range, for any number of bands, and never the image itself."""

import inspect
import os
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import asd_cli
from asd_cli.data.amplitudes import PAPER_AMPLITUDES, Amplitudes
from asd_cli.data.augment import VirtualAnomalies


def image(bands: int, height: int = 24, width: int = 17, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.3, 0.9, (bands, height, width)).astype(np.float32)


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 14, 130, 500])
@pytest.mark.parametrize("amplitudes", [Amplitudes(), PAPER_AMPLITUDES], ids=["quick", "paper"])
def test_any_number_of_bands(bands: int, amplitudes: Amplitudes) -> None:
    virtual = VirtualAnomalies(amplitudes)
    unit = image(bands)
    before = unit.copy()
    for seed in range(4):
        changed = virtual(unit, seed)
        assert changed.shape == unit.shape
        assert changed.dtype == np.float32
        assert changed.flags.c_contiguous
        assert changed.min() >= 0
        assert changed.max() <= 1
        assert not np.array_equal(changed, unit)
    np.testing.assert_array_equal(unit, before)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1), height=st.integers(1, 9), width=st.integers(1, 9), fill=st.sampled_from([0, 0.5, 1])
)
def test_never_the_image_itself_and_always_in_range(seed: int, height: int, width: int, fill: float) -> None:
    unit = np.full((3, height, width), fill, np.float32)
    unit[0, 0, 0] = 0.5
    changed = VirtualAnomalies(Amplitudes())(unit, seed)
    assert changed.shape == unit.shape
    assert np.isfinite(changed).all()
    assert (changed >= 0).all()
    assert (changed <= 1).all()


def test_at_least_one_transform_takes_part() -> None:
    """Noise where none is drawn: with probability 0 it is always noise."""
    virtual, unit = VirtualAnomalies(Amplitudes(probability=0.0)), image(3)
    changed = virtual(unit, 1) - unit
    assert 0.01 < changed.std() < 0.2


def test_same_seed_same_anomaly_whatever_came_before() -> None:
    one, two = VirtualAnomalies(Amplitudes()), VirtualAnomalies(Amplitudes())
    for seed in range(5):
        two(image(3, seed=seed), seed + 100)
    for seed in (0, 1, 7, 2**31 - 1):
        np.testing.assert_array_equal(one(image(3), seed), two(image(3), seed))
    results = {one(image(3), seed).tobytes() for seed in range(20)}
    assert len(results) == 20


def test_global_random_states_are_left_alone() -> None:
    import random

    virtual = VirtualAnomalies(Amplitudes())
    before = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    virtual(image(3), 5)
    assert (before[0] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert before[1] == random.getstate()


def test_which_transforms_take_part_does_not_depend_on_the_pixels() -> None:
    """Else pixels that count nowhere would decide what is trained on."""
    virtual = VirtualAnomalies(Amplitudes())
    unit, other = image(2, 30, 30), image(2, 30, 30)
    other[:, 20:] = np.float32(0.999)
    for seed in range(20):
        np.testing.assert_array_equal(virtual(unit, seed)[:, :20], virtual(other, seed)[:, :20])


OFF = dict.fromkeys(("noise", "brightness", "contrast"), 0.0) | {"solarize": 1.0}


@pytest.mark.parametrize("name", ["noise", "brightness", "contrast", "solarize"])
def test_each_transform_does_something(name: str) -> None:
    unit = 0.45 + image(1) / 8  # a single band cannot be shuffled; far from 0 and 1 nothing is clipped
    strength = {"noise": 0.05, "brightness": 0.3, "contrast": 0.5, "solarize": 0.5}[name]
    virtual = VirtualAnomalies(Amplitudes(**(OFF | {name: strength}), probability=1.0))
    for seed in range(5):
        changed = virtual(unit, seed) - unit
        if name == "noise":
            assert abs(changed.mean()) < 0.01
            assert 0.004 < changed.std() < 0.06
        elif name == "brightness":
            assert np.ptp(changed) < 1e-6
            assert 1e-4 < np.abs(changed).max() <= strength + 1e-6
        elif name == "contrast":
            assert np.ptp(changed / unit) < 1e-5
            assert 1e-4 < np.abs(changed / unit).max() <= strength + 1e-6
        else:
            np.testing.assert_allclose(changed, np.where(unit >= strength, 1 - 2 * unit, 0), atol=1e-6)


def test_shuffling_reorders_bands() -> None:
    unit = image(6)
    virtual = VirtualAnomalies(Amplitudes(**OFF, probability=1.0))
    orders = set()
    for seed in range(5):
        changed = virtual(unit, seed)
        orders.add(tuple(int(np.abs(unit - band).sum(axis=(1, 2)).argmin()) for band in changed))
        np.testing.assert_allclose(np.sort(changed, axis=0), np.sort(unit, axis=0), atol=1e-6)
    assert len(orders) > 1
    assert all(sorted(order) == list(range(6)) for order in orders)


def test_amplitudes_are_recorded_whole() -> None:
    assert set(PAPER_AMPLITUDES.as_json()) == {field.name for field in fields(Amplitudes)}
    assert PAPER_AMPLITUDES.probability == 1.0
    assert set(inspect.signature(Amplitudes).parameters) == set(Amplitudes().as_json())


def test_only_training_imports_albumentations() -> None:
    """It takes seconds, which scoring must not cost."""
    package = Path(asd_cli.__file__).parent
    users = [path.relative_to(package) for path in package.rglob("*.py") if "asd_cli.data.augment" in path.read_text()]
    assert {path.as_posix() for path in users} == {"workflows/batches.py"}
    for path in package.rglob("*.py"):
        text = path.read_text()
        assert "asd_cli.workflows.batches" not in text or path.name == "train.py"


def test_no_look_for_updates() -> None:
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"
