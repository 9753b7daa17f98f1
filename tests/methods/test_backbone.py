"""Networks of timm: loading, weights of other bands, what is said when something is missing, features in register."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_timm
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from asd_cli.errors import InputError
from asd_cli.methods.backbone.features import FrozenFeatures, described, resampled
from asd_cli.methods.backbone.loading import STRIDES, build, channels, check_weights, for_bands, import_timm

GOOD = "FrozenBatchNorm2d = object"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_timm.install(monkeypatch)


def package(folder: Path, name: str, text: str) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(text)


@pytest.fixture
def replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where a timm of the test's own is found first."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("timm", "torchvision")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


def test_timm_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        InputError, match=r"needs timm, which is not installed; install it with: pip install 'asd-cli\["
    ):
        import_timm()


def test_torchvision_is_missing(replaced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(replaced, "timm", "from torchvision.ops.misc import FrozenBatchNorm2d")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(InputError, match=r"needs timm, which needs torchvision.*; install it with: pip install"):
        import_timm()


def test_torchvision_is_broken(replaced: Path) -> None:
    package(replaced, "timm", "from torchvision import ops")
    package(replaced, "torchvision", "raise RuntimeError('operator torchvision::nms does not exist\\nmore')")
    with pytest.raises(InputError) as caught:
        import_timm()
    assert str(caught.value) == (
        "the backbone needs timm, which cannot be imported (operator torchvision::nms does not exist); install torch "
        "and torchvision from the same index, both for the CPU or both for CUDA"
    )


def test_nothing_else_imports_timm_or_torchvision(tmp_path: Path) -> None:
    """Both are there to be imported, and seen if they are."""
    package(tmp_path, "timm", "from torchvision import ops")
    package(tmp_path, "torchvision", "ops = None")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from asd_cli.methods.registry import METHODS, method_class\n"
        "import asd_cli.cli, asd_cli.workflows.train, asd_cli.workflows.predict, asd_cli.workflows.evaluate\n"
        "from asd_cli.data.augment import VirtualAnomalies\n"
        "for name in METHODS: method_class(name)\n"
        "method_class('rx').create(3)\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'timm', 'torchvision'}))\n"
        "from asd_cli.methods.backbone.loading import import_timm\n"
        "import_timm()\n"
        "print('timm' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[:2] == ["[]", "True"], done.stderr


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        (
            "",
            r"needs weights; give weights=FILE \(.safetensors or .pth, of timm or torchvision\) or weights=pretr",
        ),
        ("nowhere.pth", "=nowhere.pth: no such file; or pretrained, or random"),
    ],
)
def test_no_weights(weights: str, text: str) -> None:
    with pytest.raises(InputError, match=f"--option weights.*{text}"):
        check_weights(weights)


def test_the_model_file_names_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(b"abc")
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert check_weights(str(path)) == {"backbone_weights": "net.pth", "backbone_sha256": sha256}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("name", "weights", "text"),
    [
        ("resnet19", "random", r"backbone=resnet19: timm cannot make it \(Unknown model \(resnet19\)\); an example"),
        (
            "shallow",
            "random",
            r"backbone=shallow: its stages have strides \(2, 4, 8\), not \(4, 8, 16\); take a ResNet",
        ),
        ("resnet18", "pretrained", r"weights=pretrained: timm cannot get those of resnet18 \(no way to the hub\); get"),
    ],
)
def test_networks_that_cannot_be_had(name: str, weights: str, text: str) -> None:
    with pytest.raises(InputError, match=f"--option {text}"):
        build(name, 3, weights)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", ["safetensors", "pth", "nested"])
@pytest.mark.parametrize("bands", [1, 3, 7])
def test_weights_from_a_file(kind: str, bands: int, tmp_path: Path) -> None:
    donor = fake_timm.TinyNet(3)
    nn.init.normal_(donor.bn1.running_mean)
    state = {**donor.state_dict(), "fc.weight": torch.zeros(2, 2)}
    del state["bn1.num_batches_tracked"]
    path = tmp_path / ("net.safetensors" if kind == "safetensors" else "net.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if kind == "nested" else state, path)
    made = build("resnet18", bands, str(path))
    assert channels(made) == fake_timm.CHANNELS
    assert not made.training
    assert not any(parameter.requires_grad for parameter in made.parameters())
    for name, tensor in made.state_dict().items():
        expected = donor.state_dict()[name]
        assert torch.equal(tensor, for_bands(expected, bands) if name == "conv1.weight" and bands != 3 else expected)
    gray = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        for mine, theirs in zip(
            made(gray.expand(1, bands, 32, 32)), donor.eval()(gray.expand(1, 3, 32, 32)), strict=True
        ):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda state: state.pop("layer2.weight"), "has no tensor layer2.weight; are they of this backbone"),
        (
            lambda state: state.update({"layer1.bias": torch.zeros(9)}),
            r"tensor layer1.bias is \[9\], this backbone has \[6\]",
        ),
        (lambda state: state.update({"epoch": 3}), "holds no plain tensors by name; save the network's state_dict"),
    ],
)
def test_weights_that_do_not_fit(change: Any, text: str, tmp_path: Path) -> None:
    state: dict[str, Any] = dict(fake_timm.TinyNet(3).state_dict())
    change(state)
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(InputError, match=f"--option weights=.*net.pth: {text}"):
        build("resnet18", 3, str(tmp_path / "net.pth"))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize("content", [b"", b"\x80\x02cos\nsystem\nq\x00.", b"nonsense" * 9, b"junk\n"])
def test_files_that_are_no_weights(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: cannot be read as weights"):
        build("resnet18", 3, str(tmp_path / name))


@pytest.mark.parametrize("ratio", [2, 8])
def test_resampled_is_linear_between_the_centres_of_cells(ratio: int) -> None:
    features = np.random.default_rng(0).normal(size=(7, 9))
    shape = (2 * ratio + 1, 3 * ratio - 1)
    rows, cols = (1 + np.arange(n) / ratio for n in shape)
    across = np.array([np.interp(cols, np.arange(9), row) for row in features])
    expected = np.array([np.interp(rows, np.arange(7), col) for col in across.T]).T
    found = resampled(torch.from_numpy(features)[None, None], ratio, 1, shape)[0, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("said", "mean", "spread"),
    [(None, 0.449, 0.226), ({}, 0.449, 0.226), ({"mean": (0.5, 0.4, 0.6), "std": (0.5, 0.5, 0.5)}, 0.5, 0.5)],
)
@pytest.mark.usefixtures("small")
def test_pixels_are_normalised_as_the_network_was_trained(
    said: dict[str, Any] | None, mean: float, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asd_cli.methods.backbone import features

    def built(*given: Any) -> nn.Module:
        network = build(*given)
        network.pretrained_cfg = said  # type: ignore[assignment]
        return network

    monkeypatch.setattr(features, "build", built)
    made = FrozenFeatures(2, backbone="resnet18", halo=64, weights="random")
    x = torch.rand(1, 2, 64, 64)
    for found, expected in zip(made(x), made.network((x - mean) / spread), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("small")
def test_features_are_in_register_with_the_pixels() -> None:
    """A network whose weights are symmetric answers to a symmetric image with a symmetric map."""
    torch.manual_seed(0)
    features = FrozenFeatures(1, backbone="resnet18", halo=64, weights="random")
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            for axis in (-1, -2):
                module.weight.copy_((module.weight + module.weight.flip(axis)) / 2)
    x = torch.zeros(1, 1, 64 + 128, 64 + 128)
    x[..., 96, 96] = 1.0
    x = nn.functional.avg_pool2d(x, 9, 1, 4)
    found: Tensor = described(features(x), torch.arange(24), 64, (64, 64))[0]
    around = found[:, 32 - 31 : 32 + 32, 32 - 31 : 32 + 32]
    assert around.std(dim=(1, 2)).max() > 1e-4
    for axis in (1, 2):
        torch.testing.assert_close(around, around.flip(axis), rtol=1e-4, atol=1e-6)


def test_a_real_network_of_timm() -> None:
    try:
        import_timm()
    except InputError as error:
        pytest.skip(str(error))
    made = build("resnet18", 5)
    assert channels(made) == (64, 128, 256)
    with torch.no_grad():
        found = made(torch.zeros(1, 5, 64, 64))
    assert [feature.shape[-1] for feature in found] == [64 // stride for stride in STRIDES]
