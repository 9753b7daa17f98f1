"""The folded encoder, in torch and on ONNX Runtime, against the encoder and Gaussian that it comes from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from test_asd_encoder import ENCODERS, GOLDEN, load_encoder

from asd_cli.density.gaussian import Gaussian
from asd_cli.methods.asd.folded import FoldedEncoder
from asd_cli.methods.asd.half import HalfScorer
from asd_cli.methods.asd.method import AsdMethod
from asd_cli.nn.engines import OnnxEngine, TorchEngine
from asd_cli.raster.scene import Scene
from asd_cli.raster.windows import Window
from asd_cli.workflows.models import load_model

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_folded_equals_unfolded_for_the_published_encoders(name: str, engine: str) -> None:
    golden = dict(np.load(GOLDEN / f"{name}.npz"))
    encoder, x = load_encoder(golden), torch.from_numpy(golden["x"])
    length, bands = golden["descriptors"].shape[1], x.shape[1]
    side = min(x.shape[-2:])
    x = F.pad(x[..., :side, :side], (encoder.halo,) * 4)
    low, high = -torch.ones(bands), torch.ones(bands)
    folded = FoldedEncoder(encoder, low, high, torch.zeros(length), torch.eye(length))
    with torch.inference_mode():
        expected = encoder.describe(x.clamp(-3, 3)).numpy()
    if engine == "torch":
        found = TorchEngine(folded, CPU, side)(x.numpy())
    else:
        run = OnnxEngine(folded.session(side, distances=False), side)
        found = np.concatenate([run(one[None]) for one in x.numpy()])
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6 * np.abs(expected).max())


def random_method(seed: int, bands: int, length: int, scales: tuple[float, ...], patch_size: int) -> AsdMethod:
    """Weights, normalisation, scaling and Gaussian that no default could stand in for."""
    random = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = AsdMethod.create(bands, length=length, scales=scales, patch_size=patch_size).eval()
        norm = made.encoder.norm
        for tensor in (norm.weight, norm.bias, norm.running_mean, made.low):
            assert tensor is not None
            torch.nn.init.normal_(tensor)
    assert norm.running_var is not None
    norm.running_var.copy_(torch.from_numpy(random.uniform(0.01, 4, len(norm.running_var))))
    made.high.copy_(made.low + torch.from_numpy(random.uniform(0.5, 3, bands)))
    factor = random.normal(size=(length, length))
    made.set_gaussian(Gaussian(random.normal(size=length), factor @ factor.T + np.eye(length), 0.0))
    return made.requires_grad_(False)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    bands=st.integers(1, 14),
    length=st.integers(1, 16),
    scales=st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0]), min_size=1, max_size=4, unique=True),
    patch_size=st.integers(10, 24),
    side=st.sampled_from([16, 32, 48]),
)
def test_folded_equals_unfolded_for_any_model(
    seed: int, bands: int, length: int, scales: list[float], patch_size: int, side: int
) -> None:
    method = random_method(seed, bands, length, tuple(scales), patch_size)
    around = side + 2 * method.halo
    x = np.random.default_rng(seed).normal(0, 1.5, (1, bands, around, around)).astype(np.float32)
    with torch.inference_mode():
        distances = method.distances(torch.from_numpy(x)).numpy()
        descriptors = method.descriptors(torch.from_numpy(x)).numpy()
        folded = method.folded().distances(torch.from_numpy(x)).numpy()
    found = method.distance_engine(CPU, side)(x)
    described = method.descriptor_engine(CPU, side)(x)
    assert found.shape == (1, 1, side, side)
    floor = 1e-5 * distances.max()  # a small distance is the difference of numbers that are not
    np.testing.assert_allclose(folded, distances, rtol=1e-5, atol=floor)
    np.testing.assert_allclose(found[:, 0], distances, rtol=1e-5, atol=floor)
    np.testing.assert_allclose(described, descriptors, rtol=1e-5, atol=1e-5 * np.abs(descriptors).max())


def test_the_folded_encoder_is_a_copy() -> None:
    method = random_method(1, 3, 5, (0.5, 1.0, 2.0), 15)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.folded()
    method.distance_engine(CPU, 16)
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())


def test_engines_on_the_cpu_take_one_block_and_may_be_shared() -> None:
    engine = random_method(2, 2, 5, (1.0,), 15).distance_engine(CPU, 32)
    assert (engine.batch, engine.callers, engine.side) == (1, None, 32)


def test_pixels_far_outside_the_range_are_clamped() -> None:
    method = random_method(3, 2, 5, (0.5, 1.0), 15)
    x = np.full((1, 2, 16 + 2 * method.halo, 16 + 2 * method.halo), 3e38, np.float32)
    x[:, :, ::3] = -3e38
    found = method.distance_engine(CPU, 16)(x)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("scales", "patch_size"), [((0.5, 1.0, 2.0), 15), ((0.25, 0.5), 15), ((2.0, 1.0), 23), ((4.0, 0.5), 15)]
)
def test_half_precision_keeps_the_distances(scales: tuple[float, ...], patch_size: int) -> None:
    method = random_method(4, 3, 5, scales, patch_size)
    x = np.random.default_rng(4).normal(0, 1.5, (2, 3, 48 + 2 * method.halo, 32 + 2 * method.halo)).astype(np.float32)
    with torch.inference_mode():
        expected = method.distances(torch.from_numpy(x)).numpy()
        found = HalfScorer(method.folded(), fused=False)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-3 * expected.max())


def test_half_precision_ranks_the_sample_scene_alike() -> None:
    sample = Path(__file__).parents[2] / "sample_data"
    model = load_model(sample / "forest.safetensors")
    method = model.detector
    assert isinstance(method, AsdMethod)
    with Scene.open(sample / "scene.tif") as scene, Scene.open(sample / "truth.tif") as labels:
        window = Window(300, 200, 256, 512)
        chip, truth = scene.read(window.expand(method.halo)), labels.read(window).pixels[0]
    assert chip.valid.all()
    with torch.inference_mode():
        x = torch.from_numpy(chip.pixels)[None]
        single = method.folded().distances(x)[0].numpy().ravel()
        half = HalfScorer(method.folded(), fused=False)(x)[0].numpy().ravel()
    anomalous = (truth > 1).ravel()
    assert 0.02 < anomalous.mean() < 0.98
    assert abs(roc_auc_score(anomalous, single) - roc_auc_score(anomalous, half)) < 0.001
    assert spearmanr(single, half).statistic > 0.9999


def test_a_whitening_beyond_the_range_of_half_precision_is_no_trouble() -> None:
    method = random_method(5, 2, 5, (0.5, 1.0), 15)
    method.whitening.mul_(1e6)
    x = torch.randn(1, 2, 16 + 2 * method.halo, 16 + 2 * method.halo)
    with torch.inference_mode():
        expected, found = method.distances(x), HalfScorer(method.folded(), fused=False)(x)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=float(expected.max()) * 1e-3)


FUSED = """
import torch, torch.nn.functional as F
from torch import nn
from asd_cli.nn.fused import HiddenWeights, fused_hidden_layer

