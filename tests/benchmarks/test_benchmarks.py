"""The benchmarks run and write what they say; their figures are not looked at here.

The slower ones only with ASD_ALL_BENCHMARKS=1, so that the checks of every change stay short.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SMALL = {
    "encoder": [],
    "training": ["--sides", "32"],
    "polygons": ["--sides", "256,512"],
    "rx": ["--bands", "1,3"],
    "scene": ["--side", "600"],
    "scaling": ["--sides", "300,600"],
}


SLOW = ("polygons", "scene", "scaling", "unlabelled")


def skip_slow(name: str) -> None:
    if name in SLOW and not os.environ.get("ASD_ALL_BENCHMARKS"):
        pytest.skip("slow; runs with ASD_ALL_BENCHMARKS=1")


@pytest.mark.parametrize("name", SMALL)
def test_it_runs(name: str, tmp_path: Path) -> None:
    skip_slow(name)
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--rounds", "1", "--json", str(figures), *SMALL[name]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Mpx" in done.stdout or "against published" in done.stdout or "Microseconds" in done.stdout
    found = json.loads(figures.read_text())
    assert {"processor", "threads", "torch", "onnxruntime"} <= set(found["machine"])
    assert len(found) > 1


def test_rx_within_a_scene_is_near_that_of_its_readme(tmp_path: Path) -> None:
    skip_slow("unlabelled")
    data = FOLDER.parents[1] / "shared" / "data"
    if not (data / "hsi_abu").exists():
        pytest.skip("the hyperspectral scenes are not here")
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(FOLDER / "unlabelled.py"), "--data", str(data), "--scenes", "abu-beach-2"]
    command += ["--methods", "rx", "--folder", str(tmp_path), "--json", str(figures)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(figures.read_text())["abu-beach-2"]["rx"]
    assert run["auc"] == pytest.approx(0.91, abs=0.04)


def test_the_accuracy_of_rx_is_that_of_the_sets_readme(tmp_path: Path) -> None:
    data = FOLDER.parents[1] / "shared" / "data"
    if not (data / "hokkaido_landslide").exists():
        pytest.skip("the labelled sets are not here")
    figures = tmp_path / "figures.json"
    command = [
        sys.executable,
        str(FOLDER / "accuracy.py"),
        "--data",
        str(data),
        "--sets",
        "hokkaido",
        "--methods",
        "rx",
    ]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path), "--json", str(figures)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(figures.read_text())["hokkaido"]["rx"]
    assert run["mean"]["auc"] == pytest.approx(0.80, abs=0.02)
    assert run["mean"]["miou_oracle"] == pytest.approx(0.54, abs=0.03)
