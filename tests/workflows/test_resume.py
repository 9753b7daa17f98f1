"""Runs that end early and go on: what counts, what is refused, and that the files are those of an unbroken run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from map_runs import Files, files, refusal, run
from numpy.typing import NDArray

import asd_cli.workflows.fingerprint as fingerprints
from asd_cli.errors import InputError, OutputError
from asd_cli.options import PredictOptions
from asd_cli.raster.gdal import open_raster
from asd_cli.raster.parts import Parts
from asd_cli.staging import StagedFiles
from asd_cli.workflows.locks import Lock
from asd_cli.workflows.mapping import BlockMapper
from asd_cli.workflows.merge import MergeOptions, merge
from asd_cli.workflows.predict import PredictReport, predict
from asd_cli.workflows.work_folder import WorkFolder

Texture = Callable[[int, int, int, int], NDArray[np.float32]]
Make = Callable[..., Path]
ROOT = Path(__file__).parents[2]
PARTS = 4


class Killed(BaseException):
    """Stands for a signal between two parts."""


@pytest.fixture(scope="module")
def scene(make_texture: Texture, make_scene: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four parts of 512 px, the last without a valid pixel; anomalies on both sides of the seams."""
    values = make_texture(81, 3, 560, 600).clip(1, 255).astype(np.uint8)
    values[:, 100:] = np.where(np.arange(560)[100:, None] % 40 < 30, 0, values[:, 100:])  # nodata: the work is small
    values[:, 512:, 512:] = 0
    return make_scene(tmp_path_factory.mktemp("scene") / "scene.tif", values, nodata=0)


@pytest.fixture(scope="module")
def options(scene: Path, random_model: Path) -> PredictOptions:
    return PredictOptions(scenes=(str(scene),), model=random_model, device="cpu", window=512)


@pytest.fixture(scope="module")
def expected(options: PredictOptions, tmp_path_factory: pytest.TempPathFactory) -> tuple[Files, PredictReport]:
    """The files of an unbroken run, and its report."""
    out = tmp_path_factory.mktemp("unbroken") / "map.tif"
    report = run(options, out)
    assert report.polygon_count
    assert sorted(files(out)) == ["map.gpkg", "map.qml", "map.tif"]
    return files(out), report


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "map.tif"


