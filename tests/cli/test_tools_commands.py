"""`asd polygons` and `asd export` as typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from asd_cli.cli import main


@pytest.fixture(autouse=True)
def folder(
    tmp_path: Path,
    random_model: Path,
    make_scene: Callable[..., Path],
    make_texture: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The current folder, with a map and its polygons."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASD_MODEL", raising=False)
    make_scene(Path("a.tif"), make_texture(1, 3, 40, 50))
    assert call("predict", "a.tif", "-o", "map.tif", "-m", str(random_model)).exit_code == 0


def call(*words: str) -> Result:
    return CliRunner().invoke(main, list(words), catch_exceptions=False)


def test_polygons(random_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = call("polygons", "map.tif", "-o", "again.gpkg")
    assert (done.exit_code, done.stdout) == (0, "again.gpkg\n")
    assert done.stderr.startswith("map.tif: ")
    assert " of 2000 valid pixels anomalous at threshold 0.5, " in done.stderr
    assert Path("again.gpkg").read_bytes() == Path("map.gpkg").read_bytes()
    rate = ["polygons", "map.tif", "--false-alarm-rate", "0.02", "--json", "-o"]
    assert "only the model of map.tif can tell" in call(*rate, "b.geojson").stderr
    report = json.loads(call(*rate, "b.geojson", "-m", str(random_model)).stdout)
    assert report["threshold"] > 0.5
    assert len(json.loads(Path("b.geojson").read_text())["features"]) == report["polygon_count"]
    monkeypatch.setenv("ASD_MODEL", str(random_model))
    assert json.loads(call(*rate, "c.geojson").stdout)["threshold"] == report["threshold"]


def test_export(random_model: Path) -> None:
    done = call("export", str(random_model), "-o", "m.onnx")
    assert (done.exit_code, done.stdout) == (0, "m.onnx\n")
    assert "differs from torch by " in done.stderr
    assert "input batch x 3 x height x width" in done.stderr
    report = json.loads(call("export", str(random_model), "-o", "d.onnx", "--deepness", "96", "--json").stdout)
    assert report["input_shape"] == ["batch", 3, 96, 96]
    assert report["largest_difference"] < 1e-5
    done = call("export", str(random_model), "-o", "m.onnx")
    assert done.stderr == "Error: m.onnx: exists already; choose another name or add --overwrite\n"
