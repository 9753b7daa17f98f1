"""Models in memory: what is written comes back; what does not fit is refused before memory is taken."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asd_cli.density.moments import Moments
from asd_cli.density.normal import NormalPixels
from asd_cli.errors import ModelFileError
from asd_cli.model_file import read_model, write_model
from asd_cli.workflows.models import load_model, normal_arrays, normal_from


@pytest.fixture
def spoil(tiny_model: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the model file whose header and tensors `edit` changes."""

    def spoiled(edit: Callable[[dict[str, Any], dict[str, dict[str, Any]]], None]) -> Path:
        file = read_model(tiny_model)
        parts = {prefix: dict(file.part(prefix)) for prefix in ("method", "calibration", "moments")}
        edit(file.header, parts)
        path = tmp_path / "spoiled.safetensors"
        write_model(path, file.header, parts)
        return path

    return spoiled


def test_load_and_write_again_gives_the_same_bytes(tiny_model: Path, tmp_path: Path) -> None:
    model = load_model(tiny_model)
    again = replace(model, path=tmp_path / "again.safetensors")
    assert again.write(overwrite=False) == model.sha256
    assert again.path.read_bytes() == tiny_model.read_bytes()


def test_loading_leaves_the_random_state_alone_and_the_weights_can_be_trained(tiny_model: Path) -> None:
    before = torch.random.get_rng_state()
    model = load_model(tiny_model)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(p.requires_grad and p.device.type == "cpu" for p in model.detector.parameters())
    assert not any(b.is_meta for b in model.detector.buffers())


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"scales": [1e9]}, r"scale 1e\+09 is not within 1/16..16"),
        ({"scales": [0.75]}, "scale 0.75 is not a power of two"),
        ({"scales": []}, "0 scales; give 1 to 8"),
        ({"scales": [1.0] * 9}, "9 scales; give 1 to 8"),
        ({"scales": 5}, "'int' object is not iterable"),
        ({"scales": ["x"]}, "could not convert"),
        ({"length": -1}, "length -1 is not within 1..256"),
        ({"length": 10**12}, "length 1000000000000 is not within 1..256"),
        ({"length": None}, "int"),
        ({"patch_size": 10**6}, "patch size 1000000 is not within 10..127"),
        ({"bands": 3}, "bands"),
        ({"color": "red"}, "color"),
    ],
)
def test_absurd_configurations(spoil: Callable[..., Path], config: dict[str, Any], text: str) -> None:
    path = spoil(lambda header, parts: header["config"].update(config))
    with pytest.raises(ModelFileError, match=f"{path}: the model file does not describe a usable model .*{text}"):
        load_model(path)


def test_missing_configuration(spoil: Callable[..., Path]) -> None:
    path = spoil(lambda header, parts: header["config"].clear())
    with pytest.raises(ModelFileError, match=r"does not describe a usable model .*length"):
        load_model(path)


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda h, p: h.update(method="unheard"), "method 'unheard': not known; methods: .*asd"),
        (lambda h, p: p["method"].pop("center"), "the tensors do not fit the method asd .center.;"),
        (lambda h, p: p["method"].update(more=np.zeros(3)), "the tensors do not fit the method asd .more.;"),
        (
            lambda h, p: p["method"].update(center=np.zeros(7, np.float32)),
            r"tensor center is float32\[7\], not the float32\[5\] of the method asd",
        ),
        (
            lambda h, p: p["method"].update(center=np.zeros(5)),
            r"tensor center is float64\[5\], not the float32\[5\] of the method asd",
        ),
        (lambda h, p: p["method"]["high"].fill(-1e6), "the scaling of the bands is damaged: a range is empty"),
        (
            lambda h, p: p["method"]["encoder.norm.running_var"].fill(-1),
            "tensor encoder.norm.running_var is damaged: a variance is negative",
        ),
        (lambda h, p: p["calibration"].pop("tail"), "calibration: 'tail' is missing"),
        (lambda h, p: p["moments"].pop("third"), "third"),
        (lambda h, p: p["moments"].update(mean=np.zeros(4)), "moments of different lengths"),
        (lambda h, p: p["moments"].update(within=np.zeros((4, 4))), "moments of different lengths"),
        (lambda h, p: p["moments"].update(mean=np.zeros((5, 5))), "moments of different lengths"),
        (lambda h, p: p["moments"].update(count=np.array([2, 3])), "does not describe a usable model"),
        (lambda h, p: p["moments"].update(count=np.array(2**63 - 1)), "moments of 9223372036854775807 pixels"),
        (lambda h, p: p["moments"].update(squares=np.array(0.5)), "moments that no pixels have"),
        (lambda h, p: p["moments"].update(squares=np.array(1e30)), "moments that no pixels have"),
        (lambda h, p: p["moments"].update(within=np.full((5, 5), 1e308)), "moments that no pixels have"),
        (lambda h, p: p["moments"].update(within=-p["moments"]["second"]), "moments that no pixels have"),
        (lambda h, p: p["moments"].update(within=2 * p["moments"]["second"]), "moments that no pixels have"),
        (lambda h, p: p["moments"].update(second=np.triu(p["moments"]["second"])), "moments that no pixels have"),
        (lambda h, p: p["moments"].update(count=np.array(-5)), "moments of -5 pixels"),
        (
            lambda h, p: p["moments"].update(mean=np.zeros(4), second=np.eye(4), within=np.eye(4), third=np.zeros(4)),
            "moments of 4 numbers for descriptors of 5",
        ),
    ],
)
def test_parts_that_do_not_fit(spoil: Callable[..., Path], edit: Any, text: str) -> None:
    path = spoil(edit)
    with pytest.raises(ModelFileError, match=f"{path}: .*{text}") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_a_large_architecture_takes_no_memory_before_it_is_refused(spoil: Callable[..., Path]) -> None:
    path = spoil(lambda header, parts: header["config"].update(length=256, patch_size=127, scales=[1.0] * 8))
    before = torch.random.get_rng_state()
    tracemalloc.start()
    with pytest.raises(ModelFileError, match="the tensors do not fit the method asd"):
        load_model(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    assert torch.equal(before, torch.random.get_rng_state())


def test_normal_pixels_round_trip() -> None:
    random = np.random.default_rng(0)
    one, other = (NormalPixels.of_tile(Moments.of(random.normal(size=(25, 3)))) for _ in range(2))
    normal = one.merge(other)
    again = normal_from(normal_arrays(normal))
    assert (again.moments.count, again.tiles) == (50, 2)
    assert again.moments.fourth == normal.moments.fourth
    np.testing.assert_array_equal(again.within, normal.within)
    for name in ("mean", "second", "third"):
        np.testing.assert_array_equal(getattr(again.moments, name), getattr(normal.moments, name))


def test_files_that_say_nothing_of_tiles_have_all_pixels_in_one(spoil: Callable[..., Path]) -> None:
    normal = load_model(spoil(lambda header, parts: [parts["moments"].pop(k) for k in ("within", "squares")])).normal
    assert normal is not None
    assert not normal.between.any()
    assert normal.tiles == 1


def test_band_error_says_what_the_model_wants(tiny_model: Path) -> None:
    error = load_model(tiny_model).band_error("scene.tif", 1)
    wanted = "scene.tif: 1 band, but the model was trained on 3 (band 1, band 2, band 3); choose 3 with --bands"
    assert str(error) == wanted