@pytest.fixture
def broken(options: PredictOptions, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A target with two finished parts; its work folder."""
    stop_after(2, options, out, monkeypatch)
    return out.with_name("map.tif.parts")


def stop_after(count: int, options: PredictOptions, out: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> None:
    """Stop once so many parts are finished."""
    add = Parts.add
    done: list[object] = []

    def stop(self: Parts, *given: Any) -> None:
        if len(done) == count:
            raise Killed
        done.append(given)
        add(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Parts, "add", stop)
        with pytest.raises(Killed):
            run(options, out, **more)


def computed(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Grows by an entry for each window that is computed."""
    submit, seen = BlockMapper.submit, []

    def count(self: BlockMapper, chip: Any) -> Any:
        seen.append(chip.valid.shape)
        return submit(self, chip)

    monkeypatch.setattr(BlockMapper, "submit", count)
    return seen


def test_only_what_is_missing_is_computed(
    options: PredictOptions,
    out: Path,
    expected: tuple[Files, PredictReport],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "asd_cli")
    stop_after(2, options, out, monkeypatch)
    folder = out.with_name("map.tif.parts")
    assert sorted(files_of(out.parent)) == ["map.tif.parts"]
    told = f"{folder}: 2 of {PARTS} parts are finished; go on with --resume, of several scenes with --skip-existing"
    assert caplog.messages == [told]
    seen, pixels = computed(monkeypatch), []
    again = replace(options, output=str(out), resume=True, max_memory=64, window=1024, threads=1, command="asd again")
    (report,) = predict(again, progress=lambda *state: pixels.append(state))
    assert len(seen) == 2
    assert pixels[-1] == (560 * 600, 560 * 600)
    assert caplog.messages[1] == f"{folder}: 2 of {PARTS} parts are there already"
    assert files(out) == expected[0]
    alike = {"seconds": 0, "stages": {}, "raster": out, "polygons": None, "styles": ()}
    assert replace(report, **alike) == replace(expected[1], **alike)


def files_of(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_resume_without_anything_to_resume_is_a_plain_run(
    options: PredictOptions, out: Path, expected: tuple[Files, PredictReport]
) -> None:
    run(options, out, resume=True)
    assert files(out) == expected[0]
    assert "map.tif: exists already" in refusal(OutputError, options, out, resume=True)


def test_without_resume_a_leftover_is_told(options: PredictOptions, out: Path, broken: Path) -> None:
    text = refusal(OutputError, options, out)
    assert text == (
        f"{broken}: another run has left 2 finished parts; go on with --resume, or start anew with --overwrite "
        "or after removing the folder"
    )


def test_overwrite_removes_a_leftover_and_says_so(
    options: PredictOptions,
    out: Path,
    broken: Path,
    expected: tuple[Files, PredictReport],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "asd_cli")
    seen = computed(monkeypatch)
    run(options, out, overwrite=True)
    assert caplog.messages == [f"{broken}: left by another run, removed (--overwrite)"]
    assert len(seen) == PARTS
    assert files(out) == expected[0]


@pytest.mark.parametrize("damage", ["values", "file", "line", "journal"])
def test_what_is_damaged_is_computed_again(
    options: PredictOptions,
    out: Path,
    broken: Path,
    expected: tuple[Files, PredictReport],
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    part, journal = broken / "r0000000c0000000.f32", broken / "journal.jsonl"
    if damage == "values":
        part.write_bytes(part.read_bytes()[:-4] + b"\0\0\0\1")
    elif damage == "file":
        part.unlink()
    elif damage == "line":
        journal.write_bytes(journal.read_bytes()[:-5])
    else:
        journal.write_bytes(b"\0" * 300)
    seen = computed(monkeypatch)
    run(options, out, resume=True)
    assert len(seen) == (PARTS if damage == "journal" else 3)
    assert files(out) == expected[0]


CHANGES: dict[str, dict[str, Any]] = {
    "--score: was unit, is far": {"score": "far"},
    "--false-alarm-rate: was None, is 0.01": {"false_alarm_rate": 0.01},
    "--threshold: was None, is 0.4": {"threshold": 0.4},
    "--nodata: was None, is 3.0": {"nodata": 3.0},
    "--min-area: was 0.0, is 2.0": {"min_area": 2.0},
    "its bands: was 1,2,3, is 3,2,1": {"bands": (3, 2, 1)},
    "the polygons: was map.gpkg, is map.fgb": {"polygons": ".fgb"},
    "the polygons: was map.gpkg, is none": {"write_polygons": False},
}


@pytest.mark.parametrize("text", CHANGES)
def test_other_options_are_refused(options: PredictOptions, out: Path, broken: Path, text: str) -> None:
    found = refusal(InputError, options, out, resume=True, **CHANGES[text])
    assert found.startswith(f"{broken}: holds parts of another map, which are never mixed (")
    assert text in found
    assert found.endswith("); make it the same again, or remove the folder")


def test_other_models_are_refused(options: PredictOptions, out: Path, broken: Path, make_model: Make) -> None:
    other = make_model(normal=["heath"])
    assert "(the model: was random.safetensors, SHA" in refusal(InputError, options, out, resume=True, model=other)


def test_other_scenes_and_versions_are_refused(
    options: PredictOptions,
    out: Path,
    broken: Path,
    expected: tuple[Files, PredictReport],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    scene = Path(options.scenes[0])
    renamed = shutil.copy2(scene, tmp_path / "other.tif")
    text = refusal(InputError, options, out, resume=True, scenes=(str(renamed),))
    assert "(the scene: was scene.tif, is other.tif)" in text
    elsewhere = shutil.copy2(scene, tmp_path / "scene.tif")
    os.utime(elsewhere, (1, 1))
    text = refusal(InputError, options, out, resume=True, scenes=(str(elsewhere),))
    assert "(its file scene.tif: was " in text
    status = scene.stat()
    shutil.copy2(scene, elsewhere)
    with open_raster(elsewhere, "r+") as dataset:
        dataset.write(np.full((1, 1), 77, np.uint8), 1, window=((5, 6), (5, 6)))
    os.utime(elsewhere, ns=(status.st_atime_ns, status.st_mtime_ns))
    text = refusal(InputError, options, out, resume=True, scenes=(str(elsewhere),))
    assert "(its pixels: was " in text
    for name, value in (("__version__", "9.9"), ("_version", lambda library: "9.9")):
        with monkeypatch.context() as patch:
            patch.setattr(fingerprints, name, value)
            assert "9.9); make it the same" in refusal(InputError, options, out, resume=True)
    shutil.copy2(scene, elsewhere)  # the same scene in another folder
    run(options, out, resume=True, scenes=(str(elsewhere),))
    assert files(out) == expected[0]


def test_every_option_is_either_free_or_part_of_the_fingerprint() -> None:
    names = {field.name for field in fields(PredictOptions)}
    assert names >= fingerprints.FREE_OPTIONS
    assert names - fingerprints.FREE_OPTIONS == {
        *("score", "false_alarm_rate", "threshold", "min_area", "simplify", "connectivity", "nodata"),
        *("mask", "area", "min_score", "on_bad_block", "style", "stac", "quicklook"),
    }


def test_the_files_of_a_vrt_count(
    options: PredictOptions, scene: Path, out: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import rasterio.shutil

    source = Path(shutil.copy2(scene, tmp_path / "source.tif"))
    rasterio.shutil.copy(source, tmp_path / "scene.vrt", driver="VRT")
    changed = replace(options, scenes=(str(tmp_path / "scene.vrt"),))
    stop_after(1, changed, out, monkeypatch)
    os.utime(source)
    assert "(its file source.tif: was " in refusal(InputError, changed, out, resume=True)


def test_a_batch_goes_on_as_it_is_told_to(
    options: PredictOptions, scene: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = scene.with_name("other.tif")
    shutil.copy(scene, other)
    both = replace(options, scenes=(str(scene), str(other)))
    stop_after(PARTS + 1, both, out.parent, monkeypatch)
    assert "scene_anomaly.tif: exists already" in refusal(OutputError, both, out.parent, resume=True)
    (report,) = predict(replace(both, output=str(out.parent), resume=True, skip_existing=True))
    assert report.raster.name == "other_anomaly.tif"
    assert not list(out.parent.glob("*.parts"))


def test_two_runs_at_once(options: PredictOptions, out: Path, broken: Path) -> None:
    lock = Lock.take(broken / "lock")
    assert lock is not None
    who = f"{out}: another run (process {os.getpid()} on "
    for changes in ({}, {"resume": True}, {"overwrite": True}, {"shard": (1, 2)}):
        text = refusal(OutputError, options, out, **changes)
        assert text.startswith(who)
        assert text.endswith(") is writing it; wait for it or choose another name")
    with pytest.raises(OutputError, match="another run"):
        merge(MergeOptions((out,)))
    lock.release()
    shared = Lock.take(broken / "lock", shared=True)
    assert shared is not None
    assert refusal(OutputError, options, out, resume=True).startswith(f"{out}: another run is writing it")
    shared.release()
    run(options, out, resume=True)


def test_killed_while_the_files_are_renamed(
    options: PredictOptions, out: Path, expected: tuple[Files, PredictReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SIGKILL does: the raster is in place, the polygons are not, and nothing is tidied up."""
    replaced: list[Path] = []

    def stop(self: Path, target: Path) -> Path:
        if self.name.endswith(".part.gpkg"):
            raise Killed
        replaced.append(self)
        os.replace(self, target)  # noqa: PTH105 - the method is what is patched
        return target

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stop)
        patch.setattr(StagedFiles, "__exit__", lambda *_: None)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        patch.setattr(WorkFolder, "_dispose", lambda *_: None)
        with pytest.raises(Killed):
            run(options, out)
    left = files_of(out.parent)
    assert len(left) == 4
    assert {"map.tif", "map.tif.parts"} < set(left)
    assert "exists already" in refusal(OutputError, options, out)
    assert "go on with --resume" in refusal(OutputError, options, out, skip_existing=True)
    run(options, out, resume=True, skip_existing=True)
    assert files(out) == expected[0]


def test_a_killed_replacement_keeps_the_files_that_are_there(
    options: PredictOptions, out: Path, expected: tuple[Files, PredictReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(options, out)
    stop_after(2, options, out, monkeypatch, overwrite=True)
    windows = computed(monkeypatch)
    assert "exists already" in refusal(OutputError, options, out, resume=True)
    assert predict(replace(options, output=str(out), resume=True, skip_existing=True)) == []
    assert windows == []
    run(options, out, resume=True, overwrite=True)
    assert files(out) == expected[0]


def test_a_killed_removal_is_finished_by_the_next_run(
    options: PredictOptions, out: Path, expected: tuple[Files, PredictReport]
) -> None:
    (out.parent / ".map.tif.done").mkdir()
    (out.parent / ".map.tif.done" / "job.json").write_text("{")
    run(options, out)
    assert files(out) == expected[0]


def test_folders_that_are_not_ours(options: PredictOptions, out: Path, expected: tuple[Files, PredictReport]) -> None:
    folder = out.with_name("map.tif.parts")
    folder.mkdir()
    (folder / "thesis.doc").write_text("mine")
    text = f"{folder}: holds other files (thesis.doc); it is needed for parts, move it away"
    for changes in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(OutputError) as caught:
            run(options, out, **changes)
        assert str(caught.value) == text
        assert (folder / "thesis.doc").read_text() == "mine"
    shutil.rmtree(folder)
    folder.write_text("a file")
    with pytest.raises(OutputError, match=r"map.tif.parts: cannot be made \(File exists\)"):
        run(options, out)
    folder.unlink()
    folder.mkdir()  # a run was killed before it had written a word
    (folder / "job.json.1a2b3c4d").write_text("{")
    run(options, out)
    assert files(out) == expected[0]


def test_a_job_that_cannot_be_read(options: PredictOptions, out: Path, broken: Path) -> None:
    for text in ("", "{}", '{"format": 2}', "[1]"):
        (broken / "job.json").write_text(text)
        assert f"{broken}/job.json: is damaged or of another version of asd" in refusal(
            InputError, options, out, resume=True
        )


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_shards_in_any_order_merge_to_the_file_of_one_run(
    options: PredictOptions,
    out: Path,
    expected: tuple[Files, PredictReport],
    monkeypatch: pytest.MonkeyPatch,
    order: tuple[int, ...],
) -> None:
    seen = computed(monkeypatch)
    for number in order:
        changed = replace(options, window=512 * number)  # the first one's counts
        report = run(changed if number != order[0] else options, out, shard=(number, 3))
        assert report.paths() == [out.with_name("map.tif.parts")]
        assert files_of(out.parent) == ["map.tif.parts"]
    assert len(seen) == PARTS
    with pytest.raises(OutputError, match=r"some of shard 1/3 or of a run without --shard; go on with --resume"):
        run(options, out, shard=(1, 3))
    (report,) = merge(MergeOptions((out.with_name("map.tif.parts"),)))
    assert files(out) == expected[0]
    assert report.as_json() | {"seconds": 0, "stages": {}} == expected[1].as_json() | {
        "seconds": 0, "stages": {}, "raster": out, "polygons": out.with_suffix(".gpkg"),
        "styles": (out.with_suffix(".qml"),),
    }  # fmt: skip


def test_a_shard_that_was_stopped_goes_on(
    options: PredictOptions, out: Path, expected: tuple[Files, PredictReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(1, options, out, monkeypatch, shard=(2, 2))
    seen = computed(monkeypatch)
    run(options, out, shard=(1, 2))
    assert len(seen) == 2
    with pytest.raises(InputError, match=r"map.tif: 1 of 4 parts \(shard 2/2\) are missing; make them with"):
        merge(MergeOptions((out,)))
    assert "never mixed (--score: was unit, is far)" in refusal(
        InputError, options, out, shard=(2, 2), resume=True, score="far"
    )
    run(options, out, shard=(2, 2), resume=True)
    assert len(seen) == 3
    merge(MergeOptions((out,)))
    assert files(out) == expected[0]


def test_a_run_without_shards_finishes_what_shards_began(
    options: PredictOptions, out: Path, expected: tuple[Files, PredictReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(options, out, shard=(3, 4))
    seen = computed(monkeypatch)
    run(options, out, resume=True)
    assert len(seen) == 3
    assert files(out) == expected[0]


def test_shards_of_a_batch(options: PredictOptions, scene: Path, out: Path, tmp_path: Path) -> None:
    shutil.copy2(scene, tmp_path / "b.tif")
    both = replace(options, scenes=(str(scene), str(tmp_path / "b.tif")), output=str(out.parent))
    for number in (1, 2):
        predict(replace(both, shard=(number, 2)))
    folders = sorted(out.parent.iterdir())
    assert [path.name for path in folders] == ["b_anomaly.tif.parts", "scene_anomaly.tif.parts"]
    merge(MergeOptions(tuple(folders)))
    merged = files(out)
    single = tmp_path / "single"
    single.mkdir()
    predict(replace(both, output=str(single)))
    assert merged == files(single / "x")


def test_more_shards_than_parts(
    options: PredictOptions, out: Path, expected: tuple[Files, PredictReport], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InputError, match=r"map.tif: has no parts to merge \(no .*map.tif.parts\); make them"):
        merge(MergeOptions((out,)))
    for number in range(1, 8):
        run(options, out, shard=(number, 7))
    out.write_text("mine")
    with pytest.raises(OutputError, match=r"map.tif: exists already"):
        merge(MergeOptions((out,)))
    assert not [text for text in caplog.messages if "--resume" in text]
    merge(MergeOptions((out,), overwrite=True))
    assert files(out) == expected[0]


def test_a_shard_without_parts_leaves_nothing_when_it_fails(
    options: PredictOptions, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(0, options, out, monkeypatch, shard=(2, 2))
    assert files_of(out.parent) == []
    run(options, out, shard=(1, 2))
    stop_after(0, options, out, monkeypatch, shard=(2, 2))
    assert files_of(out.parent) == ["map.tif.parts"]


def test_damaged_parts_are_not_merged(options: PredictOptions, out: Path) -> None:
    for number in (1, 2):
        run(options, out, shard=(number, 2))
    part = out.with_name("map.tif.parts") / "r0000512c0000000.f32"
    part.write_bytes(b"\0" + part.read_bytes()[1:])
    with pytest.raises(InputError, match=r"map.tif: 1 of 4 parts \(shard 2/2\) are damaged; make them again"):
        merge(MergeOptions((out,)))
    assert files_of(out.parent) == ["map.tif.parts"]


def test_a_full_disk_and_then_space(
    options: PredictOptions, tiny_disk: Path, expected: tuple[Files, PredictReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tiny_disk / "map.tif"
    for filled in (900, 300):  # full at the second part, and while the raster is finished
        (tiny_disk / "other").write_bytes(bytes(filled * 1024))
        with pytest.raises(OutputError, match=r"cannot be (written|kept)"):
            run(options, out, resume=True)
        assert sorted(files_of(tiny_disk)) == ["map.tif.parts", "other"]
    (tiny_disk / "other").unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", str(tiny_disk)], check=True)
    seen = computed(monkeypatch)
    run(options, out, resume=True)
    assert len(seen) < PARTS
    assert files(out) == expected[0]


def test_killed_at_random_moments(tiny_model: Path, tmp_path: Path) -> None:
    """Real processes and SIGKILL; ASD_KILLS says how many."""
    kills = int(os.environ.get("ASD_KILLS", "12"))
    command = [sys.executable, str(ROOT / "benchmarks" / "kills.py"), "--kills", str(kills), "--model", str(tiny_model)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    size = ["--width", "1500", "--height", "1100", "--json", str(tmp_path / "kills.json")]
    done = subprocess.run([*command, *size], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "kills.json").read_text())
    assert found["tried"] >= kills
    assert found["survived"] == found["tried"]
