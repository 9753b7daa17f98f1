"""Options from the environment and a TOML file, and how much a command says."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from asd_cli.cli import main
from asd_cli.cli.config import options_of, variable_of


def invoke(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASD_MODEL", raising=False)
    return tmp_path


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of every run of predict and train; nothing is computed."""
    runs: list[dict[str, Any]] = []

    def run(options: Any, **_: Any) -> Any:
        runs.append(vars(options))
        logging.getLogger("asd_cli.x").info("done")
        raise click.Abort

    monkeypatch.setattr("asd_cli.workflows.predict.predict", run)
    monkeypatch.setattr("asd_cli.workflows.train.train", run)
    return runs


def predict(seen: list[dict[str, Any]], *words: str, config: str | None = None) -> dict[str, Any]:
    start = []
    if config is not None:
        Path("asd.toml").write_text(config)
        start = ["--config", "asd.toml"]
    done = invoke(*start, "predict", "a.tif", "-m", "m", *words)
    assert done.exit_code == 130, done.output
    return seen[-1]


CONFIG = """
[predict]
output = "from file.tif"
max-memory = 512
min_area = 2
bands = [4, 3, 2]
no-polygons = true
connectivity = 4
score = "far"
mask = "clouds.gpkg"
[train]
normal = ["forest", "1,2,3"]
ignore-label = "water"
scales = [0.5, 1]
option = ["a=b"]
steps = 7
"""


def test_the_file_counts_more_than_the_defaults(seen: list[dict[str, Any]]) -> None:
    given = predict(seen, config=CONFIG)
    assert (given["output"], given["max_memory"], given["min_area"]) == ("from file.tif", 512, 2.0)
    assert (given["bands"], given["write_polygons"], given["connectivity"]) == ((4, 3, 2), False, 4)
    assert (given["score"], given["mask"], given["simplify"]) == ("far", "clouds.gpkg", 0.0)
    invoke("--config", "asd.toml", "train", "tiles")
    tiles = seen[-1]["tiles"]
    assert (tiles.normal, tiles.ignore_label) == (("forest", "1,2,3"), ("water",))
    assert (seen[-1]["scales"], seen[-1]["method_options"], seen[-1]["steps"]) == ((0.5, 1.0), (("a", "b"),), 7)


def test_environment_over_file_and_command_line_over_both(
    seen: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASD_PREDICT_MAX_MEMORY", "700")
    monkeypatch.setenv("ASD_PREDICT_NO_POLYGONS", "0")
    monkeypatch.setenv("ASD_PREDICT_BANDS", "1,2")
    monkeypatch.setenv("ASD_PREDICT_SIMPLIFY", "")  # as if it were not set
    given = predict(seen, "--bands", "3", config=CONFIG)
    assert (given["max_memory"], given["write_polygons"], given["bands"]) == (700, True, (3,))
    assert (given["min_area"], given["simplify"]) == (2.0, 0.0)
    monkeypatch.setenv("ASD_CONFIG", "asd.toml")
    assert predict(seen, "-o", "b.tif")["output"] == "b.tif"
    assert seen[-1]["min_area"] == 2.0
    monkeypatch.setenv("ASD_TRAIN_NORMAL", "'a b' c")
    monkeypatch.setenv("ASD_TRAIN_RESUME", "yes")
    invoke("train", "tiles")
    assert (seen[-1]["tiles"].normal, seen[-1]["resume"]) == (("a b", "c"), True)


def test_the_model_of_the_environment_counts_more_than_that_of_the_file(
    seen: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("asd.toml").write_text('[predict]\nmodel = "file"\n')
    words = ["--config", "asd.toml", "predict", "a.tif", "-o", "b.tif"]
    invoke(*words)
    assert seen[-1]["model"] == Path("file")
    monkeypatch.setenv("ASD_MODEL", "environment")
    invoke(*words)
    assert seen[-1]["model"] == Path("environment")
    monkeypatch.setenv("ASD_PREDICT_MODEL", "of predict")
    invoke(*words)
    assert seen[-1]["model"] == Path("of predict")
    invoke(*words, "-m", "typed")
    assert seen[-1]["model"] == Path("typed")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("window = 3", "window: stands in no section; put it below the name of a command, such as [predict]"),
        ("[predictt]", "[predictt]: is no command of asd; sections are compare, "),
        ("[predict]\nbandz = 3", "[predict] bandz: is no option of asd predict; did you mean bands?"),
        ("[predict]\nq7 = 3", "[predict] q7: is no option of asd predict; keys are the options of asd predict without"),
        ("[predict]\nscenes = 'a'", "[predict] scenes: is no option of asd predict"),
        ("[predict]\nmax_memory = 'a'", "[predict] max_memory: takes a number, not 'a'"),
        ("[predict]\nwindow = 0", "[predict] window: 0 is not in the range x>=1"),
        ("[predict]\nwindow = 1.5", "[predict] window: '1.5' is not a valid integer range"),
        ("[predict]\nwindow = true", "[predict] window: takes a number, not True"),
        ("[predict]\nscore = 'x'", "[predict] score: 'x' is not one of 'unit', 'distance', 'far'"),
        ("[predict]\noverwrite = 1", "[predict] overwrite: takes true or false, not 1"),
        ("[predict]\noutput = 3", "[predict] output: takes text in quotes, not 3"),
        ("[predict]\noutput = ['a']", "[predict] output: takes text in quotes, not ['a']"),
        ("[predict]\nbands = ['x']", "[predict] bands: 'x' is not a list of numbers such as 1,2,3"),
        ("[train]\nnormal = [[1]]", "[train] normal: takes text in quotes, not [1]"),
        ("[train]\noption = 'a'", "[train] option: 'a' is not of the form KEY=VALUE"),
        ("[predict", "is no TOML (Expected ']' at the end of a table declaration (at "),
    ],
)
def test_mistakes_in_the_file_are_one_line(text: str, message: str) -> None:
    Path("asd.toml").write_text(text)
    done = invoke("--config", "asd.toml", "predict", "a.tif", "-o", "b.tif")
    assert (done.exit_code, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"Error: asd.toml: {message}")


