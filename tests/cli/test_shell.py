"""The program as a shell sees it: exit codes, the two streams, other ways to call it, completion."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from asd_cli import __version__
from asd_cli.cli import main
from asd_cli.cli.shared import advance, echo_json, find_model, progress_bar
from asd_cli.errors import AsdError, InputError, ModelFileError
from asd_cli.raster.gdal import open_raster
from asd_cli.workflows.models import load_model

HEAVY = ("torch", "rasterio", "geopandas", "pandas", "scipy", "albumentations", "matplotlib", "shapely", "tqdm")
BIN = Path(sys.prefix) / "bin"


def program(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    return subprocess.run(words, capture_output=True, text=True, env=environment, check=False, timeout=120, **options)


def test_a_map_leaves_nothing_in_the_home_folder(
    tiny_model: Path,
    make_scene: Callable[..., Path],
    make_texture: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Libraries that count their users, or look for updates, keep notes there; some not where tests of theirs run."""
    home = tmp_path / "home"
    home.mkdir()
    bands = load_model(tiny_model).detector.bands
    scene = make_scene(tmp_path / "scene.tif", make_texture(0, bands, 60, 60))
    words = [sys.executable, "-m", "asd_cli", "predict", str(scene), "-o", str(tmp_path / "map.tif")]
    for name in ("ORT_DISABLE_TELEMETRY", "NO_ALBUMENTATIONS_UPDATE", "CI"):
        monkeypatch.delenv(name, raising=False)
    done = program(*words, "-m", str(tiny_model), env={"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")})
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []


def installed(name: str) -> str:
    path = BIN / name
    if not path.exists():
        pytest.skip(f"{name} is not installed beside this Python")
    return str(path)


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(path: Path) -> None:
        raise error

    monkeypatch.setattr("asd_cli.workflows.info.describe_model", run)


