"""Folders and files that the user may not write or read: one line, exit code 1, nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from asd_cli.cli import main

# root may read and write everything; without these two capabilities it is a user like others
_AS_A_USER = """
import ctypes, os, sys
if os.geteuid() == 0:
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        if ctypes.CDLL(None, use_errno=True).prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP
            sys.exit(99)
os.execv(sys.executable, [sys.executable, "-W", "error", *sys.argv[1:]])
"""
_SEVERAL = """
import json, sys
from click.testing import CliRunner
from asd_cli.cli import main
for line in sys.stdin:
    done = CliRunner().invoke(main, json.loads(line))
    print(json.dumps([done.exit_code, done.stdout, done.stderr]))
"""


def as_a_user(folder: Path, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    if not hasattr(os, "geteuid"):
        pytest.skip("needs permissions as POSIX has them")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", _AS_A_USER, *words]
    done = subprocess.run(command, cwd=folder, input=text, capture_output=True, text=True, env=environment, check=False)
    if done.returncode == 99:
        pytest.skip("root cannot give up that it may read and write everything")
    return done


@pytest.fixture
def folder(
    tmp_path: Path, make_scene: Callable[..., Path], make_texture: Callable[..., Any], random_model: Path
) -> Iterator[Path]:
    """A scene and a map in a folder that may be written; a read-only folder; a scene and a model that may not be
    read."""
    values = make_texture(1, 3, 50, 60).clip(1, 255).astype(np.uint8)
    for name in ("a.tif", "secret.tif"):
        make_scene(tmp_path / name, values)
    (tmp_path / "m.safetensors").write_bytes(random_model.read_bytes())
    (tmp_path / "secret.safetensors").write_bytes(random_model.read_bytes())
    words = ["predict", str(tmp_path / "a.tif"), "-o", str(tmp_path / "map.tif"), "-m", str(random_model)]
    assert CliRunner().invoke(main, words).exit_code == 0
    (tmp_path / "locked").mkdir()
    locked = [tmp_path / name for name in ("locked", "secret.tif", "secret.safetensors")]
    for path, mode in zip(locked, (0o500, 0, 0), strict=True):
        path.chmod(mode)
    yield tmp_path
    for path in locked:
        path.chmod(0o700)


def below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_predict_as_a_program(folder: Path) -> None:
    before = below(folder)
    words = ("-m", "asd_cli", "predict", "a.tif", "-o", "locked/map.tif", "-m", "m.safetensors")
    done = as_a_user(folder, *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: locked/map.tif: the folder locked cannot be written to\n"
    assert below(folder) == before


def test_commands_and_options(folder: Path) -> None:
    model, denied = ["-m", "m.safetensors"], "Permission denied"
    read_only = "the folder locked cannot be written to"
    expected = [
        (["predict", "secret.tif", "-o", "b.tif", *model], "cannot be opened as a raster (Permission denied); see"),
        (["predict", "a.tif", "-o", "locked", *model, "--shard", "1/2"], read_only),
        (["predict", "a.tif", "-o", "b.tif", *model, "--polygons", "locked/b.gpkg"], read_only),
        (["predict", "a.tif", "-o", "b.tif", *model, "--report", "locked/b.json"], read_only),
        (["predict", "a.tif", "-o", "locked/b.tif", *model, "--dry-run"], read_only),
        (["predict", "a.tif", "-o", "b.tif", *model, "--mask", "secret.tif"], denied),
        (["predict", "a.tif", "-o", "b.tif", "-m", "secret.safetensors"], denied),
        (["train", "a.tif", "--unlabelled", "--steps", "1", "-o", "locked/m.safetensors"], read_only),
        (["train", "secret.tif", "--unlabelled", "--steps", "1", "-o", "b.safetensors"], denied),
        (["fit-gaussian", "a.tif", *model, "-o", "locked/m.safetensors"], read_only),
        (["report", "map.tif", "-o", "locked/report.html"], read_only),
        (["report", "secret.tif", "-o", "report.html"], denied),
        (["export", "m.safetensors", "-o", "locked/m.onnx"], read_only),
        (["export", "secret.safetensors", "-o", "m.onnx"], denied),
        (["polygons", "map.tif", "-o", "locked/map.gpkg", "--threshold", "0.4"], read_only),
        (["evaluate", "a.tif", *model, "--labels", ".", "--csv", "locked/a.csv"], read_only),
        (["info", "secret.safetensors"], denied),
    ]
    (folder / "maps").mkdir()
    before = below(folder)
    batch = ["predict", "secret.tif", "a.tif", "-o", "maps", *model, "--on-error", "skip", "--no-style"]
    lines = "\n".join(json.dumps(words) for words in (*(words for words, _ in expected), batch))
    done = as_a_user(folder, "-c", _SEVERAL, text=lines)
    assert done.returncode == 0, done.stderr
    *found, last = (json.loads(line) for line in done.stdout.splitlines())
    for (words, text), (code, stdout, stderr) in zip(expected, found, strict=True):
        assert (code, stdout) == (1, ""), words
        *messages, error = stderr.splitlines()
        assert not messages or words[0] in ("train", "fit-gaussian", "evaluate"), stderr  # these tell what they find
        assert error.startswith("Error: "), words
        assert text in error, words
    made = [folder / "maps" / f"a_anomaly.{suffix}" for suffix in ("tif", "gpkg")]
    assert last[:2] == [3, "".join(f"{path.relative_to(folder)}\n" for path in made)]
    assert sorted(set(below(folder)) - set(before)) == sorted(made)
    assert set(before) <= set(below(folder))