torch.manual_seed(0)
cases = [(2, 1, 4, 5, 2, 128), (1, 2, 2, 20, 3, 128), (1, 1, 1, 1, 1, 128), (2, 2, 2, 16, 2, 32)]
for bands, stride, dilation, outs, kernel, width in cases:
    first, last = nn.Conv2d(16, width, kernel), nn.Conv2d(width, outs, 1, bias=False)
    x = torch.randn(bands, 16, 20, 33).half().contiguous(memory_format=torch.channels_last)
    steps = {"stride": stride, "dilation": dilation}
    with torch.no_grad():
        expected = last(F.relu(F.conv2d(x.float(), first.weight, first.bias, **steps))).movedim(1, -1)
        found = fused_hidden_layer(x, HiddenWeights.of(first, last), **steps)
        added = torch.randn_like(found)
        norm = fused_hidden_layer(x, HiddenWeights.of(first, last), added=added, norm=True, **steps)
    torch.testing.assert_close(found[..., :outs], expected, rtol=2e-3, atol=2e-3)
    assert (found[..., outs:] == 0).all()
    torch.testing.assert_close(norm, torch.linalg.vector_norm(found + added, dim=-1), rtol=1e-5, atol=1e-5)

from asd_cli.methods.asd.folded import FoldedEncoder
from asd_cli.methods.asd.encoder import PyramidEncoder
from asd_cli.methods.asd.half import HalfScorer

encoder = PyramidEncoder(2, length=3, scales=(0.5, 1.0, 2.0), hidden=16)
folded = FoldedEncoder(encoder, -torch.ones(2), torch.ones(2), torch.zeros(3), torch.eye(3))
x = torch.randn(1, 2, 16 + 2 * folded.halo, 16 + 2 * folded.halo)
for fused in (False, True):
    torch.testing.assert_close(HalfScorer(folded, fused=fused)(x), folded.distances(x), rtol=5e-3, atol=5e-3)
"""


def test_the_fused_kernel_computes_the_layers() -> None:
    pytest.importorskip("triton", reason="Triton comes with the CUDA builds of torch only")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}  # on the processor, without a GPU
    done = subprocess.run([sys.executable, "-c", FUSED], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