def invoke(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


@pytest.mark.parametrize("command", ["", *main.commands])
def test_help_imports_nothing_heavy(command: str) -> None:
    code = (
        "import sys; from asd_cli.cli import main\n"
        f"main({[*command.split(), '--help']}, prog_name='asd', standalone_mode=False)\n"
        f"print([name for name in {(*HEAVY, 'numpy')} if name in sys.modules], file=sys.stderr)"
    )
    done = program(sys.executable, "-c", code)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: asd")
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("way", ["asd", "rio asd", "python -m asd_cli"])
def test_ways_to_call_it(way: str, tmp_path: Path) -> None:
    start = [sys.executable, "-m", "asd_cli"] if way.startswith("python") else way.split()
    start[0] = installed(start[0])
    shown = "rio asd" if way == "rio asd" else "asd"
    done = program(*start, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: {shown} [OPTIONS] COMMAND")
    assert program(*start, "--version").stdout == f"asd, version {__version__}\n"
    done = program(*start, "predict", "nowhere.tif", "-o", "a.tif", "-m", "gone.safetensors", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("Error: ")
    done = program(*start, "predict", "nowhere.tif", "--colour", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Usage: {shown} predict")
    assert "No such option" in done.stderr
    assert "--colour" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_rasterio_lists_the_command() -> None:
    assert "\n  asd " in program(installed("rio"), "--help").stdout


def test_errors_are_one_line_on_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, InputError("a.tif: is wrong; do this"))
    done = invoke("info", "a")
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "Error: a.tif: is wrong; do this\n")


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    failing(monkeypatch, InputError("a.tif: is wrong"))
    done = invoke("--debug", "info", "a")
    assert isinstance(done.exception, InputError)
    done = program(sys.executable, "-m", "asd_cli", "--debug", "info", "nowhere", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.splitlines()[-1].endswith("ModelFileError: nowhere: no such model file")
    assert "stands before the command" in " ".join(invoke("--help").stdout.split())


def test_our_own_mistakes_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, ZeroDivisionError("ours"))
    assert isinstance(invoke("info", "a").exception, ZeroDivisionError)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    ],
)
def test_out_of_memory_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    failing(monkeypatch, error)
    done = invoke("info", "a")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: out of memory: a smaller --max-memory or --crop, fewer")
    assert done.stderr.count("\n") == 1
    assert invoke("--debug", "info", "a").exception is error
    failing(monkeypatch, RuntimeError("ours"))
    assert isinstance(invoke("info", "a").exception, RuntimeError)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_interrupted(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    failing(monkeypatch, error)
    done = invoke("info", "a")
    assert (done.exit_code, done.stdout, done.stderr) == (130, "", "Interrupted.\n")


def test_a_real_signal_interrupts() -> None:
    code = (
        "import os, signal, sys, types; from asd_cli.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs of a shell ignore it
        "run = lambda path: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.modules['asd_cli.workflows.info'] = types.SimpleNamespace(describe_model=run)\n"
        "main(['info', 'a'])"
    )
    done = program(sys.executable, "-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")


@pytest.mark.parametrize(
    "words", [["info"], ["nonsense"], ["evaluate"], ["predict", "a.tif"], ["train", "--steps", "0", "a"]]
)
def test_wrong_usage(words: list[str]) -> None:
    done = invoke(*words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Error: " in done.stderr


def test_logs_and_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(path: Path) -> dict[str, Any]:
        log = logging.getLogger("asd_cli.workflows.info")
        log.debug("not shown")
        log.info("two tiles are skipped")
        log.warning("tile %s looks odd", "a.tif")
        return {"key": 1.5}

    monkeypatch.setattr("asd_cli.workflows.info.describe_model", run)
    before = logging.getLogger("asd_cli").handlers
    done = invoke("info", "a")
    assert done.exit_code == 0
    assert done.stdout == "key  1.5\n"
    assert done.stderr == "two tiles are skipped\nWarning: tile a.tif looks odd\n"
    log = logging.getLogger("asd_cli")
    assert (log.handlers, log.propagate, log.level) == (before, True, logging.NOTSET)


NOISY = (
    "import logging, sys, types, warnings; from asd_cli.cli import main\n"
    "def run(path):\n"
    "    warnings.warn('from a library', UserWarning)\n"
    "    logging.getLogger('some.library').warning('logged by a library')\n"
    "    return dict(key=1)\n"
    "sys.modules['asd_cli.workflows.info'] = types.SimpleNamespace(describe_model=run)\n"
    "main({words})"
)


def test_warnings_of_libraries_show_with_debug_only() -> None:
    done = program(sys.executable, "-c", NOISY.format(words=["info", "a"]))
    assert (done.returncode, done.stdout, done.stderr) == (0, "key  1\n", "")
    done = program(sys.executable, "-c", NOISY.format(words=["--debug", "info", "a"]))
    assert "UserWarning: from a library" in done.stderr
    assert "logged by a library" in done.stderr


def test_warnings_stay_errors_where_they_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asd_cli.workflows.info.describe_model", lambda path: warnings.warn("odd", stacklevel=1))
    assert isinstance(invoke("info", "a").exception, UserWarning)


def test_warnings_do_not_break_the_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(path: Path) -> dict[str, Any]:
        monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
        with progress_bar("work", "px") as bar:
            advance(bar, 3, 10, {"loss": 0.5})
            logging.getLogger("asd_cli.x").warning("odd")
        return {"key": 1}

    monkeypatch.setattr("asd_cli.workflows.info.describe_model", run)
    done = invoke("info", "a")
    assert done.stdout == "key  1\n"
    lines = done.stderr.replace("\r", "\n").splitlines()
    assert "Warning: odd" in lines
    assert any(line.startswith("work:  30%") and "loss=0.5" in line for line in lines)


def test_no_progress_bar_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("work") as bar:
        advance(bar, 1, 2)
    assert capsys.readouterr().err == ""


def test_a_closed_pipe_is_no_traceback(tiny_model: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "asd_cli", "info", str(tiny_model)],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
    )
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell: str) -> None:
    asd = installed("asd")
    done = program(asd, env={"_ASD_COMPLETE": f"{shell}_source"})
    assert done.returncode == 0
    assert "_asd_completion" in done.stdout
    assert f"{shell}_complete" in done.stdout
    for words, expected in (("asd ev", "evaluate"), ("asd predict sc", "file"), ("asd train --rec", "--recipe")):
        start = words.split()[-1]
        place = start if shell == "fish" else str(len(words.split()) - 1)
        given = {"_ASD_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": place}
        assert expected in program(asd, env=given).stdout


