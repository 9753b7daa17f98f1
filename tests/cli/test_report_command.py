from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from asd_cli.cli import main


@pytest.fixture(autouse=True)
def folder(
    tmp_path: Path,
    make_scene: Callable[..., Path],
    make_texture: Callable[..., Any],
    random_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The current folder, with a.tif and its map m.tif."""
    make_scene(tmp_path / "a.tif", make_texture(0, 3, 50, 60).clip(1, 255).astype(np.uint8))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["predict", "a.tif", "-o", "m.tif", "-m", str(random_model)])
    assert done.exit_code == 0
    return tmp_path


def test_the_path_or_json_goes_to_standard_output() -> None:
    done = CliRunner().invoke(main, ["report", "m.tif"], catch_exceptions=False)
    assert (done.exit_code, done.stdout) == (0, "report.html\n")
    words = ["report", "m.tif", "-o", "other.html", "--top", "2", "--bands", "3,2,1", "--json"]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    found = json.loads(done.stdout)
    assert (found["report"], found["scene"], found["polygons"], found["shown"]) == ("other.html", "a.tif", "m.gpkg", 2)
    assert (found["width"], found["height"], found["valid_pixels"]) == (60, 50, 3000)


def test_what_people_are_told(folder: Path) -> None:
    words = ["report", "m.tif", "--overwrite", "--top", "2", "--json"]
    found = json.loads(CliRunner().invoke(main, words, catch_exceptions=False).stdout)
    done = CliRunner().invoke(main, words[:-1], catch_exceptions=False)
    told = f"report.html: 60 x 50 px, {found['anomalous_pixels'] / 3000:.3%} of 3000 valid pixels anomalous"
    assert done.stderr == f"{told}, {found['polygon_count']} polygons, 2 of them close up, with a.tif\n"
    (folder / "a.tif").unlink()
    (folder / "m.gpkg").unlink()
    done = CliRunner().invoke(main, words[:-1], catch_exceptions=False)
    assert (done.stdout, done.stderr) == ("report.html\n", f"{told}, without the scene\n")
    assert CliRunner().invoke(main, ["-q", *words[:-1]], catch_exceptions=False).stderr == ""


def test_failures_leave_nothing(folder: Path) -> None:
    before = sorted(folder.iterdir())
    for words, code in ((["a.tif"], 1), (["m.tif", "--scene", "nope.tif"], 1), (["m.tif", "--top", "-1"], 2), ([], 2)):
        done = CliRunner().invoke(main, ["report", *words], catch_exceptions=False)
        assert (done.exit_code, done.stdout) == (code, "")
        assert "Traceback" not in done.stderr
    assert sorted(folder.iterdir()) == before


def test_a_map_is_not_overwritten_by_its_report(folder: Path) -> None:
    (folder / "m.html").hardlink_to(folder / "m.tif")
    done = CliRunner().invoke(main, ["report", "m.tif", "-o", "m.html", "--overwrite"])
    assert done.exit_code == 1
    assert "is among the files that are read" in done.stderr
