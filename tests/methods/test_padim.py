"""PaDiM on a small network: distances, blocks, settings, and what a model file may hold."""

from __future__ import annotations

from typing import Any

import fake_timm
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from asd_cli.data.scaling import Scaling
from asd_cli.density.gaussian import Gaussian
from asd_cli.density.moments import Moments
from asd_cli.density.normal import NormalPixels
from asd_cli.errors import InputError, ModelFileError
from asd_cli.methods.padim import Padim
from asd_cli.options import TrainOptions

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_timm.install(monkeypatch)


def made(bands: int = 3, **config: Any) -> Padim:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        padim = Padim.create(bands, **{"backbone": "resnet18", "halo": 64, "channels": 12, **config})
    padim.set_scaling(Scaling(np.zeros(bands, np.float32), np.full(bands, 200, np.float32)))
    random = np.random.default_rng(0)
    factor = random.normal(size=(padim.length, padim.length))
    covariance = 0.01 * factor @ factor.T + 0.01 * np.eye(padim.length)
    padim.set_gaussian(Gaussian(random.normal(size=padim.length), covariance, 0.0))
    return padim.eval()


def raw(bands: int, height: int, width: int) -> torch.Tensor:
    pixels = np.random.default_rng(1).normal(100, 40, (1, bands, height, width))
    return torch.from_numpy(pixels.astype(np.float32))


@pytest.mark.parametrize("bands", [1, 3, 5])
def test_distance_is_that_of_the_gaussian(bands: int) -> None:
    padim = made(bands)
    x = raw(bands, 128 + 41, 128 + 30)
    with torch.no_grad():
        descriptors, distances = padim.descriptors(x), padim.distances(x)
    assert distances.shape == (1, 41, 30)
    rows = descriptors[0].flatten(1).T.double().numpy()
    whitening = padim.whitening.double().numpy()
    expected = np.linalg.norm((rows - padim.mean.double().numpy()) @ whitening.T, axis=1)
    np.testing.assert_allclose(distances.flatten(), expected, rtol=1e-4)


def test_the_descriptor_is_a_choice_of_the_channels() -> None:
    padim, every = made(channels=5), made(channels=24)
    assert every.chosen.tolist() == list(range(24))
    assert len(set(padim.chosen.tolist())) == 5
    every.features = padim.features
    x = raw(3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(padim.descriptors(x), every.descriptors(x)[:, padim.chosen])


def test_blocks_equal_the_whole_where_the_halo_covers_the_network() -> None:
    padim = made()
    x = raw(3, 128 + 192, 128 + 160)
    with torch.no_grad():
        whole = padim.distances(x)
        part = padim.distances(x[..., 96 : 96 + 96 + 128, 32 : 32 + 64 + 128])
    torch.testing.assert_close(part, whole[:, 96:192, 32:96], rtol=1e-5, atol=1e-6)


def test_blocks_have_one_side_everywhere() -> None:
    padim = made()
    assert padim.block_side(CPU) == padim.block_side(torch.device("cuda")) == padim.piece_side() == 256


def test_far_values_count_as_the_clamp() -> None:
    padim, x = made(), raw(3, 160, 160)
    with torch.no_grad():
        x[..., 80, 80] = 400
        clamped = padim.distances(x)
        x[..., 80, 80] = 1e30
        assert torch.equal(padim.distances(x), clamped)


def test_training_mode_changes_nothing() -> None:
    padim, x = made(), raw(3, 160, 160)
    before = padim.arrays()
    with torch.no_grad():
        expected = padim.distances(x)
        assert torch.equal(padim.train().distances(x), expected)
    assert all(np.array_equal(value, before[name]) for name, value in padim.arrays().items())


def test_restore_gives_back_the_same_method_without_loading_weights() -> None:
    padim, x = made(), raw(3, 160, 160)
    assert padim.config() == {"backbone": "resnet18", "halo": 64, "channels": 12}
    state = torch.random.get_rng_state()
    again = Padim.restore(3, padim.config(), padim.arrays()).eval()
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.no_grad():
        assert torch.equal(again.distances(x), padim.distances(x))


def changed(name: str, value: Any) -> dict[str, NDArray[Any]]:
    arrays = made().arrays()
    return {**arrays, name: np.full_like(arrays[name], value)}


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("features.high", -1, "a range is empty"),
        ("features.network.bn1.running_var", -1, "features.network.bn1.running_var is damaged: a variance is negative"),
        ("chosen", 99, "the choice of channels is damaged"),
        ("chosen", 1, "the choice of channels is damaged"),
    ],
)
def test_restore_refuses_damaged_values(name: str, value: Any, text: str) -> None:
    with pytest.raises(ModelFileError, match=text):
        Padim.restore(3, made().config(), changed(name, value))


def test_restore_reads_no_weights() -> None:
    padim = made()
    for weights in ("pretrained", "/etc/passwd"):
        with pytest.raises(ModelFileError, match="asks for weights of its backbone in place of holding them"):
            Padim.restore(3, {**padim.config(), "weights": weights}, padim.arrays())


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"weights": "random", "halo": "40"}, r"--option halo=40 is not a multiple of 32 within 32..256"),
        ({"weights": "random", "channels": "0"}, "--option channels=0 is not within 1..1024"),
        ({}, "--option weights: the backbone needs weights"),
        ({"layers": "2"}, "--option layers: not known to the method padim; it has: backbone=resnet18, weights=, halo="),
    ],
)
def test_settings_out_of_range(given: dict[str, str], text: str) -> None:
    with pytest.raises(InputError, match=text):
        Padim.plan(TrainOptions(method="padim", method_options=tuple(given.items())))


def test_no_paper_recipe() -> None:
    options = TrainOptions(method="padim", method_options=(("weights", "random"),), recipe="paper")
    with pytest.raises(InputError, match="--recipe paper: the method padim is fitted in one pass"):
        Padim.plan(options)


def test_more_channels_than_there_are() -> None:
    with pytest.raises(ValueError, match="channels=25 is more than the 24 of resnet18"):
        made(channels=25)


def test_a_twin_that_knows_other_pixels_shares_the_network_alone() -> None:
    padim = made()
    before = {name: value.clone() for name, value in padim.state_dict().items()}
    rows = np.random.default_rng(3).normal(2, 1, (500, padim.length))
    twin = padim.knowing(NormalPixels.of_tile(Moments.of(rows)))
    np.testing.assert_allclose(twin.mean.numpy(), rows.mean(0), rtol=1e-4)
    mine, theirs = dict(padim.named_parameters()), dict(twin.named_parameters())
    assert mine
    assert all(mine[name] is theirs[name] for name in mine)
    twin.mean.fill_(7.0)
    assert all(torch.equal(value, before[name]) for name, value in padim.state_dict().items())
