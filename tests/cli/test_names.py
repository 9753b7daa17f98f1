"""Names of files that shells, GDAL and SQLite read something into: every command takes them as they are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from click.testing import CliRunner, Result

from asd_cli.cli import main

NAMES = [
    "with space", " around ", "comma,semi;colon", "unicode \xfc \u68ee\u6797 \U0001f332", "e\u0301 combining",
    "-dash", "--overwrite", "'single'", '"double"', "$HOME `id` $(id)", "per%cent %20 %s", "what?", "sharp#1",
    "a&b=c", "star*[1]", "{brace}", "back\\slash", "new\nline", "tab\tbed", "excl!am", "pipe|layername=x", "<x>",
    "@at", "~tilde", "a:b", "GTIFF_DIR:1:x", "colon:", "dot.tif", "...", "x" * 180, "\u202eright to left",
    "\x1b[31mred", "=eq", "(paren)", "vrt:", "http:x", "file:", "zip.zip",
]  # fmt: skip
LATIN = os.fsdecode(b"caf\xe9")
"""No UTF-8, as Windows archives leave it."""


@pytest.fixture(scope="module")
def pixels(make_texture: Callable[..., Any]) -> Any:
    return make_texture(3, 3, 20, 24).clip(1, 255).astype(np.uint8)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_scene: Callable[..., Path], pixels: Any) -> Path:
    """The current folder, with plain.tif."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASD_MODEL", raising=False)
    return make_scene(tmp_path / "plain.tif", pixels).parent


def listed(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def call(*words: str) -> Result:
    return CliRunner().invoke(main, list(words), catch_exceptions=False)


def check(result: Result) -> None:
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_predict(here: Path, random_model: Path, name: str) -> None:
    suffix = [".gpkg", ".geojson", ".fgb", ".parquet"][NAMES.index(name) % 4]
    scene, target = f"{name}.tif", f"{name} map.tif"
    shutil.move("plain.tif", here / scene)
    given = f"./{scene}" if name.startswith("@") else scene  # @ names a list
    check(call("predict", "-m", str(random_model), "-o", target, "--polygons", suffix, "--", given))
    assert sorted(listed(here)) == sorted([scene, target, f"{name} map.qml", f"{name} map{suffix}"])
    with rasterio.open(here / target) as dataset:
        assert dataset.shape == (20, 24)
        assert dataset.tags()["ASD_SCENE"].strip() == scene.replace("\x1b", "").strip()  # GDAL leaves these out
    shutil.copy(f"{name} map{suffix}", f"plain{suffix}")
    assert len(gpd.read_parquet("plain.parquet") if suffix == ".parquet" else gpd.read_file(f"plain{suffix}")) > 0


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_models_and_tiles(here: Path, make_tiles: Callable[..., Path], pixels: Any, name: str) -> None:
    label = np.where(np.arange(24) < 16, 1, 2)[None].repeat(20, 0).astype(np.uint8)
    tiles = make_tiles(here / name, [pixels] * 4, [label] * 4)
    for path in tiles.glob("*/*.tif"):
        path.rename(path.with_name(f"tile {name}{path.name}"))
    model = f"{name}.safetensors"
    folder = f"./{name}" if name.startswith("@") else name
    options = ["--device", "cpu", "--normal", "forest"]
    check(call("train", "--method", "rx", *options, f"--output={model}", "--", folder))
    check(call("info", "--", model))
    assert json.loads(call("info", "--json", "--", model).stdout)["file"] == model
    check(call("fit-gaussian", *options, f"--model={model}", f"--output={name} again.safetensors", "--", folder))
    check(call("evaluate", "--device", "cpu", f"--model={model}", f"--csv={name}.csv", "--", folder))
    assert {model, f"{name}.csv"} < set(listed(here))


def test_names_that_are_no_utf8(here: Path, random_model: Path) -> None:
    shutil.copy("plain.tif", f"{LATIN}.tif")
    result = call("predict", "-m", str(random_model), "-o", "map.tif", f"{LATIN}.tif")
    assert result.stderr == "Error: caf\\udce9.tif: the name is not UTF-8, as GDAL wants it; rename the file\n"
    result = call("predict", "-m", str(random_model), "-o", f"{LATIN} map.tif", "plain.tif")
    assert result.stderr == "Error: caf\\udce9 map.tif: the name is not UTF-8; choose another\n"
    shutil.copy(random_model, f"{LATIN}.safetensors")
    check(call("info", f"{LATIN}.safetensors"))
    check(call("predict", "-m", f"{LATIN}.safetensors", "-o", "map.tif", "plain.tif"))
    with rasterio.open("map.tif") as dataset:
        assert dataset.tags()["ASD_MODEL"] == "caf\\udce9.safetensors"


def test_a_program_called_with_such_names(here: Path, random_model: Path) -> None:
    shutil.copy("plain.tif", "-x\n\u00e9.tif")
    words = [sys.executable, "-m", "asd_cli", "predict", "-m", str(random_model), "-o", "map.tif"]
    environment = {**os.environ, "LC_ALL": "C", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*words, "--", "-x\n\u00e9.tif"], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"map.tif\nmap.gpkg\n"), done.stderr


def test_links(here: Path, random_model: Path) -> None:
    """A link is followed when read; when written, it gives way to the file, and what it led to stays."""
    Path("scene.tif").symlink_to("plain.tif")
    Path("far").mkdir()
    Path("far/old.tif").write_bytes(b"old")
    Path("map.tif").symlink_to("far/old.tif")
    Path("dangling.tif").symlink_to("nowhere/x.tif")
    model = str(random_model)
    assert "exists already" in call("predict", "-m", model, "-o", "map.tif", "scene.tif").stderr
    check(call("predict", "-m", model, "-o", "map.tif", "--overwrite", "scene.tif"))
    assert "no such file" in call("predict", "-m", model, "-o", "other.tif", "dangling.tif").stderr
    result = call("predict", "-m", model, "-o", "plain.tif", "--overwrite", "scene.tif")
    assert "is among the files that are read" in result.stderr
    with rasterio.open("map.tif") as dataset:
        assert dataset.shape == (20, 24)
    assert not Path("map.tif").is_symlink()
    assert Path("far/old.tif").read_bytes() == b"old"
    check(call("predict", "-m", model, "-o", "dangling.tif", "scene.tif"))
    assert not Path("dangling.tif").is_symlink()


def test_the_scene_vanishes_and_the_folder_too(here: Path, random_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from asd_cli.workflows import predict_scene

    real = predict_scene.map_scene
    texts = {"plain.tif": "plain.tif: no such file; check the path", "out": "out/map.tif: cannot be written"}
    for victim, text in texts.items():
        Path("out").mkdir(exist_ok=True)

        def strike(*given: Any, victim: str = victim, **options: Any) -> None:
            shutil.rmtree(victim) if Path(victim).is_dir() else Path(victim).unlink()
            real(*given, **options)

        shutil.copy("plain.tif", "kept.tif")
        monkeypatch.setattr(predict_scene, "map_scene", strike)
        result = call("predict", "-m", str(random_model), "-o", "out/map.tif", "plain.tif")
        shutil.move("kept.tif", "plain.tif")
        assert result.exit_code == 1
        assert result.stderr.startswith(f"Error: {text}")
        assert result.stderr.count("\n") == 1
        assert not Path("out").exists() or not listed(Path("out"))
