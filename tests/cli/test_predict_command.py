from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from asd_cli.cli import main
from asd_cli.cli.predict import _command
from asd_cli.raster.gdal import open_raster

Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, make_scene: Make, make_texture: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a.tif and b.tif."""
    for seed, name in enumerate("ab"):
        make_scene(tmp_path / f"{name}.tif", make_texture(seed, 3, 50, 60).clip(1, 255).astype(np.uint8))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASD_MODEL", raising=False)
    return tmp_path


def call(*words: str) -> Result:
    return CliRunner().invoke(main, ["predict", *words], catch_exceptions=False)


def test_standard_output_holds_the_paths_only(random_model: Path) -> None:
    result = call("a.tif", "-o", "map.tif", "-m", str(random_model))
    assert result.exit_code == 0
    assert result.stdout == "map.tif\nmap.gpkg\n"
    assert "a.tif: 60 x 50 px, " in result.stderr
    result = call("a.tif", "b.tif", "-o", ".", "-m", str(random_model), "--no-polygons")
    assert result.stdout == "a_anomaly.tif\nb_anomaly.tif\n"


def test_json(random_model: Path) -> None:
    options = ["--score", "far", "--false-alarm-rate", "0.05", "--polygons", ".geojson", "--json"]
    result = call("a.tif", "b.tif", "-o", ".", "-m", str(random_model), *options)
    assert result.exit_code == 0
    first, second = json.loads(result.stdout)
    assert (first["scene"], second["scene"]) == ("a.tif", "b.tif")
    assert (first["raster"], first["polygons"]) == ("a_anomaly.tif", "a_anomaly.geojson")
    assert (first["width"], first["height"], first["valid_pixels"], first["score"]) == (60, 50, 3000, "far")
    assert first["anomalous_share"] == pytest.approx(first["anomalous_pixels"] / 3000)
    assert first["threshold"] == pytest.approx(0.05, rel=1e-3)
    assert len(json.loads(Path("a_anomaly.geojson").read_text())["features"]) == first["polygon_count"]


def test_profile_says_where_the_time_went(random_model: Path) -> None:
    result = call("a.tif", "-o", "map.tif", "-m", str(random_model), "--profile", "--threads", "2", "--workers", "2")
    assert result.exit_code == 0
    assert result.stdout == "map.tif\nmap.gpkg\n"
    for stage in ("read", "compute", "score", "write", "polygons", "finish raster", "finish polygons", "in all"):
        assert re.search(rf"^  {stage} +\d+\.\d\d s", result.stderr, re.MULTILINE), stage


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--threads", "0"], "'--threads': 0 is not in the range 1<=x<=1024"),
        (["--workers", "65"], "'--workers': 65 is not in the range 1<=x<=64"),
        (["--max-memory", "1"], "'--max-memory': 1 is not in the range x>=64"),
    ],
)
def test_threads_and_memory_out_of_range(random_model: Path, options: list[str], text: str) -> None:
    result = call("a.tif", "-o", "map.tif", "-m", str(random_model), *options)
    assert result.exit_code == 2
    assert text in result.stderr


def test_the_model_is_looked_for_in_three_places(random_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = call("a.tif", "-o", "map.tif")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        "Error: no model: give one with -m FILE, set $ASD_MODEL, or train one here (asd train) "
        "as ./asd_model.safetensors\n"
    )
    Path("asd_model.safetensors").symlink_to(random_model)
    assert call("a.tif", "-o", "1.tif").exit_code == 0
    monkeypatch.setenv("ASD_MODEL", "elsewhere.safetensors")
    result = call("a.tif", "-o", "2.tif")
    assert (result.exit_code, result.stderr) == (1, "Error: elsewhere.safetensors: no such model file\n")
    assert call("a.tif", "-o", "2.tif", "-m", str(random_model)).exit_code == 0


def test_errors_are_one_line_and_leave_nothing(folder: Path, random_model: Path) -> None:
    before = sorted(folder.iterdir())
    result = call("a.tif", "-o", "nowhere/map.tif", "-m", str(random_model))
    assert (result.exit_code, result.stdout) == (1, "")
    text = "Error: nowhere/map.tif: the folder nowhere does not exist; create it first (mkdir -p)\n"
    assert result.stderr == text
    result = call("*.jp2", "-o", "map.tif", "-m", str(random_model))
    assert result.stderr == "Error: *.jp2: matches no file; check the pattern and the current folder\n"
    result = call("a.tif", "-o", "map.tif", "-m", str(random_model), "--threshold", "2")
    assert result.stderr == "Error: --threshold 2.0: must be above 0 and below 1 for --score unit\n"
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    "words",
    [
        ("a.tif",),
        ("-o", "map.tif"),
        ("a.tif", "-o", "map.tif", "--score", "odd"),
        ("a.tif", "-o", "map.tif", "--false-alarm-rate", "0"),
        ("a.tif", "-o", "map.tif", "--false-alarm-rate", "0.7"),
        ("a.tif", "-o", "map.tif", "--min-area", "-1"),
        ("a.tif", "-o", "map.tif", "--bands", "1,x"),
        ("a.tif", "-o", "map.tif", "--connectivity", "6"),
        ("a.tif", "-o", "map.tif", "--window", "0"),
    ],
)
def test_usage_errors(words: tuple[str, ...]) -> None:
    result = call(*words)
    assert result.exit_code == 2
    assert result.stdout == ""


def test_what_is_finished_is_told_when_a_later_scene_fails(random_model: Path, folder: Path) -> None:
    scene = folder / "b.tif"
    scene.write_bytes(scene.read_bytes()[:-3000])
    result = call("a.tif", "b.tif", "-o", ".", "-m", str(random_model))
    assert result.exit_code == 1
    assert result.stdout == "a_anomaly.tif\na_anomaly.gpkg\n"
    assert "Error: b.tif: bands 1, 2, 3 cannot be read" in result.stderr
    assert sorted(p.name for p in folder.iterdir()) == [
        "a.tif",
        *(f"a_anomaly.{s}" for s in ("gpkg", "qml", "tif")),
        "b.tif",
    ]


def test_names_with_a_leading_dash(random_model: Path) -> None:
    Path("a.tif").rename("-a.tif")
    result = call("-o", "-m.tif", "-m", str(random_model), "--", "-a.tif")
    assert (result.exit_code, result.stdout) == (0, "-m.tif\n-m.gpkg\n")


def test_an_interrupt_ends_with_130(random_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from asd_cli.workflows.mapping import BlockMapper

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BlockMapper, "submit", interrupt)
    before = sorted(folder.iterdir())
    result = call("a.tif", "-o", "map.tif", "-m", str(random_model))
    assert (result.exit_code, result.stderr) == (130, "Interrupted.\n")
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["/bin/asd", "predict", "a b.tif", "-o", "x.tif"], "asd predict 'a b.tif' -o x.tif"),
        (["/bin/rio", "asd", "predict", "a.tif"], "asd predict a.tif"),
        (["/x/__main__.py", "--debug", "predict", "a.tif"], "asd predict a.tif"),
        (["program"], "asd"),
        (["asd", "predict", "--resume", "a.tif", "--shard", "2/3", "-o", "b.tif"], "asd predict a.tif -o b.tif"),
        (["asd", "predict", "--scheduler", "local:2", "a.tif", "--scheduler=tcp://a:1"], "asd predict a.tif"),
        (["asd", "predict", "--shard=2/3", "-o", "b", "--", "--resume"], "asd predict -o b -- --resume"),
    ],
)
def test_the_command_of_the_tags(words: list[str], command: str) -> None:
    assert _command(words) == command


def test_the_command_of_the_tags_tells_variables_and_file(
    random_model: Path, make_scene: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the tag says makes the same map where there are neither variables nor a file."""
    Path("asd.toml").write_text(
        "[predict]\nscore = 'distance'\nbands = [3, 1, 2]\nstyle = false\nstac = true\nno-polygons = true\n"
        "nodata = -9.5\nmask = 'a b.tif'\nmin-area = 3\nthreads = 1\nwindow = 512\non-error = 'skip'\njson = true\n"
    )
    variables = {"NO_POLYGONS": "0", "MIN_AREA": "4", "CONNECTIVITY": "4", "QUIET": "1", "RESUME": "1"}
    for key, text in variables.items():
        monkeypatch.setenv(f"ASD_PREDICT_{key}", text)
    make_scene(Path("a b.tif"), np.eye(50, 60, dtype=np.uint8)[None])

    def made(*words: str) -> tuple[bytes, str]:
        monkeypatch.setattr(sys, "argv", ["/bin/asd", *words])
        result = CliRunner().invoke(main, list(words), catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        with open_raster(Path("map.tif")) as dataset:
            return Path("map.tif").read_bytes(), dataset.tags()["ASD_COMMAND"]

    first, command = made("--config", "asd.toml", "predict", "-m", str(random_model), "-o", "map.tif", "--", "a.tif")
    assert command == (
        f"asd predict -m {random_model} -o map.tif --score distance --min-area 4 --connectivity 4 --mask 'a b.tif' "
        "--no-style --stac --bands 3,1,2 --nodata -9.5 -- a.tif"
    )
    for key in variables:
        monkeypatch.delenv(f"ASD_PREDICT_{key}")
    for path in Path().glob("map.*"):
        path.unlink()
    assert made(*shlex.split(command)[1:]) == (first, command)


def test_as_a_program(random_model: Path, folder: Path) -> None:
    """Once in a process of its own: exit codes and both streams."""

    def start(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-W", "error", "-m", "asd_cli", "predict", *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    result = start("a.tif", "-o", "ä [1].tif", "-m", str(random_model), "--device", "cpu")
    assert (result.returncode, result.stdout) == (0, "ä [1].tif\nä [1].gpkg\n")
    lines = result.stderr.splitlines()
    assert [line for line in lines if not line.startswith("a.tif: 60 x 50 px, ")] == []
    with open_raster(folder / "ä [1].tif") as dataset:
        tags = dataset.tags()
    assert tags["ASD_COMMAND"] == f"asd predict a.tif -o 'ä [1].tif' -m {random_model} --device cpu"
    assert start("a.tif").returncode == 2
    failed = start("nope.tif", "-o", "map.tif", "-m", str(random_model))
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == "Error: nope.tif: no such file; check the path\n"
    assert sorted(p.name for p in folder.iterdir()) == [
        "a.tif",
        "b.tif",
        *(f"ä [1].{s}" for s in ("gpkg", "qml", "tif")),
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_finished_parts(folder: Path, make_scene: Make, random_model: Path, number: int) -> None:
    make_scene(folder / "large.tif", np.random.default_rng(0).integers(1, 255, (3, 2600, 2600), dtype=np.uint8))
    before = sorted(folder.iterdir())
    command = [sys.executable, "-m", "asd_cli", "predict", "large.tif", "-o", "out.tif", "-m", str(random_model)]
    process = subprocess.Popen([*command, "--window", "512"], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(folder.glob("out.tif.parts/journal.jsonl")):
        time.sleep(0.02)
    process.send_signal(number)
    _, messages = process.communicate(timeout=120)
    assert process.returncode == 130, messages
    *_, told, last = messages.splitlines()
    assert re.fullmatch(r"out.tif.parts: \d+ of 36 parts are finished; go on with --resume, .*", told)
    assert last == "Interrupted."
    assert sorted(folder.iterdir()) == sorted([*before, folder / "out.tif.parts"])


@pytest.mark.parametrize("option", ["--min-area", "--simplify", "--false-alarm-rate"])
def test_nan_is_no_number(random_model: Path, option: str) -> None:
    result = call("a.tif", "-o", "map.tif", "-m", str(random_model), option, "nan")
    assert result.exit_code == 2
    assert f"'{option}': nan is not a number" in result.stderr


def test_json_tells_what_was_written_before_an_error(random_model: Path) -> None:
    Path("cut.tif").write_bytes(Path("b.tif").read_bytes()[:-900])
    result = call("a.tif", "cut.tif", "-o", ".", "-m", str(random_model), "--json")
    assert result.exit_code == 1
    assert [report["scene"] for report in json.loads(result.stdout)] == ["a.tif"]
