"""Batches of `asd predict`: what one bad scene does to the others, and what the report says."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from asd_cli.errors import AsdError, BatchError, InputError, OutputError, RasterError, TargetError
from asd_cli.options import PredictOptions
from asd_cli.raster.gdal import open_raster
from asd_cli.raster.writer import MapWriter
from asd_cli.staging import StagedFiles
from asd_cli.workflows import batch_report
from asd_cli.workflows import predict as predicting
from asd_cli.workflows.mapping import BlockMapper
from asd_cli.workflows.predict import PredictReport, predict

Make = Callable[..., Path]


@pytest.fixture
def scenes(tmp_path: Path, make_scene: Make, make_texture: Callable[..., NDArray[np.float32]]) -> dict[str, str]:
    """Names of good.tif, last.tif, cut.tif (its last row is gone), bands.tif (two bands) and gone.tif."""
    values = make_texture(3, 3, 60, 70).clip(1, 255).astype(np.uint8)
    folder = tmp_path / "in"
    for name, image in (("good", values), ("last", values[:, ::-1]), ("cut", values), ("bands", values[:2])):
        make_scene(folder / f"{name}.tif", image)
    cut = folder / "cut.tif"
    cut.write_bytes(cut.read_bytes()[: -3 * 70])
    (tmp_path / "maps").mkdir()
    return {name: str(folder / f"{name}.tif") for name in ("good", "last", "cut", "bands", "gone")}


@pytest.fixture
def run(tmp_path: Path, random_model: Path) -> Callable[..., list[PredictReport]]:
    def map_all(*names: str, **options: Any) -> list[PredictReport]:
        given = {"device": "cpu", "report": tmp_path / "batch.json", "on_error": "skip"} | options
        return predict(PredictOptions(scenes=names, output=str(tmp_path / "maps"), model=random_model, **given))

    return map_all


def report_in(folder: Path) -> dict[str, Any]:
    assert not list(folder.glob(".batch*"))
    found: dict[str, Any] = json.loads((folder / "batch.json").read_text())
    return found


def statuses(report: dict[str, Any]) -> list[tuple[str, str]]:
    return [(Path(scene["scene"]).stem, scene["status"]) for scene in report["scenes"]]


def maps(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "maps").iterdir() if path.suffix != ".qml")


def test_bad_scenes_are_left_out(
    scenes: dict[str, str],
    run: Callable[..., list[PredictReport]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(BatchError, match="3 of 5 scenes failed, see above") as caught:
        run(*(scenes[name] for name in ("cut", "good", "gone", "bands", "last")))
    assert caught.value.exit_code == 3
    assert maps(tmp_path) == [f"{name}_anomaly.{suffix}" for name in ("good", "last") for suffix in ("gpkg", "tif")]
    report = report_in(tmp_path)
    assert (report["asd_batch_report"], report["status"], report["exit_code"]) == (1, "partial", 3)
    assert statuses(report) == [
        ("cut", "failed"), ("good", "done"), ("gone", "failed"), ("bands", "failed"), ("last", "done"),
    ]  # fmt: skip
    cut, good, gone, bands, _ = report["scenes"]
    assert cut["error"].startswith(f"{scenes['cut']}: bands 1, 2, 3 cannot be read at cols 0-69, rows ")
    assert cut["seconds"] > 0
    assert gone["error"] == f"{scenes['gone']}: no such file; check the path"
    assert bands["error"].startswith(f"{scenes['bands']}: 2 bands, but the model was trained on 3")
    assert (gone["width"], gone["valid_pixels"], gone["polygon_count"]) == (None, None, None)
    assert (good["width"], good["height"], good["valid_pixels"], good["error"]) == (70, 60, 4200, None)
    assert good["raster"] == str(tmp_path / "maps" / "good_anomaly.tif")
    assert good["polygons"] == str(tmp_path / "maps" / "good_anomaly.gpkg")
    totals = report["totals"]
    assert {key: totals[key] for key in ("scenes", "done", "failed", "skipped", "waiting")} == {
        "scenes": 5, "done": 2, "failed": 3, "skipped": 0, "waiting": 0,
    }  # fmt: skip
    assert (totals["pixels"], totals["valid_pixels"]) == (8400, 8400)
    assert totals["polygon_count"] == sum(scene["polygon_count"] or 0 for scene in report["scenes"])
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == [gone["error"], bands["error"], cut["error"]]  # those of the checks come first
    assert caplog.messages[-1].startswith("5 scenes: 2 done, 3 failed; ")


def test_all_failed(scenes: dict[str, str], run: Callable[..., list[PredictReport]], tmp_path: Path) -> None:
    with pytest.raises(BatchError, match="all 2 scenes failed") as caught:
        run(scenes["gone"], scenes["bands"])
    assert caught.value.exit_code == 1
    assert (report_in(tmp_path)["status"], report_in(tmp_path)["exit_code"]) == ("failed", 1)
    with pytest.raises(BatchError, match="the scene failed"):
        run(scenes["gone"])


def test_by_default_the_first_bad_scene_ends_all_before_any_work(
    scenes: dict[str, str],
    run: Callable[..., list[PredictReport]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(predicting, "map_one", lambda *_: pytest.fail("work was done"))
    with pytest.raises(RasterError, match="no such file"):
        run(scenes["good"], scenes["gone"], scenes["last"], on_error="fail")
    report = report_in(tmp_path)
    assert (report["status"], report["exit_code"]) == ("failed", 1)
    assert report["error"] == f"{scenes['gone']}: no such file; check the path"
    assert statuses(report) == [("good", "waiting"), ("gone", "failed"), ("last", "waiting")]
    assert maps(tmp_path) == []


def test_a_scene_that_fails_while_it_is_mapped(
    scenes: dict[str, str], run: Callable[..., list[PredictReport]], tmp_path: Path
) -> None:
    with pytest.raises(RasterError):
        run(scenes["good"], scenes["cut"], scenes["last"], on_error="fail")
    assert statuses(report_in(tmp_path)) == [("good", "done"), ("cut", "failed"), ("last", "waiting")]
    assert maps(tmp_path) == ["good_anomaly.gpkg", "good_anomaly.tif"]


def test_targets_that_cannot_be_used(
    scenes: dict[str, str], run: Callable[..., list[PredictReport]], tmp_path: Path
) -> None:
    (tmp_path / "maps" / "good_anomaly.tif").write_text("mine")
    other = tmp_path / "other" / "last.tif"
    other.parent.mkdir()
    shutil.copy(scenes["last"], other)
    with pytest.raises(BatchError):
        run(scenes["good"], scenes["last"], str(other))
    report = report_in(tmp_path)
    assert [scene["status"] for scene in report["scenes"]] == ["failed", "done", "failed"]
    assert report["scenes"][0]["error"].endswith("exists already; choose another name or add --overwrite")
    assert f"would be written for both {scenes['last']} and {other}" in report["scenes"][2]["error"]
    assert (tmp_path / "maps" / "good_anomaly.tif").read_text() == "mine"


def test_a_full_disk_ends_all(
    scenes: dict[str, str],
    run: Callable[..., list[PredictReport]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OutputError("maps/x.tif: cannot be written (disk full); check")

    monkeypatch.setattr(MapWriter, "finish", full)
    with pytest.raises(OutputError, match="disk full"):
        run(scenes["good"], scenes["last"])
    report = report_in(tmp_path)
    assert statuses(report) == [("good", "failed"), ("last", "waiting")]
    assert (report["status"], report["exit_code"]) == ("failed", 1)


@pytest.mark.parametrize(
    ("error", "status", "code", "scene"),
    [(KeyboardInterrupt(), "interrupted", 130, "interrupted"), (ZeroDivisionError("ours"), "failed", None, "failed")],
)
def test_interrupts_and_mistakes_of_ours_end_all_and_are_reported(
    scenes: dict[str, str],
    run: Callable[..., list[PredictReport]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    error: BaseException,
    status: str,
    code: int | None,
    scene: str,
) -> None:
    submit, calls = BlockMapper.submit, []

    def second_fails(*given: Any) -> Any:
        calls.append(given)
        if len(calls) > 1:
            raise error
        return submit(*given)

    monkeypatch.setattr(BlockMapper, "submit", second_fails)
    with pytest.raises(type(error)):
        run(scenes["good"], scenes["last"], scenes["cut"])
    report = report_in(tmp_path)
    assert (report["status"], report["exit_code"]) == (status, code)
    assert statuses(report) == [("good", "done"), ("last", scene), ("cut", "waiting")]
    told = None if code else "unexpected: ZeroDivisionError: ours"
    assert report["scenes"][1]["error"] == told
    assert report["error"] == (None if code else "ZeroDivisionError: ours")


def test_files_that_exist_are_kept(
    scenes: dict[str, str], run: Callable[..., list[PredictReport]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(scenes["good"])
    before = (tmp_path / "maps" / "good_anomaly.tif").stat()
    reports = run(scenes["good"], scenes["last"], skip_existing=True, on_error="fail")
    assert [report.scene for report in reports] == [scenes["last"]]
    assert (tmp_path / "maps" / "good_anomaly.tif").stat() == before
    report = report_in(tmp_path)
    assert statuses(report) == [("good", "skipped"), ("last", "done")]
    assert (report["status"], report["exit_code"]) == ("done", 0)
    monkeypatch.setattr(predicting, "load_model", lambda *_: pytest.fail("nothing is to be done"))
    assert run(scenes["good"], scenes["last"], skip_existing=True) == []
    (tmp_path / "maps" / "good_anomaly.gpkg").unlink()
    with pytest.raises(TargetError) as caught:
        run(scenes["good"], skip_existing=True, on_error="fail")
    raster = tmp_path / "maps" / "good_anomaly.tif"
    assert str(caught.value) == (
        f"{raster}: exists already, but {raster.with_suffix('.gpkg')} does not; remove it, or take --overwrite "
        "in place of --skip-existing"
    )
    assert run(scenes["good"], skip_existing=True, write_polygons=False) == []  # the raster is all that is wanted
    with pytest.raises(InputError, match="--skip-existing and --overwrite exclude each other; give one of them"):
        run(scenes["good"], skip_existing=True, overwrite=True)


def test_what_a_report_may_replace(
    scenes: dict[str, str], run: Callable[..., list[PredictReport]], tmp_path: Path
) -> None:
    run(scenes["good"])
    run(scenes["last"])  # the report of an earlier run
    assert statuses(report_in(tmp_path)) == [("last", "done")]
    mine = tmp_path / "batch.json"
    mine.write_text('{"mine": 1}')
    for changes in ({"overwrite": False, "skip_existing": True}, {"overwrite": True}):
        with pytest.raises(TargetError, match=r"batch.json: exists and is no report of an earlier run; choose another"):
            run(scenes["good"], write_polygons=False, **changes)
    assert mine.read_text() == '{"mine": 1}'
    with pytest.raises(InputError, match="is among the files that are read"):
        run(scenes["good"], report=Path(scenes["good"]), overwrite=True)
    with pytest.raises(InputError, match="is also the name of a map; choose another"):
        run(scenes["good"], report=tmp_path / "maps" / "good_anomaly.tif", overwrite=True)
    with pytest.raises(TargetError, match=r"the folder .*nowhere does not exist"):
        run(scenes["good"], report=tmp_path / "nowhere" / "batch.json")


def test_the_report_of_a_shard(
    scenes: dict[str, str],
    run: Callable[..., list[PredictReport]],
    tmp_path: Path,
    make_scene: Make,
    make_texture: Callable[..., NDArray[np.float32]],
) -> None:
    long = make_scene(tmp_path / "in" / "long.tif", make_texture(4, 3, 560, 30).clip(1, 255).astype(np.uint8))
    for number, pixels in ((1, 512 * 30), (2, 48 * 30 + 60 * 70)):  # good.tif is one part, of the last shard
        shards = run(scenes["good"], str(long), shard=(number, 2), window=512)
        report = report_in(tmp_path)
        assert (report["shard"], statuses(report)) == (f"{number}/2", [("good", "done"), ("long", "done")])
        assert report["scenes"][0]["polygon_count"] is None
        assert (report["scenes"][1]["width"], report["scenes"][1]["height"]) == (30, 560)
        assert sum(scene["pixels"] for scene in report["scenes"]) == report["totals"]["pixels"] == pixels
        assert report["totals"]["valid_pixels"] == sum(shard.valid_pixels for shard in shards) == pixels


def test_the_report_names_every_file(
    scenes: dict[str, str], run: Callable[..., list[PredictReport]], tmp_path: Path
) -> None:
    run(scenes["good"], stac=True, quicklook=".png", polygons=".fgb")
    (good,) = report_in(tmp_path)["scenes"]
    assert sorted(good["files"]) == sorted(map(str, (tmp_path / "maps").iterdir()))
    assert (good["raster"], good["polygons"]) == (good["files"][0], good["files"][1])
    with pytest.raises(BatchError):
        run(scenes["gone"], write_polygons=False, style=False)
    (gone,) = report_in(tmp_path)["scenes"]
    assert (gone["raster"], gone["polygons"]) == (gone["files"][0], None)
    assert gone["files"] == [str(tmp_path / "maps" / "gone_anomaly.tif")]


def test_a_report_that_cannot_be_written_hides_no_error(
    scenes: dict[str, str],
    run: Callable[..., list[PredictReport]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = StagedFiles.stage

    def full(self: StagedFiles, target: Path) -> Path:
        if target.suffix == ".json":
            raise OutputError(f"{target}: disk full")
        return stage(self, target)

    monkeypatch.setattr(StagedFiles, "stage", full)
    with pytest.raises(RasterError, match="no such file"):
        run(scenes["gone"], on_error="fail")
    assert caplog.messages[-1].endswith("batch.json: disk full")
    with pytest.raises(OutputError, match=r"batch.json: disk full"):
        run(scenes["good"])


def test_the_report_is_written_meanwhile(
    scenes: dict[str, str], tmp_path: Path, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_report, "_BETWEEN_WRITES", 0.0)
    seen: list[dict[str, Any]] = []
    names = (scenes["good"], scenes["last"])
    options = PredictOptions(
        scenes=names, output=str(tmp_path / "maps"), model=random_model, report=tmp_path / "batch.json", device="cpu"
    )
    predict(options, finished=lambda report: seen.append(report_in(tmp_path)))
    assert [report["status"] for report in seen] == ["running", "running"]
    assert statuses(seen[0]) == [("good", "done"), ("last", "waiting")]
    assert report_in(tmp_path)["status"] == "done"


def test_progress_ends_at_its_total_whatever_fails(scenes: dict[str, str], tmp_path: Path, random_model: Path) -> None:
    seen: list[tuple[int, int]] = []
    names = tuple(scenes[name] for name in ("cut", "bands", "good"))
    options = PredictOptions(
        scenes=names, output=str(tmp_path / "maps"), model=random_model, on_error="skip", device="cpu"
    )
    with pytest.raises(AsdError):
        predict(options, progress=lambda *state: seen.append(state))
    assert seen[-1] == (2 * 4200, 2 * 4200)


@pytest.mark.parametrize("window", [512, 1024])
def test_masked_blocks_give_the_same_map_for_every_window(
    tmp_path: Path,
    make_scene: Make,
    make_texture: Callable[..., NDArray[np.float32]],
    random_model: Path,
    caplog: pytest.LogCaptureFixture,
    window: int,
) -> None:
    values = make_texture(5, 3, 700, 600).clip(1, 255).astype(np.uint8)
    options = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate"}
    path = make_scene(tmp_path / "in" / "s.tif", values, **options)
    with open_raster(path) as dataset:
        offset = int(dataset.get_tag_item("BLOCK_OFFSET_4_3", "TIFF", bidx=1))  # beside the seam at 512
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 16)
    hole = make_scene(tmp_path / "in" / "hole.tif", values, nodata=0, **options)
    values[:, 384:512, 512:] = 0
    make_scene(hole, values, nodata=0, **options)
    given = {"model": random_model, "device": "cpu", "on_bad_block": "mask", "window": window, "workers": 2}
    (report,) = predict(PredictOptions(scenes=(str(path),), output=str(tmp_path / "a.tif"), **given))
    predict(PredictOptions(scenes=(str(hole),), output=str(tmp_path / "b.tif"), **given))
    with open_raster(tmp_path / "a.tif") as one, open_raster(tmp_path / "b.tif") as other:
        np.testing.assert_array_equal(one.read(), other.read())  # just as nodata would
        assert np.isnan(one.read(1)[384:512, 512:]).all()
        assert one.tags()["ASD_BAD_BLOCKS"] == "1: cols 512-599, rows 384-511 of bands 1, 2, 3"
        assert "ASD_BAD_BLOCKS" not in other.tags()
    assert report.valid_pixels == 700 * 600 - 128 * 88
    box = {"col": 512, "row": 384, "width": 88, "height": 128, "bands": [1, 2, 3]}
    assert (report.bad_block_count, list(report.bad_blocks)) == (1, [box])
    assert caplog.messages == [
        f"{path}: 1 block cannot be read and counts as nodata: cols 512-599, rows 384-511 of bands 1, 2, 3"
    ]
