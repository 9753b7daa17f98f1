"""PatchCore on a small network, beside the same cell by cell."""

from __future__ import annotations

from typing import Any

import fake_timm
import numpy as np
import pytest
import torch

from asd_cli.data.scaling import Scaling
from asd_cli.errors import InputError, ModelFileError
from asd_cli.methods import patchcore
from asd_cli.methods.patchcore import PatchCore
from asd_cli.options import TrainOptions


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_timm.install(monkeypatch)


def raw(seed: int, bands: int, height: int, width: int) -> torch.Tensor:
    pixels = np.random.default_rng(seed).normal(100, 40, (1, bands, height, width))
    return torch.from_numpy(pixels.astype(np.float32))


def made(bands: int = 3, *, memory: int = 30, neighbours: int = 0) -> PatchCore:
    """Remembers cells of one image."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        detector = PatchCore.create(bands, backbone="resnet18", halo=64, memory=memory, neighbours=neighbours)
    detector.set_scaling(Scaling(np.zeros(bands, np.float32), np.full(bands, 200, np.float32)))
    with torch.no_grad():
        cells = detector.eval().cells(raw(1, bands, 128 + 80, 128 + 80), (10, 10))
    detector.set_memory(cells[0].flatten(1).T.numpy(), 0)
    return detector


def naive(detector: PatchCore, x: torch.Tensor) -> np.ndarray:
    """Distances of the cells (rows, cols) one by one, in float64."""
    memory = detector.memory.double().numpy()
    _, middle, coarse = (f.double().numpy()[0] for f in detector.features(x))
    size = tuple((n - 128 - 1 + 7) // 8 + 1 for n in x.shape[-2:])
    out = np.zeros(size)
    count = detector.neighbours.shape[1]
    for row, col in np.ndindex(*size):
        r, c = row + 8, col + 8
        own = middle[:, r - 1 : r + 2, c - 1 : c + 2].mean(axis=(1, 2))
        around = [
            coarse[:, i - 1 : i + 2, j - 1 : j + 2].mean(axis=(1, 2))
            for i in (r // 2, (r + 1) // 2)
            for j in (c // 2, (c + 1) // 2)
        ]
        descriptor = np.concatenate([own, np.mean(around, axis=0)])
        gaps = np.linalg.norm(memory - descriptor, axis=1)
        nearest = int(gaps.argmin())
        weight = 1.0
        if count:
            near = np.linalg.norm(memory - memory[nearest], axis=1).argsort()[:count]
            weight = 1 - np.exp(gaps[nearest]) / np.exp(gaps[near]).sum()
        out[row, col] = weight * gaps[nearest]
    return out


@pytest.mark.parametrize("bands", [1, 4])
@pytest.mark.parametrize("neighbours", [0, 4])
def test_distance_is_that_of_the_nearest_remembered(
    bands: int, neighbours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patchcore, "_CHUNK", 13)
    detector = made(bands, neighbours=neighbours)
    x = raw(2, bands, 128 + 33, 128 + 49)
    with torch.no_grad():
        found, expected = detector.distances(x)[0].numpy(), naive(detector, x)
    assert found.shape == (33, 49)
    np.testing.assert_allclose(found[::8, ::8], expected, rtol=1e-4, atol=1e-6)
    between = expected[:2, :2].mean()
    np.testing.assert_allclose(found[4, 4], between, rtol=1e-4)


def test_what_is_remembered_is_at_no_distance() -> None:
    detector = made(memory=100)
    with torch.no_grad():
        found = detector.distances(raw(1, 3, 128 + 80, 128 + 80))
    assert len(detector.memory) == 100
    assert found[:, :73, :73].max() < 1e-6
    assert found.max() > 1e-3


def test_descriptors_are_those_of_the_nearest_cell() -> None:
    detector, x = made(), raw(2, 3, 128 + 30, 128 + 21)
    with torch.no_grad():
        cells, pixels = detector.cells(x, (5, 4)), detector.descriptors(x)
    assert pixels.shape == (1, detector.length, 30, 21)
    for row, col in ((0, 0), (3, 4), (4, 3), (29, 20), (11, 12)):
        assert torch.equal(pixels[0, :, row, col], cells[0, :, (row + 4) // 8, (col + 4) // 8])


def test_blocks_equal_the_whole_where_the_halo_covers_the_network() -> None:
    detector, x = made(), raw(3, 3, 128 + 192, 128 + 160)
    with torch.no_grad():
        whole = detector.distances(x)
        part = detector.distances(x[..., 96 : 96 + 96 + 128, 32 : 32 + 64 + 128])
    torch.testing.assert_close(part, whole[:, 96:192, 32:96], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("neighbours", [0, 3])
def test_fewer_normal_descriptors_than_wanted(neighbours: int) -> None:
    detector = made(memory=30, neighbours=neighbours)
    rows = np.random.default_rng(0).normal(size=(4, detector.length)).astype(np.float32)
    for count in (1, 2, 4):
        detector.set_memory(rows[:count], 0)
        again = PatchCore.restore(3, detector.config(), detector.arrays()).eval()
        x = raw(2, 3, 160, 160)
        with torch.no_grad():
            assert torch.equal(again.distances(x), detector.distances(x))
        assert again.config()["memory"] == count
        assert again.config()["neighbours"] == (min(neighbours, count) if count > 1 else 0)


def test_restore_gives_back_the_same_method() -> None:
    detector, x = made(neighbours=3), raw(2, 3, 160, 170)
    assert detector.config() == {"backbone": "resnet18", "halo": 64, "memory": 30, "neighbours": 3}
    again = PatchCore.restore(3, detector.config(), detector.arrays()).eval()
    with torch.no_grad():
        assert torch.equal(again.distances(x), detector.distances(x))


def test_restore_refuses_neighbours_that_are_not_there() -> None:
    detector = made(neighbours=3)
    arrays = {**detector.arrays(), "neighbours": np.full((30, 3), 30)}
    with pytest.raises(ModelFileError, match="tensor neighbours is damaged: it names descriptors that are not there"):
        PatchCore.restore(3, detector.config(), arrays)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"memory": "9"}, r"memory=9 is not within 10..20000"),
        ({"neighbours": "1"}, r"neighbours=1 is neither 0 nor within 2..50"),
        ({"halo": "8"}, "halo=8 is not a multiple of 32"),
    ],
)
def test_settings_out_of_range(given: dict[str, Any], text: str) -> None:
    options = TrainOptions(method="patchcore", method_options=(("weights", "random"), *given.items()))
    with pytest.raises(InputError, match=f"--option {text}"):
        PatchCore.plan(options)
