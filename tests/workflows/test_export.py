"""`asd export`: the ONNX file gives the scores of `asd predict`, at any size, and as the plug-in Deepness calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from asd_cli.data.known import KnownTiles
from asd_cli.density.calibration import Calibration
from asd_cli.errors import AsdError, InputError
from asd_cli.methods.base import EvidenceDetector
from asd_cli.methods.registry import method_class
from asd_cli.model_file import model_header
from asd_cli.nn.onnx_graph import OnnxGraph, run_once
from asd_cli.options import SCORES, ExportOptions, PredictOptions
from asd_cli.raster.gdal import open_raster
from asd_cli.workflows.export import export_model, overlap_percent
from asd_cli.workflows.models import Model, load_model
from asd_cli.workflows.onnx_scores import add_score
from asd_cli.workflows.predict import predict
from asd_cli.workflows.scores import ScoreScale

SAMPLE = Path(__file__).parents[2] / "sample_data" / "forest.safetensors"  # of the recipe standard
Array = NDArray[np.float32]


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def properties(path: Path) -> dict[str, str]:
    return dict(session(path).get_modelmeta().custom_metadata_map)


def scene_of(model: Path, height: int, width: int) -> Array:
    arrays = load_model(model).detector.arrays()
    low, high = arrays["low"][:, None, None], arrays["high"][:, None, None]
    random = np.random.default_rng(8).normal(0.5, 0.25, (len(low), height // 6 + 1, width // 6 + 1))
    return (low + (high - low) * random.repeat(6, 1).repeat(6, 2)[:, :height, :width]).astype(np.float32)


@pytest.mark.parametrize("which", ["sample", "quick"])
def test_a_whole_scene_is_as_predicted(
    which: str, random_model: Path, make_scene: Callable[..., Path], tmp_path: Path
) -> None:
    model = SAMPLE if which == "sample" else random_model
    report = export_model(ExportOptions(model=model, output=tmp_path / "m.onnx", same_size=True))
    assert 0 < report.largest_difference < 1e-5
    assert report.halo == 0
    values = scene_of(model, 131, 97)
    make_scene(tmp_path / "scene.tif", values)
    predict(PredictOptions((str(tmp_path / "scene.tif"),), str(tmp_path / "a.tif"), model, device="cpu"))
    with open_raster(tmp_path / "a.tif") as dataset:
        expected = dataset.read()[None]
    found = session(tmp_path / "m.onnx").run(None, {"x": values[None]})[0]
    assert expected.std() > 0.01
    np.testing.assert_allclose(found, expected, atol=5e-6)


@pytest.mark.parametrize("score", SCORES)
def test_any_size_and_batch(score: Literal["unit", "distance", "far"], random_model: Path, tmp_path: Path) -> None:
    report = export_model(ExportOptions(model=random_model, output=tmp_path / "m.onnx", score=score))
    model = load_model(random_model)
    scale = ScoreScale.build(score, model.calibration, rate=0.1, threshold=None)
    runtime, halo = session(tmp_path / "m.onnx"), model.detector.halo
    assert report.halo == halo == int(properties(tmp_path / "m.onnx")["asd_halo"])
    for batch, height, width in ((1, 1, 2), (4, 7, 19), (2, 33, 1), (1, 61, 130)):
        image = np.stack([scene_of(random_model, height + 2 * halo, width + 2 * halo)] * batch)
        image[-1] = image[-1, :, ::-1]
        with torch.inference_mode():
            expected = scale.scores(model.detector.eval().distances(torch.from_numpy(image)).numpy())
        (found,) = runtime.run(["score"], {"x": image})
        assert found.shape == (batch, 1, height, width)
        np.testing.assert_allclose(found[:, 0], expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("shape", [0.0, 0.3])
def test_scores_of_every_distance(score: Literal["unit", "distance", "far"], shape: float) -> None:
    fitted = Calibration.fit(np.random.default_rng(1).gamma(2.0, 1.5, 20_000), 0.001)
    calibration = Calibration(fitted.knots, fitted.log_rates, fitted.tail_scale, shape, 0.001, fitted.count)
    near = np.float32(calibration.threshold)
    around = [np.nextafter(near, np.float32(0)), near, np.nextafter(near, np.float32(np.inf))]
    distances = np.concatenate([[0], around, np.linspace(0, 60, 5000), np.geomspace(1e-6, 1e6, 500), fitted.knots])
    distances = np.sort(distances).astype(np.float32)[None, None, None]
    graph = OnnxGraph()
    name = graph.rename(add_score(graph, "x", score, calibration), "score")
    content = graph.model(name, distances.shape, distances.shape)
    scale = ScoreScale.build(score, calibration, rate=0.001, threshold=None)
    found, expected = run_once(content, distances), scale.scores(distances)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-37)
    assert (np.diff(found[0, 0, 0]) * (-1 if score == "far" else 1) >= 0).all()
    if score == "unit":
        np.testing.assert_array_equal(found >= 0.5, distances >= calibration.threshold)
        assert found.max() < 1


def made(name: str, folder: Path, **config: Any) -> Path:
    """A model of a method, with weights and Gaussian that no default could stand in for."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        method = method_class(name).create(4, **config).eval()
        for value in method.state_dict().values():
            if value.is_floating_point() and value.ndim == 2:
                value.add_(0.2 * torch.randn_like(value))
    if isinstance(method, EvidenceDetector):
        method.set_evidence([np.random.default_rng(3).gamma(2.0, 1.0, (5000, method.signs)).astype(np.float32)])
    arrays = method.state_dict()
    arrays["low"].copy_(torch.tensor([10.0, 200.0, -3.0, 0.0]))
    arrays["high"].copy_(torch.tensor([90.0, 2000.0, 5.0, 1.0]))
    with torch.inference_mode():
        side = 40 + 2 * method.halo
        image = arrays["low"][:, None, None] + torch.rand(4, side, side) * 2
        distances = method.distances(image[None]).numpy().ravel()
    header = model_header(
        method=name,
        config=method.config(),
        bands={"count": 4, "indexes": [1, 2, 3, 4], "of": 4, "names": list("bgrn"), "dtype": "uint16"},
        normal=["forest"],
        pixel_size_m=None,
    )
    path = folder / f"{name}.safetensors"
    Model(header, method, Calibration.fit(distances, 0.01), None, KnownTiles.none(), path).write(overwrite=True)
    return path


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("dsvdd", {"length": 3, "scales": [0.25, 1.0, 4.0], "patch_size": 17}),
        ("rx", {"mode": "global"}),
        ("rx", {"mode": "subspace", "drop": 2}),
        (
            "asd",
            {
                "length": 2,
                "scales": [0.5, 1.0, 2.0],
                "patch_size": 12,
                "taught": "localised",
                "hidden": 16,
                "members": 2,
                "smoothing": 1.5,
                "texture": 9,
            },
        ),
    ],
)
def test_other_methods(name: str, config: dict[str, Any], tmp_path: Path) -> None:
    for options in ({}, {"same_size": True}):
        report = export_model(
            ExportOptions(made(name, tmp_path, **config), tmp_path / "m.onnx", "distance", overwrite=True, **options)
        )
        assert report.method == name
        assert report.largest_difference < 1e-5
        assert report.compared > 30_000


