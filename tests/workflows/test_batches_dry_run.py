"""`asd predict --dry-run`: checks like the run, plans, writes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from asd_cli.errors import BatchError, InputError, OutputError, RasterError
from asd_cli.options import PredictOptions
from asd_cli.raster.parts import Parts
from asd_cli.raster.windows import Window
from asd_cli.workflows import dry_run as planning
from asd_cli.workflows.dry_run import DryRun, Sample, dry_run
from asd_cli.workflows.locks import Lock
from asd_cli.workflows.predict import predict

Make = Callable[..., Path]


@pytest.fixture
def scene(tmp_path: Path, make_scene: Make, make_texture: Callable[..., NDArray[np.float32]]) -> Path:
    (tmp_path / "maps").mkdir()
    values = make_texture(3, 3, 600, 700).clip(1, 255).astype(np.uint8)
    return make_scene(tmp_path / "in" / "a.tif", values)


@pytest.fixture
def plan(tmp_path: Path, random_model: Path) -> Callable[..., DryRun]:
    def make(*scenes: Path, **options: Any) -> DryRun:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        given = {"device": "cpu", "window": 512, "workers": 1, "threads": 1} | options
        names = tuple(map(str, scenes))
        try:
            return dry_run(PredictOptions(scenes=names, output=str(tmp_path / "maps"), model=random_model, **given))
        finally:
            assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before

    return make


def test_the_plan(scene: Path, plan: Callable[..., DryRun], tmp_path: Path) -> None:
    other = scene.with_name("b.tif")
    shutil.copy(scene, other)
    found = plan(scene, other).as_json()
    first = found["scenes"][0]
    assert (first["scene"], first["status"], first["error"]) == (str(scene), "planned", None)
    assert (first["width"], first["height"], first["pixels"], first["bands"]) == (700, 600, 420_000, [1, 2, 3])
    assert (first["windows"], first["window"], first["workers"]) == (4, 512, 1)
    assert first["raster"] == str(tmp_path / "maps" / "a_anomaly.tif")
    assert first["polygons"] == str(tmp_path / "maps" / "a_anomaly.gpkg")
    assert first["raster_bytes"] == 4 * 420_000 * 4 // 3
    assert first["memory_bytes"] > 32 << 20
    assert first["seconds"] > 0
    totals = found["totals"]
    assert (totals["scenes"], totals["planned"], totals["pixels"], totals["windows"]) == (2, 2, 840_000, 8)
    assert totals["seconds"] == sum(scene["seconds"] for scene in found["scenes"])
    assert totals["memory_bytes"] == first["memory_bytes"]
    assert found["estimated"] == (
        "times: from reading and scoring 700 x 600 px of 2 scenes; writing and polygons take some more"
    )


def test_the_plan_for_people(scene: Path, plan: Callable[..., DryRun], tmp_path: Path) -> None:
    lines = plan(scene, write_polygons=False).text().splitlines()
    assert lines[0].startswith(f"{scene}: 700 x 600 px, bands 1, 2, 3; 4 windows of 512 px, 1 reading, ")
    assert lines[1] == f"  {tmp_path}/maps/a_anomaly.tif: up to 2.14 MiB"
    assert lines[2] == f"  {tmp_path}/maps/a_anomaly.qml"
    assert lines[3].startswith("in all: 1 of 1 scenes, 0.42 Mpx, memory ")
    assert lines[4].startswith("times: from reading and scoring 700 x 600 px of 1 scene; ")
    assert len(lines) == 5
    found = plan(scene, stac=True, quicklook=".png", polygons=".fgb")
    folder = f"{tmp_path}/maps/a_anomaly"
    lines = [line.strip() for line in found.text().splitlines()[1:-2]]
    assert lines == [
        *(f"{folder}.tif: up to 2.14 MiB", f"{folder}.fgb: as many polygons as there are"),
        *(f"{folder}.{suffix}" for suffix in ("json", "png", "qml")),
    ]
    assert found.scenes[0]["files"] == [f"{folder}.{suffix}" for suffix in ("tif", "fgb", "json", "png", "qml")]


def test_the_plan_of_a_shard(scene: Path, plan: Callable[..., DryRun], tmp_path: Path) -> None:
    shards = [plan(scene, shard=(number, 3)) for number in (1, 2, 3)]
    figures = [[shard.as_json()["scenes"][0][key] for key in ("shard", "windows", "pixels")] for shard in shards]
    assert figures == [["1/3", 1, 512 * 512], ["2/3", 1, 188 * 512], ["3/3", 2, 88 * 700]]
    assert sum(shard.totals()["working_bytes"] for shard in shards) == 4 * 420_000
    lines = shards[0].text().splitlines()
    assert lines[1] == (
        f"  {tmp_path}/maps/a_anomaly.tif.parts: parts of shard 1/3, up to 1 MiB; asd merge makes the files"
    )
    assert lines[2].startswith("in all: 1 of 1 scenes, 0.2621 Mpx, ")


@pytest.fixture
def leave(
    scene: Path, tmp_path: Path, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[Window]]:
    """Runs until so many windows of a.tif are finished; these."""

    def until(count: int, **options: Any) -> list[Window]:
        add, done = Parts.add, []

        def stop(self: Parts, window: Window, *given: Any) -> None:
            add(self, window, *given)
            done.append(window)
            if len(done) == count:
                raise KeyboardInterrupt

        given = {"device": "cpu", "window": 512, "workers": 1, "threads": 1} | options
        output = str(tmp_path / "maps" / "a_anomaly.tif")
        options_given = PredictOptions(scenes=(str(scene),), output=output, model=random_model, **given)
        with monkeypatch.context() as patch:
            patch.setattr(Parts, "add", stop)
            with pytest.raises(KeyboardInterrupt):
                predict(options_given)
        return done

    return until


def test_what_earlier_runs_have_finished_is_left_out(
    scene: Path,
    plan: Callable[..., DryRun],
    leave: Callable[..., list[Window]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(planning, "_measured", lambda scene, mapper: Sample(Window(0, 0, 600, 700), 1, 5000.0))
    finished = leave(3)
    found = plan(scene, resume=True, window=1024)  # the windows are those of the first run
    (planned,) = found.scenes
    assert {key: planned[key] for key in ("windows", "windows_finished", "window", "pixels", "working_bytes")} == {
        **{"windows": 1, "windows_finished": 3, "window": 512},
        **{"pixels": 188 * 88, "working_bytes": 4 * 188 * 88},
    }
    assert sum(window.height * window.width for window in finished) == 420_000 - 188 * 88
    assert planned["raster_bytes"] == 4 * 420_000 * 4 // 3
    whole = plan(scene, overwrite=True).scenes[0]
    assert planned["seconds"] == pytest.approx(whole["seconds"] * 188 * 88 / 420_000, rel=1e-3)
    assert "; 1 of 4 windows of 512 px, 1 reading, " in found.text()
    assert (whole["windows"], whole["windows_finished"], whole["pixels"]) == (4, 0, 420_000)
    with pytest.raises(OutputError, match="another run has left 3 finished parts; go on with --resume"):
        plan(scene)
    with pytest.raises(InputError, match=r"which are never mixed \(--score: was unit, is far\); make it the same"):
        plan(scene, resume=True, score="far")
    lock = Lock.take(Path(planned["raster"] + ".parts") / "lock")
    assert lock is not None
    with pytest.raises(OutputError, match=r"another run .process .* is writing it"):
        plan(scene, resume=True)
    lock.release()


def test_nothing_is_left_to_score(scene: Path, plan: Callable[..., DryRun], leave: Callable[..., list[Window]]) -> None:
    leave(4)
    found = plan(scene, resume=True)
    assert [found.scenes[0][key] for key in ("status", "windows", "pixels", "seconds")] == ["planned", 0, 0, 0]
    assert found.text().endswith("times: nothing to score")


def test_parts_of_other_shards(scene: Path, plan: Callable[..., DryRun], leave: Callable[..., list[Window]]) -> None:
    leave(1, shard=(2, 2))
    figures = [plan(scene, shard=shard, resume=True).scenes[0] for shard in ((1, 2), (2, 2))]
    assert [(found["windows"], found["windows_finished"]) for found in figures] == [(2, 0), (1, 1)]
    assert plan(scene, shard=(1, 2)).scenes[0]["windows"] == 2
    with pytest.raises(OutputError, match="some of shard 2/2 or of a run without --shard; go on with --resume"):
        plan(scene, shard=(2, 2))
    lock = Lock.take(Path(figures[0]["raster"] + ".parts") / "lock", shared=True)
    assert lock is not None
    assert plan(scene, shard=(1, 2)).scenes[0]["windows"] == 2
    with pytest.raises(OutputError, match="another run is writing it"):
        plan(scene, resume=True)
    lock.release()


def test_a_folder_with_other_files(scene: Path, plan: Callable[..., DryRun], tmp_path: Path) -> None:
    folder = tmp_path / "maps" / "a_anomaly.tif.parts"
    folder.mkdir()
    (folder / "mine").touch()
    with pytest.raises(OutputError, match=r"holds other files \(mine\)"):
        plan(scene)


def test_it_checks_like_the_run(scene: Path, plan: Callable[..., DryRun]) -> None:
    gone = scene.with_name("gone.tif")
    with pytest.raises(RasterError, match="no such file"):
        plan(scene, gone)
    found = plan(scene, gone, on_error="skip")
    assert [s["status"] for s in found.scenes] == ["planned", "failed"]
    assert f"{gone}: failed ({gone}: no such file; check the path)" in found.text()
    with pytest.raises(BatchError) as caught:
        found.conclude()
    assert caught.value.exit_code == 3
    with pytest.raises(InputError, match="--dry-run and --report exclude each other"):
        plan(scene, report=scene.with_name("r.json"))


def test_files_that_exist(scene: Path, plan: Callable[..., DryRun], tmp_path: Path) -> None:
    for suffix in (".tif", ".gpkg"):
        (tmp_path / "maps" / f"a_anomaly{suffix}").touch()
    found = plan(scene, skip_existing=True)
    assert [s["status"] for s in found.scenes] == ["skipped"]
    assert found.totals()["planned"] == 0
    assert found.text().endswith("times: nothing to score")
    found.conclude()


def test_scenes_after_the_first_seconds_are_taken_to_be_as_fast(
    scene: Path, plan: Callable[..., DryRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = scene.with_name("b.tif")
    shutil.copy(scene, other)
    measure, measured = planning._measured, []

    def slow(*given: Any) -> Any:
        measured.append(measure(*given))
        monkeypatch.setattr(planning, "_MEASURING", 0.0)
        return measured[-1]

    monkeypatch.setattr(planning, "_measured", slow)
    found = plan(scene, other)
    first, second = (s["seconds"] for s in found.scenes)
    assert first == second > 0
    assert len(measured) == 1
    assert "px of 1 scene, the other 1 as fast as those; " in found.estimated


def test_a_scene_without_valid_pixels(plan: Callable[..., DryRun], make_scene: Make, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    empty = make_scene(tmp_path / "in" / "empty.tif", np.zeros((3, 40, 40), np.uint8), nodata=0)
    found = plan(empty)
    assert found.scenes[0]["seconds"] == 0
    assert found.estimated == "times: unknown, as no valid pixels were found to score"


def test_too_little_space_is_warned_of(
    scene: Path, plan: Callable[..., DryRun], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage)
    plan(scene)
    assert caplog.messages[0].endswith("maps: 1e+03 B free, but up to 3.74 MiB may be needed")
