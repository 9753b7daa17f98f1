"""Batches as a shell sees them: exit codes, streams, the report."""

from __future__ import annotations

import json
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

Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, make_scene: Make, make_texture: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a.tif, b.tif, cut.tif and an empty folder maps."""
    for seed, name in enumerate(("a", "b", "cut")):
        make_scene(tmp_path / f"{name}.tif", make_texture(seed, 3, 50, 60).clip(1, 255).astype(np.uint8))
    cut = tmp_path / "cut.tif"
    cut.write_bytes(cut.read_bytes()[:-180])
    (tmp_path / "maps").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(model: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["predict", *words, "-o", "maps", "-m", str(model)], catch_exceptions=False)


def test_exit_codes_and_streams(random_model: Path) -> None:
    result = call(random_model, "a.tif", "cut.tif", "gone.tif", "--on-error", "skip", "--report", "r.json", "--json")
    assert result.exit_code == 3
    assert [scene["scene"] for scene in json.loads(result.stdout)] == ["a.tif"]
    lines = result.stderr.splitlines()
    assert lines[0] == "Error: gone.tif: no such file; check the path"
    assert lines[1].startswith("a.tif: 60 x 50 px, ")
    assert lines[2].startswith("Error: cut.tif: bands 1, 2, 3 cannot be read at cols 0-59, rows ")
    assert lines[3].startswith("3 scenes: 1 done, 2 failed; ")
    assert lines[4:] == ["Error: 2 of 3 scenes failed, see above"]
    assert json.loads(Path("r.json").read_text())["totals"]["failed"] == 2
    result = call(random_model, "gone.tif", "--on-error", "skip")
    assert (result.exit_code, result.stdout) == (1, "")
    result = call(random_model, "a.tif", "b.tif", "--skip-existing", "--no-polygons")
    assert (result.exit_code, result.stdout) == (0, "maps/b_anomaly.tif\n")
    assert "a.tif: skipped, there is maps/a_anomaly.tif already" in result.stderr
    assert call(random_model, "a.tif", "--on-error", "never").exit_code == 2


def test_masked_blocks(random_model: Path) -> None:
    result = call(random_model, "cut.tif", "--on-bad-block", "mask", "--json")
    assert result.exit_code == 0
    (report,) = json.loads(result.stdout)
    assert report["bad_block_count"] == len(report["bad_blocks"]) > 0
    assert report["valid_pixels"] == 3000 - sum(b["width"] * b["height"] for b in report["bad_blocks"])
    assert result.stderr.startswith("Warning: cut.tif: ")
    assert "count" in result.stderr.splitlines()[0]
    assert "as nodata: cols 0-59, rows " in result.stderr


def test_dry_run(random_model: Path, folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    result = call(random_model, "a.tif", "b.tif", "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].startswith("a.tif: 60 x 50 px, bands 1, 2, 3; 1 window of ")
    result = call(random_model, "a.tif", "gone.tif", "--dry-run", "--json", "--on-error", "skip")
    assert result.exit_code == 3
    assert [scene["status"] for scene in json.loads(result.stdout)["scenes"]] == ["planned", "failed"]
    assert call(random_model, "a.tif", "gone.tif", "--dry-run").exit_code == 1
    assert sorted(folder.rglob("*")) == before


def test_an_interrupted_batch_is_reported(folder: Path, make_scene: Make, random_model: Path) -> None:
    make_scene(folder / "large.tif", np.random.default_rng(0).integers(1, 255, (3, 2000, 2000), dtype=np.uint8))
    words = ["predict", "a.tif", "large.tif", "b.tif", "-o", "maps", "-m", str(random_model), "--report", "r.json"]
    words += ["--window", "512"]
    process = subprocess.Popen([sys.executable, "-m", "asd_cli", *words], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(folder.glob("maps/large*.parts/journal.jsonl")):
        time.sleep(0.05)
    process.terminate()
    _, messages = process.communicate(timeout=120)
    assert process.returncode == 130, messages
    assert messages.splitlines()[-1] == "Interrupted."
    report = json.loads((folder / "r.json").read_text())
    assert (report["status"], report["exit_code"]) == ("interrupted", 130)
    assert [scene["status"] for scene in report["scenes"]] == ["done", "interrupted", "waiting"]
    assert sorted(path.name for path in (folder / "maps").iterdir()) == [
        "a_anomaly.gpkg",
        "a_anomaly.qml",
        "a_anomaly.tif",
        "large_anomaly.tif.parts",
    ]


def test_exit_codes_are_in_the_help() -> None:
    text = CliRunner().invoke(main, ["--help"]).stdout
    for line in ("  0    all done", "  1    failed;", "  2    wrong usage", "  3    some scenes", "  130  interrupted"):
        assert line in text