@pytest.mark.parametrize(("name", "config"), [("rx", {"mode": "local"}), ("riad", {}), ("ganomaly", {}), ("arnet", {})])
def test_methods_that_cannot_be_exported_say_so(name: str, config: dict[str, Any], tmp_path: Path) -> None:
    if name != "rx":
        from asd_cli.options import TrainOptions

        config = dict(method_class(name).plan(TrainOptions(method=name)).config)
    try:
        path = made(name, tmp_path, **config)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        pytest.skip(f"cannot be made here: {error}")
    with pytest.raises(InputError, match=f"{name}.safetensors: the method {name} cannot be exported as ONNX; asd, "):
        export_model(ExportOptions(path, tmp_path / "m.onnx"))
    assert not (tmp_path / "m.onnx").exists()


def test_a_difference_from_torch_is_refused(
    random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "asd_cli.workflows.export.add_score", lambda graph, x, *_: graph.add("Add", x, graph.constant(0.01))
    )
    with pytest.raises(AsdError, match=r"m\.onnx: not written, for ONNX Runtime and torch differ by"):
        export_model(ExportOptions(random_model, tmp_path / "m.onnx"))
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written(random_model: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.onnx"
    for options, text in (
        ({"output": tmp_path / "m.pt"}, r"m\.pt: is no name of an ONNX file; name it m\.onnx"),
        ({"model": tmp_path / "gone"}, "gone: no such model file"),
        ({"deepness": 32}, "--deepness 32: the model needs tiles above 32 px"),
        ({"output": tmp_path / "no" / "m.onnx"}, "the folder .* does not exist"),
    ):
        given: dict[str, Any] = {"model": random_model, "output": target, **options}
        with pytest.raises(AsdError, match=text):
            export_model(ExportOptions(**given))
    target.touch()
    with pytest.raises(AsdError, match="exists already"):
        export_model(ExportOptions(random_model, target))
    export_model(ExportOptions(random_model, target, overwrite=True))
    once = target.read_bytes()
    export_model(ExportOptions(random_model, target, overwrite=True))
    assert target.read_bytes() == once


def as_the_plugin_does(path: Path, image: Array) -> Array:
    """Square tiles of `tile_size`, overlapping by `tiles_overlap` percent, of the image set in zeros, divided by 255;
    half of each overlap is thrown away."""
    facts = {key: json.loads(value) for key, value in properties(path).items() if not key.startswith("asd_")}
    runtime, tile = session(path), facts["tile_size"]
    overlap = int(tile * facts["tiles_overlap"] / 100 * 2) // 2
    stride, cut = tile - overlap, overlap // 2
    _, height, width = image.shape
    rows, cols = (-(-max(n - tile, 0) // stride) + 1 for n in (height, width))
    full = np.zeros((len(image), (rows - 1) * stride + tile, (cols - 1) * stride + tile), np.float32)
    full[:, :height, :width] = image
    out = np.full(full.shape[1:], np.nan, np.float32)
    for row in range(0, rows * stride, stride):
        for col in range(0, cols * stride, stride):
            given = full[None, :, row : row + tile, col : col + tile] * np.float32(1 / 255)
            (score,) = runtime.run(None, {runtime.get_inputs()[0].name: given})
            top, left = (0 if start == 0 else cut for start in (row, col))
            bottom = tile if row == (rows - 1) * stride else tile - cut
            right = tile if col == (cols - 1) * stride else tile - cut
            out[row + top : row + bottom, col + left : col + right] = score[0, 0, top:bottom, left:right]
    return out[:height, :width]


def test_deepness(make_scene: Callable[..., Path], tmp_path: Path) -> None:
    report = export_model(ExportOptions(SAMPLE, tmp_path / "m.onnx", deepness=128))
    runtime = session(tmp_path / "m.onnx")
    (given,), (out,) = runtime.get_inputs(), runtime.get_outputs()
    assert (given.shape, out.shape) == (["batch", 3, 128, 128], ["batch", 1, 128, 128])  # the plug-in asks for numbers
    facts = properties(tmp_path / "m.onnx")
    assert json.loads(facts["model_type"]) == "Regressor"
    assert json.loads(facts["class_names"]) == {"0": "anomaly score"}
    assert json.loads(facts["resolution"]) == 50.0  # cm
    assert (json.loads(facts["tile_size"]), json.loads(facts["reg_output_scaling"])) == (128, 1.0)
    assert (facts["asd_halo"], facts["asd_model_sha256"]) == ("0", report.model_sha256)
    values = scene_of(SAMPLE, 300, 411).clip(0, 255).round()
    make_scene(tmp_path / "scene.tif", values)
    predict(PredictOptions((str(tmp_path / "scene.tif"),), str(tmp_path / "a.tif"), SAMPLE, device="cpu"))
    with open_raster(tmp_path / "a.tif") as dataset:
        expected = dataset.read(1)
    found = as_the_plugin_does(tmp_path / "m.onnx", values)
    far = slice(0, 300 - 20), slice(0, 411 - 20)  # it sets the image in zeros below and on the right
    np.testing.assert_allclose(found[far], expected[far], atol=1e-5)


@pytest.mark.parametrize(
    ("tile", "halo", "align"), [(512, 16, 2), (512, 32, 4), (256, 0, 1), (640, 32, 4), (100, 16, 2)]
)
def test_tiles_overlap_by_their_context(tile: int, halo: int, align: int) -> None:
    percent = overlap_percent(tile, halo, align)
    overlap = int(tile * percent / 100 * 2) // 2
    assert overlap // 2 >= halo
    assert (tile - overlap) % align == 0
    assert overlap <= 2 * halo + 0.04 * tile + 8


def test_the_file_is_of_the_documented_version(random_model: Path, tmp_path: Path) -> None:
    report = export_model(ExportOptions(random_model, tmp_path / "m.onnx"))
    model = onnx.load(tmp_path / "m.onnx")
    assert (model.ir_version, model.opset_import[0].version, report.opset) == (9, 18, 18)
    assert [node.name for node in model.graph.input] == ["x"]
    assert {entry.domain for entry in model.opset_import} == {""}