def test_other_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    done = invoke("--config", "no.toml", "info", "x")
    assert done.stderr.startswith("Error: no.toml: no such file; --config names a TOML file")
    Path("bytes.toml").write_bytes(b"\xff")
    assert invoke("--config", "bytes.toml", "info", "x").stderr.startswith("Error: bytes.toml: is no TOML (")
    monkeypatch.setenv("ASD_INFO_JSON", "perhaps")
    done = invoke("info", "x")
    assert done.stderr.startswith("Error: $ASD_INFO_JSON=perhaps: 'perhaps' is not a valid boolean")
    monkeypatch.setenv("ASD_INFO_JSON", "1")
    monkeypatch.setenv("ASD_EXPORT_DEEPNESS", "3")  # of another command
    assert invoke("info", "x").stderr == "Error: x: no such model file\n"
    done = invoke("export", "x", "-o", "x.onnx")
    assert done.stderr == "Error: $ASD_EXPORT_DEEPNESS=3: 3 is not in the range 64<=x<=4096\n"


def test_every_command_has_these_options_and_a_variable_for_each() -> None:
    variables = [variable_of(name, key) for name, command in main.commands.items() for key in options_of(command)]
    assert len(set(variables)) == len(variables)
    assert {"ASD_PREDICT_MAX_MEMORY", "ASD_FIT_GAUSSIAN_FALSE_ALARM_RATE", "ASD_TRAIN_OPTION"} < set(variables)
    for command in main.commands.values():
        assert {"json", "verbose", "quiet"} <= set(options_of(command)), command.name


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([], [], ["info", "Warning: warning"]),
        (["-q"], [], []),
        ([], ["--quiet"], []),
        (["-v"], [], ["Debug: debug", "info", "Warning: warning", "GDAL: of GDAL"]),
        ([], ["-v"], ["Debug: debug", "info", "Warning: warning", "GDAL: of GDAL"]),
        (["-q"], ["-v"], ["Debug: debug", "info", "Warning: warning", "GDAL: of GDAL"]),
    ],
)
def test_verbosity(monkeypatch: pytest.MonkeyPatch, before: list[str], after: list[str], expected: list[str]) -> None:
    from asd_cli.raster.gdal import gdal_session

    def run(path: Path) -> dict[str, Any]:
        log = logging.getLogger("asd_cli.workflows.info")
        for level in ("debug", "info", "warning"):
            getattr(log, level)(level)
        with gdal_session():
            logging.getLogger("rasterio._env").warning("of GDAL")
        return {"key": 1}

    monkeypatch.setattr("asd_cli.workflows.info.describe_model", run)
    levels = logging.getLogger("asd_cli").level, logging.getLogger("rasterio._env").handlers
    done = invoke(*before, "info", "a", *after)
    assert done.stdout == "key  1\n"
    assert done.stderr.splitlines() == expected
    assert (logging.getLogger("asd_cli").level, logging.getLogger("rasterio._env").handlers) == levels
    monkeypatch.setenv("ASD_QUIET", "1")
    assert invoke("info", "a").stderr == ""
    monkeypatch.delenv("ASD_QUIET")
    monkeypatch.setenv("ASD_INFO_QUIET", "1")
    assert invoke("info", "a").stderr == ""


def test_quiet_shows_neither_bar_nor_summary_but_errors_and_results(
    monkeypatch: pytest.MonkeyPatch, random_model: Path, make_scene: Any, make_texture: Any
) -> None:
    make_scene(Path("a.tif"), make_texture(1, 3, 40, 50))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    done = invoke("-q", "predict", "a.tif", "-o", "b.tif", "-m", str(random_model), "--profile")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "b.tif\nb.gpkg\n", "")
    done = invoke("polygons", "b.tif", "-o", "c.gpkg", "-q")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "c.gpkg\n", "")
    done = invoke("export", str(random_model), "-o", "c.onnx", "-q")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "c.onnx\n", "")
    done = invoke("-q", "info", "gone")
    assert (done.exit_code, done.stderr) == (1, "Error: gone: no such model file\n")
    done = invoke("predict", "a.tif", "-o", "d.tif", "-m", str(random_model), "-v")
    assert "Debug: a.tif: bands 1,2,3 of float32, windows of " in done.stderr.replace("\r", "\n")
