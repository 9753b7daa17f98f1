from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from asd_cli.cli import main

Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, make_scene: Make, make_texture: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a.tif and b.tif of two parts each."""
    for seed, name in enumerate("ab"):
        pixels = make_texture(seed, 3, 20, 540).clip(1, 255).astype(np.uint8)
        make_scene(tmp_path / f"{name}.tif", pixels)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*words: str) -> Result:
    return CliRunner().invoke(main, list(words), catch_exceptions=False)


def shard(number: int, scene: str, out: str, model: Path) -> Result:
    return call("predict", scene, "-o", out, "-m", str(model), "--window", "512", "--shard", f"{number}/2")


def test_shards_and_merge(random_model: Path) -> None:
    done = shard(2, "a.tif", "map.tif", random_model)
    assert (done.exit_code, done.stdout) == (0, "map.tif.parts\n")
    assert done.stderr.startswith("a.tif: shard 2/2 is done, ")
    failed = call("merge", "map.tif")
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert failed.stderr == (
        "Error: map.tif: 1 of 2 parts (shard 1/2) are missing; make them with asd predict --resume, then merge again\n"
    )
    shard(1, "a.tif", "map.tif", random_model)
    done = call("merge", "map.tif")
    assert (done.exit_code, done.stdout) == (0, "map.tif\nmap.gpkg\n")
    assert done.stderr.startswith("a.tif: 540 x 20 px, ")
    assert not Path("map.tif.parts").exists()
    failed = call("merge", "map.tif")
    assert failed.exit_code == 1
    assert failed.stderr.startswith("Error: map.tif: has no parts to merge (no map.tif.parts); make them: asd predict")


def test_several_maps_by_their_folders(random_model: Path, folder: Path) -> None:
    (folder / "maps").mkdir()
    for number in (1, 2):
        for name in "ab":
            shard(number, f"{name}.tif", "maps/", random_model)
    done = call("merge", "maps/a_anomaly.tif.parts/", "maps/b_anomaly.tif", "maps/a_anomaly.tif", "--json")
    assert done.exit_code == 0
    first, second = json.loads(done.stdout)
    assert (first["raster"], second["polygons"]) == ("maps/a_anomaly.tif", "maps/b_anomaly.gpkg")
    assert first["valid_pixels"] == 540 * 20
    assert sorted(path.name for path in (folder / "maps").iterdir()) == [
        f"{name}_anomaly.{suffix}" for name in "ab" for suffix in ("gpkg", "qml", "tif")
    ]  # fmt: skip


def test_polygons_elsewhere(random_model: Path, folder: Path) -> None:
    (folder / "vectors").mkdir()
    for number in (1, 2):
        words = ["-m", str(random_model), "--polygons", "vectors/p.geojson", "--shard", f"{number}/2"]
        assert call("predict", "a.tif", "-o", "map.tif", *words).exit_code == 0
    assert call("merge", "map.tif").stdout == "map.tif\nvectors/p.geojson\n"


def test_merged_in_another_folder(random_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "maps").mkdir()
    shutil.copy(random_model, "model.safetensors")
    for number in (1, 2):
        words = ["-m", "model.safetensors", "--stac", "--shard", f"{number}/2", "--window", "512"]
        assert call("predict", "a.tif", "-o", "maps/map.tif", *words).exit_code == 0
    monkeypatch.chdir(folder / "maps")
    assert call("merge", "map.tif").exit_code == 0
    assets = json.loads(Path("map.json").read_text())["assets"]
    assert assets["model"]["href"] == "./../model.safetensors"


def test_targets_that_exist(random_model: Path) -> None:
    shard(1, "a.tif", "map.tif", random_model)
    shard(2, "a.tif", "map.tif", random_model)
    Path("map.gpkg").write_text("mine")
    failed = call("merge", "map.tif")
    assert failed.stderr == "Error: map.gpkg: exists already; choose another name or add --overwrite\n"
    assert Path("map.gpkg").read_text() == "mine"
    assert call("merge", "map.tif", "--overwrite").exit_code == 0
    assert call("merge").exit_code == 2