def test_the_model_is_looked_for_in_three_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASD_MODEL", raising=False)
    with pytest.raises(ModelFileError, match=r"^no model: give one with -m FILE, set \$ASD_MODEL, or .*\./asd_model"):
        find_model(None)
    (tmp_path / "asd_model.safetensors").touch()
    assert find_model(None) == Path("asd_model.safetensors")
    monkeypatch.setenv("ASD_MODEL", "other.safetensors")
    assert find_model(None) == Path("other.safetensors")
    assert find_model(Path("given.safetensors")) == Path("given.safetensors")


def test_json_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    odd = {"a": float("nan"), "b": [float("inf"), 1.5], "c": Path("x"), "d": (1, None), 3: "ä"}
    odd |= {"e": np.float32(0.5), "f": np.int64(7), "g": np.float64("nan"), "h": np.bool_(True)}
    echo_json(odd)
    shown = json.loads(capsys.readouterr().out)
    assert shown == {
        "a": None, "b": [None, 1.5], "c": "x", "d": [1, None], "3": "ä", "e": 0.5, "f": 7, "g": None, "h": True,
    }  # fmt: skip


def score_raster(path: Path, values: Any, **tags: str) -> None:
    with open_raster(path, "w", driver="GTiff", width=8, height=6, count=1, dtype=values.dtype) as dataset:
        dataset.write(values[None])
        dataset.update_tags(**tags)


def test_evaluate_prints_a_table_or_json(tmp_path: Path) -> None:
    truth = np.zeros((6, 8), np.uint8)
    truth[:, 5:] = 1
    score_raster(tmp_path / "truth.tif", truth)
    score = np.linspace(0, 1, 48, endpoint=False).reshape(6, 8).astype(np.float32)
    score_raster(tmp_path / "anomaly.tif", score, ASD_SCORE="unit", ASD_THRESHOLD="0.5")
    words = ["evaluate", str(tmp_path / "anomaly.tif"), "--labels", str(tmp_path / "truth.tif")]
    done = invoke(*words)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].startswith("pooled")
    done = invoke(*words, "--json", "--csv", str(tmp_path / "a.csv"))
    figures = json.loads(done.stdout)
    assert figures["normal"] == ["0"]
    assert figures["pooled"]["anomalous"] == 18
    assert figures["pooled"]["calibrated"]["recall"] == pytest.approx(0.5)
    assert figures["classes"][0]["name"] == "1"
    done = invoke(*words, "--csv", str(tmp_path / "a.csv"))
    assert done.exit_code == 1
    assert done.stderr == f"Error: {tmp_path}/a.csv: exists already; choose another name or add --overwrite\n"


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "not a device; use auto, cpu, cuda, cuda:N or mps"),
        ("", "not a device; use auto, cpu, cuda, cuda:N or mps"),
        ("cuda:x", "not a device; use auto, cpu, cuda, cuda:N or mps"),
        ("cuda:99", "not on this machine; here are: cpu"),
        ("meta", "not on this machine; here are: cpu"),
    ],
)
def test_devices_that_are_not_there(device: str, message: str, tiny_model: Path, tiny_tiles: Path) -> None:
    done = invoke("evaluate", "-m", str(tiny_model), str(tiny_tiles), "--device", device)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: --device {device}: {message}")


def test_the_error_tree_is_caught_whole() -> None:
    import asd_cli.errors

    kinds = [kind for kind in vars(asd_cli.errors).values() if isinstance(kind, type)]
    assert all(issubclass(kind, AsdError) for kind in kinds)
    assert all(f"{kind.__name__} " in str(asd_cli.errors.__doc__) for kind in kinds)
