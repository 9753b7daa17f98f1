"""`asd compare` from tiles to tables and maps: figures, reuse, resuming, methods that fail."""

from __future__ import annotations

import csv
import json
import logging
import os
import signal
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from asd_cli.data.amplitudes import Amplitudes
from asd_cli.data.scaling import Scaling
from asd_cli.errors import InputError, LabelError, OutputError, TrainingError
from asd_cli.methods.base import Detector
from asd_cli.methods.recipe import Recipe, TrainingPlan
from asd_cli.methods.registry import METHODS
from asd_cli.metrics.overlap import aupro
from asd_cli.metrics.roc import auc, roc_curve
from asd_cli.options import CompareOptions, TileOptions, TrainOptions, Variant
from asd_cli.raster.gdal import open_raster
from asd_cli.workflows import compare_runs
from asd_cli.workflows.compare import compare
from asd_cli.workflows.compare_report import CompareReport
from asd_cli.workflows.models import load_model
from asd_cli.workflows.train import train

FITTED = Recipe(32, 0, None, 0, 1e-3, 0.0, "none", False, None, "robust", Amplitudes())


class Range(Detector):
    """Distance of a pixel from the middle of the normal range of each band; nothing is trained."""

    name: ClassVar[str] = "range"

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.bands, self.halo, self.align = bands, 0, 1
        self.register_buffer("low", torch.zeros(bands))
        self.register_buffer("high", torch.ones(bands))

    def distances(self, x: Tensor) -> Tensor:
        low, high = self.low.view(1, -1, 1, 1), self.high.view(1, -1, 1, 1)
        return ((x - low) / (high - low) * 2 - 1).norm(dim=1)

    def config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def create(cls, bands: int, **config: Any) -> Range:
        return cls(bands, **config)

    @classmethod
    def plan(cls, options: TrainOptions) -> TrainingPlan:
        if options.recipe != TrainOptions.recipe:
            raise InputError(f"--recipe {options.recipe}: the method range has no such recipe")
        return TrainingPlan({}, FITTED, {})

    def set_scaling(self, scaling: Scaling) -> None:
        self.low.copy_(torch.from_numpy(scaling.low))
        self.high.copy_(torch.from_numpy(scaling.high))

    def objective(self, options: TrainOptions, *, warmup_epochs: int) -> None:
        return None


class Stubborn(Range):
    """Says no when it is to be trained."""

    name: ClassVar[str] = "stubborn"

    def objective(self, options: TrainOptions, *, warmup_epochs: int) -> None:
        raise TrainingError("there is too little light")


class Broken(Range):
    """Has a bug."""

    name: ClassVar[str] = "broken"

    def objective(self, options: TrainOptions, *, warmup_epochs: int) -> None:
        raise ZeroDivisionError("a bug")


@pytest.fixture(autouse=True)
def methods(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Range, Stubborn, Broken):
        monkeypatch.setitem(METHODS, kind.name, f"{__name__}:{kind.__name__}")


