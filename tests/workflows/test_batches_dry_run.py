"""`asd predict --dry-run`: checks like the run, plans, writes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from asd_cli.errors import BatchError, InputError, RasterError
from asd_cli.options import PredictOptions
from asd_cli.workflows import dry_run as planning
from asd_cli.workflows.dry_run import DryRun, dry_run

Make = Callable[..., Path]


@pytest.fixture
def scene(tmp_path: Path, make_scene: Make, make_texture: Callable[..., NDArray[np.float32]]) -> Path:
    (tmp_path / "maps").mkdir()
    values = make_texture(3, 3, 600, 700).clip(1, 255).astype(np.uint8)
    return make_scene(tmp_path / "in" / "a.tif", values)


@pytest.fixture
def plan(tmp_path: Path, random_model: Path) -> Callable[..., DryRun]:
    def make(*scenes: Path, **options: Any) -> DryRun:
        before = sorted(tmp_path.rglob("*"))
        given = {"device": "cpu", "window": 512, "workers": 1, "threads": 1} | options
        names = tuple(map(str, scenes))
        try:
            return dry_run(PredictOptions(scenes=names, output=str(tmp_path / "maps"), model=random_model, **given))
        finally:
            assert sorted(tmp_path.rglob("*")) == before

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
    assert lines[2].startswith("in all: 1 of 1 scenes, 0.42 Mpx, memory ")
    assert lines[3].startswith("times: from reading and scoring 700 x 600 px of 1 scene; ")
    assert len(lines) == 4


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
    assert found.text().endswith("times: nothing to do")
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