@pytest.fixture(scope="module")
def tiles(
    make_tiles: Callable[..., Path], make_texture: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Five tiles of 40 x 44 px, 2 bands, with a lake in the lower part of each, at other places."""
    images, labels = [], []
    for seed in range(5):
        label = np.ones((40, 44), np.uint8)
        label[30:, 8 * seed : 8 * seed + 10] = 2
        image = make_texture(seed, 2, 40, 44)
        image[:, label == 2] -= 45
        images.append(image)
        labels.append(label)
    return make_tiles(tmp_path_factory.mktemp("compare") / "tiles", images, labels)


@pytest.fixture
def base(tiles: Path, tmp_path: Path) -> CompareOptions:
    return CompareOptions(
        tiles=TileOptions(tiles=(str(tiles),), normal=("forest",)),
        output=tmp_path / "report",
        methods=("range",),
        device="cpu",
        maps=0,
    )


def figures(report: CompareReport, name: str, split: str = "first-half") -> dict[str, float]:
    return dict(next(row for row in report.rows if row.name == name).figures[split])


def read(path: Path) -> NDArray[Any]:
    with open_raster(path) as dataset:
        return dataset.read()


def test_figures_are_those_of_the_method_on_the_second_half(base: CompareOptions, tiles: Path) -> None:
    report = compare(base)
    model = load_model(base.output / "runs" / "range" / "first-half" / "model.safetensors")
    low, high = (model.detector.get_buffer(name).numpy()[:, None, None] for name in ("low", "high"))
    names = [f"tile_{place}.tif" for place in (2, 3, 4)]
    images = np.stack([read(tiles / "images" / name) for name in names])
    label = np.stack([read(tiles / "labels" / name)[0] == 2 for name in names])
    scores = np.sqrt((((images - low) / (high - low) * 2 - 1) ** 2).sum(axis=1))
    found = figures(report, "range")
    assert report.splits["first-half"] == {"train": ("tile_0.tif", "tile_1.tif"), "test": tuple(names)}
    assert found["auc"] == pytest.approx(auc(roc_curve(scores, label)), abs=1e-4)
    assert found["region_overlap"] == pytest.approx(aupro(scores, label), abs=1e-3)
    called = scores >= model.calibration.threshold
    assert found["recall"] == pytest.approx(called[label].mean(), abs=1e-3)
    assert (found["pixels"], found["anomalous"]) == (label.size, label.sum())
    assert found["model_bytes"] == model.path.stat().st_size
    assert found["steps"] == 0
    assert found["mpx_per_second"] > 0
    assert found["train_seconds"] > 0


def test_training_sees_nothing_of_the_second_half(base: CompareOptions, tiles: Path, tmp_path: Path) -> None:
    compare(replace(base, methods=("asd",), steps=2))
    half = TileOptions(tiles=tuple(str(tiles / "images" / f"tile_{place}.tif") for place in (0, 1)), normal=("forest",))
    train(TrainOptions(tiles=half, output=tmp_path / "half.safetensors", steps=2, device="cpu"))
    model = base.output / "runs" / "asd" / "first-half" / "model.safetensors"
    assert model.read_bytes() == (tmp_path / "half.safetensors").read_bytes()
    assert not (base.output / "maps").exists()


def test_tables_and_maps(base: CompareOptions) -> None:
    other = Variant("other", (("method", "range"), ("seed", 3)))
    report = compare(replace(base, variants=(other,), maps=2))
    rows = list(csv.DictReader((base.output / "table.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == ["range", "other"]
    assert float(rows[0]["auc"]) == figures(report, "range")["auc"]
    kept = json.loads((base.output / "table.json").read_text())
    assert kept["rows"][1]["mean"]["f1"] == figures(report, "other")["f1"]
    assert kept["splits"]["first-half"]["train"] == ["tile_0.tif", "tile_1.tif"]
    lines = (base.output / "table.md").read_text().splitlines()
    assert lines[0].startswith("|  | AUC | AP | mIoU* | mIoU | F1 | AUPRO |")
    assert lines[2].startswith(f"| range | {figures(report, 'range')['auc']:.3f} |")
    assert report.table().splitlines()[1].split()[:2] == ["range", f"{figures(report, 'range')['auc']:.3f}"]
    assert [path.name for path in report.maps] == ["tile_2.png", "tile_4.png"]
    picture = read(report.maps[0])
    assert picture.shape[0] >= 3
    assert picture.std() > 20
    assert not np.array_equal(picture, read(report.maps[1]))


def test_what_is_done_is_used_again(base: CompareOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compare(base)
    with monkeypatch.context() as patch:
        for name in ("train", "evaluate"):
            patch.setattr(compare_runs, name, None)
        assert compare(base) == first
    more = compare(replace(base, maps=1))
    assert len(more.maps) == 1
    assert figures(more, "range")["train_seconds"] == figures(first, "range")["train_seconds"]
    again = compare(replace(base, overwrite=True))
    assert figures(again, "range")["train_seconds"] != figures(first, "range")["train_seconds"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": 4}, "made with another --seed"),
        ({"false_alarm_rate": 0.01, "holdout": 0.3}, "made with another --false-alarm-rate, another --holdout"),
        ({"split": "split.csv"}, None),
    ],
)
def test_other_options_are_run_again_and_the_log_says_why(
    base: CompareOptions, change: dict[str, Any], reason: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "split.csv").write_text("tile_0,train\ntile_4.tif,test\n")
    compare(base)
    if "split" in change:
        change = {"split": str(tmp_path / "split.csv")}
    with caplog.at_level(logging.INFO, "asd_cli"):
        report = compare(replace(base, **change))
    told = [r.getMessage() for r in caplog.records if "do not count" in r.getMessage()]
    assert told == [f"range, first-half: the earlier results do not count ({reason}); it is run again"] * bool(reason)
    if reason is None:
        assert report.splits == {"split": {"train": ("tile_0.tif",), "test": ("tile_4.tif",)}}


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("tile", "made with another content of the tiles"),
        ("model", "the model file is missing or another one"),
        ("state", "they are unreadable"),
    ],
)
def test_results_whose_files_changed_do_not_count(
    base: CompareOptions, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture, what: str, reason: str
) -> None:
    make_tiles, make_texture = request.getfixturevalue("make_tiles"), request.getfixturevalue("make_texture")
    label = np.ones((40, 40), np.uint8)
    label[:8] = 2
    folder = make_tiles(base.output.with_name("own"), [make_texture(seed, 1, 40, 40) for seed in (1, 2)], [label] * 2)
    options = replace(base, tiles=replace(base.tiles, tiles=(str(folder),)))
    before = compare(options)
    run = base.output / "runs" / "range" / "first-half"
    if what == "tile":
        make_tiles(folder, [make_texture(seed, 1, 40, 40) for seed in (1, 3)], [label] * 2)
    elif what == "model":
        (run / "model.safetensors").write_bytes(b"")
    else:
        (run / "run.json").write_text('{"figures": {')
    with caplog.at_level(logging.INFO, "asd_cli"):
        after = compare(options)
    assert f"do not count ({reason})" in caplog.text
    same = figures(after, "range")["auc"] == figures(before, "range")["auc"]
    assert same == (what != "tile")


def test_an_interrupted_comparison_goes_on(base: CompareOptions) -> None:
    options = replace(base, methods=("range", "asd"), steps=6, recipe="quick")
    whole = replace(options, output=base.output.with_name("whole"))
    compare(whole)

    def stop(what: str, done: int, total: int, shown: Any = None) -> None:
        if what == "asd, first-half: train" and done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        compare(options, progress=stop)
    run = base.output / "runs" / "asd" / "first-half"
    assert not (run / "model.safetensors").exists()
    assert json.loads((run / "run.json").read_text())["seconds"] > 0
    steps = []
    compare(options, progress=lambda what, done, *rest: steps.append(done) if what.endswith("train") else None)
    assert min(steps) > 3
    assert (run / "model.safetensors").read_bytes() == (
        whole.output / "runs" / "asd" / "first-half" / "model.safetensors"
    ).read_bytes()


def test_a_method_that_fails_is_told_in_its_row(base: CompareOptions, caplog: pytest.LogCaptureFixture) -> None:
    report = compare(replace(base, methods=("stubborn", "broken", "range")))
    assert [row.name for row in report.failed] == ["stubborn", "broken"]
    assert figures(report, "range")["auc"] > 0.5
    text = report.table()
    assert "stubborn failed: first-half: there is too little light\n" in text
    assert "broken failed: first-half: ZeroDivisionError: a bug (see " in text
    assert "2 of 3 rows failed: stubborn, broken" in caplog.text
    trace = base.output / "runs" / "broken" / "first-half" / "error.txt"
    assert "Traceback" in trace.read_text()
    rows = {row["name"]: row for row in csv.DictReader((base.output / "table.csv").read_text().splitlines())}
    assert rows["stubborn"]["auc"] == ""
    assert rows["stubborn"]["error"] == "first-half: there is too little light"


def test_a_method_that_refuses_its_options_is_told_before_the_others_are_trained(
    base: CompareOptions, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = Variant("wrong", (("method", "asd"), ("length", 300)))
    report = compare(replace(base, variants=(wrong,)))
    assert [row.failed for row in report.rows] == [False, True]
    assert "wrong: is left out, as its options are refused: --" in caplog.text
    assert "wrong failed: options: --" in report.table()
    with pytest.raises(InputError, match=r"wrong: --.*length 300"):
        compare(replace(base, methods=(), variants=(wrong,)))


def test_folds_are_means_with_their_spread(base: CompareOptions) -> None:
    report = compare(replace(base, folds=2))
    assert [dict(parts) for parts in report.splits.values()] == [
        {"train": ("tile_3.tif", "tile_4.tif"), "test": ("tile_0.tif", "tile_1.tif", "tile_2.tif")},
        {"train": ("tile_0.tif", "tile_1.tif", "tile_2.tif"), "test": ("tile_3.tif", "tile_4.tif")},
    ]
    values = [figures(report, "range", f"fold-{place}-of-2")["auc"] for place in (1, 2)]
    row = report.rows[0]
    assert row.mean("auc") == pytest.approx(statistics.fmean(values))
    assert row.spread("auc") == pytest.approx(statistics.stdev(values))
    assert f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}" in report.table()
    kept = next(csv.DictReader((base.output / "table.csv").read_text().splitlines()))
    assert float(kept["auc_spread"]) == row.spread("auc")


def test_a_folder_with_other_files_is_left_alone(base: CompareOptions, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(OutputError, match="notes: holds other files; name a new folder, or that of an earlier"):
        compare(replace(base, output=tmp_path / "notes"))
    with pytest.raises(OutputError, match=r"a\.txt is a file; name a folder"):
        compare(replace(base, output=tmp_path / "notes" / "a.txt" / "b"))


def test_tiles_without_labels_are_refused(
    base: CompareOptions, tmp_path: Path, make_scene: Callable[..., Path]
) -> None:
    for name in ("a", "b"):
        make_scene(tmp_path / "bare" / f"{name}.tif", np.ones((1, 40, 40), np.uint8))
    with pytest.raises(LabelError, match="has no labels to compare with"):
        compare(replace(base, tiles=TileOptions(tiles=(str(tmp_path / "bare"),))))
