from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from asd_cli.errors import AsdError, InputError
from asd_cli.options import PredictOptions
from asd_cli.workflows.jobs import Job, check_targets, find_jobs, find_scenes


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: scenes/a.tif, scenes/b.tif, scenes/c[1].tif, and an empty folder maps."""
    (tmp_path / "scenes").mkdir()
    (tmp_path / "maps").mkdir()
    for name in ("b.tif", "a.tif", "c[1].tif"):
        (tmp_path / "scenes" / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(*scenes: str, output: str = "anomaly.tif", **options: Any) -> list[Job]:
    given = PredictOptions(scenes=scenes, output=output, **options)
    jobs = find_jobs(given)
    check_targets(jobs, given)
    return jobs


def refusal(*scenes: str, **options: Any) -> str:
    with pytest.raises(AsdError) as caught:
        planned(*scenes, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_one_scene_and_a_file() -> None:
    style = (Path("anomaly.qml"),)
    assert planned("scenes/a.tif") == [Job("scenes/a.tif", Path("anomaly.tif"), Path("anomaly.gpkg"), style)]
    assert planned("scenes/a.tif", write_polygons=False, style=False)[0].targets() == [Path("anomaly.tif")]
    assert planned("a.tif", output="a.b.TIF")[0].polygons == Path("a.b.gpkg")


@pytest.mark.parametrize("output", ["maps", "maps/"])
def test_a_folder_takes_one_scene_or_several(output: str) -> None:
    one = planned("scenes/a.tif", output=output)
    several = planned("scenes/[ab].tif", "scenes/c[1].tif", output=output)
    assert [job.raster.as_posix() for job in one] == ["maps/a_anomaly.tif"]
    assert [job.raster.as_posix() for job in several] == [f"maps/{n}_anomaly.tif" for n in ("a", "b", "c[1]")]
    assert [job.scene for job in several] == ["scenes/a.tif", "scenes/b.tif", "scenes/c[1].tif"]


@pytest.mark.parametrize(
    ("scene", "name"),
    [
        ("/vsizip/x.zip/deep/s2.tif", "s2"),
        ("/vsigzip/s2.tif.gz", "s2"),
        ("/vsizip/s2.zip", "s2"),
        ("s2.2024.vrt", "s2.2024"),
        ("-dash.tif", "-dash"),
        ("ä 漢.tif", "ä 漢"),
    ],
)
def test_maps_in_folders_are_called_as_their_scenes(scene: str, name: str) -> None:
    assert planned(scene, output="maps/")[0].raster == Path(f"maps/{name}_anomaly.tif")


def test_globs() -> None:
    assert list(find_scenes("scenes/*.tif")) == ["scenes/a.tif", "scenes/b.tif", "scenes/c[1].tif"]
    assert list(find_scenes("**/a.tif")) == ["scenes/a.tif"]
    assert list(find_scenes("scenes/c[1].tif")) == ["scenes/c[1].tif"]  # the file itself, no pattern
    assert list(find_scenes("/vsizip/a*.zip/b[1].tif")) == ["/vsizip/a*.zip/b[1].tif"]
    assert refusal("scenes/*.jp2") == "scenes/*.jp2: matches no file; check the pattern and the current folder"
    assert refusal("[" + "x" * 5000).endswith("matches no file; check the pattern and the current folder")


def test_lists(folder: Path) -> None:
    (folder / "lists").mkdir()
    listed = folder / "lists" / "today.txt"
    listed.write_bytes(b"\xef\xbb\xbf# today\r\n\r\n  scenes/a.tif  \n  # more\nscenes/[b].tif\n/vsizip/x.zip/y.tif\n")
    jobs = planned("@lists/today.txt", output="maps")
    assert [job.scene for job in jobs] == ["scenes/a.tif", "scenes/b.tif", "/vsizip/x.zip/y.tif"]
    assert refusal("@nope.txt") == "@nope.txt: no such list; name a text file with one scene a line"
    listed.write_text("# nothing\n\n")
    assert refusal("@lists/today.txt") == "@lists/today.txt: the list holds no scene; write one path a line"
    listed.write_text("scenes/*.jp2\n")
    assert "scenes/*.jp2: matches no file" in refusal("@lists/today.txt")
    listed.write_text("@lists/today.txt\n")
    text = "@lists/today.txt: names another list, @lists/today.txt; give both on the command line"
    assert refusal("@lists/today.txt") == text
    listed.write_bytes(b"II*\x00\xff\xfe\xfa")
    assert refusal("@lists/today.txt").startswith("@lists/today.txt: cannot be read as a list of scenes")
    assert refusal("@lists").startswith("@lists: cannot be read as a list of scenes")


def test_nothing_to_do() -> None:
    assert refusal() == "no scene given; name a raster, a glob, or @list.txt"


def test_polygons_go_where_they_are_told() -> None:
    assert planned("a.tif", polygons=".fgb")[0].polygons == Path("anomaly.fgb")
    assert planned("a.tif", polygons=".GeoJSON")[0].polygons == Path("anomaly.geojson")
    assert planned("a.tif", polygons="maps/x.parquet")[0].polygons == Path("maps/x.parquet")
    assert planned("a.tif", "b.tif", output="maps", polygons=".geojson")[1].polygons == Path("maps/b_anomaly.geojson")


def test_polygons_that_cannot_be_written() -> None:
    four = ".gpkg, .geojson, .fgb, .parquet"
    assert refusal("a.tif", polygons="x.shp") == f"x.shp: polygons cannot be written as '.shp'; use {four}"
    assert refusal("a.tif", polygons=".shp") == f"anomaly.shp: polygons cannot be written as '.shp'; use {four}"
    text = "--polygons x.gpkg: for several scenes give a suffix only, such as .geojson"
    assert refusal("a.tif", "b.tif", output="maps", polygons="x.gpkg") == text
    text = "--polygons and --no-polygons exclude each other; give one of them"
    assert refusal("a.tif", polygons=".fgb", write_polygons=False) == text
    assert "the folder nowhere does not exist" in refusal("a.tif", polygons="nowhere/x.gpkg")


def test_outputs_that_are_no_geotiff_or_folder() -> None:
    text = "no such folder, and no name of a GeoTIFF; create the folder first (mkdir -p) or name the map"
    assert refusal("a.tif", output="new") == f"-o new: {text} new.tif"
    assert refusal("a.tif", output="anomaly.png") == f"-o anomaly.png: {text} anomaly.tif"
    text = "new/a_anomaly.tif: the folder new does not exist; create it first (mkdir -p)"
    assert refusal("a.tif", output="new/") == text
    text = "-o x.tif: 2 scenes need an existing folder; create it first (mkdir -p)"
    assert refusal("a.tif", "b.tif", output="x.tif") == text


def test_two_scenes_to_one_file() -> None:
    text = "maps/a_anomaly.tif: would be written for both scenes/a.tif and other/a.tif; run them separately"
    assert refusal("scenes/a.tif", "other/a.tif", output="maps") == text


def test_targets_that_exist(folder: Path) -> None:
    (folder / "anomaly.gpkg").touch()
    text = "anomaly.gpkg: exists already; choose another name or add --overwrite"
    assert refusal("scenes/a.tif") == text
    assert planned("scenes/a.tif", overwrite=True)
    assert planned("scenes/a.tif", write_polygons=False)
    for name in ("anomaly.qml", "anomaly.json", "anomaly.png"):
        (folder / name).touch()
        text = f"{name}: exists already; choose another name or add --overwrite"
        assert refusal("scenes/a.tif", write_polygons=False, stac=True, quicklook=".png") == text
        (folder / name).unlink()


def test_side_files_go_beside_what_they_belong_to() -> None:
    one = planned("a.tif", output="maps/x.tif", polygons="y.geojson", stac=True, quicklook="maps/z.PNG")[0]
    assert one.styles == (Path("maps/x.qml"), Path("y.qml"))
    assert (one.stac, one.quicklook) == (Path("maps/x.json"), Path("maps/z.PNG"))
    assert one.results() == [Path(n) for n in ("maps/x.tif", "y.geojson", "maps/x.json", "maps/z.PNG")]
    assert one.targets() == [*one.results(), *one.styles]
    several = planned("scenes/[ab].tif", output="maps", stac=True, quicklook=".png")
    assert [job.quicklook for job in several] == [Path(f"maps/{n}_anomaly.png") for n in "ab"]
    assert [job.stac for job in several] == [Path(f"maps/{n}_anomaly.json") for n in "ab"]
    assert planned("a.tif", write_polygons=False)[0].styles == (Path("anomaly.qml"),)
    assert planned("a.tif", style=False)[0].styles == ()


def test_quicklooks_that_cannot_be_written() -> None:
    assert refusal("a.tif", quicklook="q.jpg") == "q.jpg: a quicklook cannot be written as '.jpg'; use .png"
    assert refusal("a.tif", quicklook=".jpg") == "anomaly.jpg: a quicklook cannot be written as '.jpg'; use .png"
    text = "--quicklook: the name is empty (an unset variable?); name a PNG file or give .png"
    assert refusal("a.tif", quicklook="") == text
    text = "--quicklook q.png: for several scenes give a suffix only: .png"
    assert refusal("a.tif", "b.tif", output="maps", quicklook="q.png") == text
    assert "the folder nowhere does not exist" in refusal("a.tif", quicklook="nowhere/x.png")


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_scene_is_never_written_over(folder: Path, overwrite: bool) -> None:
    text = "is among the files that are read; choose another output name"
    found = refusal("scenes/a.tif", output="./scenes/../scenes/a.tif", overwrite=overwrite)
    assert found == f"scenes/../scenes/a.tif: {text}"
    os.link(folder / "scenes" / "a.tif", folder / "link.tif")
    assert refusal("scenes/a.tif", output="link.tif", overwrite=overwrite) == f"link.tif: {text}"
    (folder / "scenes" / "a_anomaly.tif").touch()
    found = refusal("scenes/a.tif", "scenes/a_anomaly.tif", output="scenes", overwrite=overwrite)
    assert found == f"scenes/a_anomaly.tif: {text}"


def test_threshold_and_rate_exclude_each_other() -> None:
    with pytest.raises(InputError, match="--threshold and --false-alarm-rate exclude each other; give one of them"):
        find_jobs(PredictOptions(scenes=("a.tif",), output="b.tif", threshold=0.4, false_alarm_rate=0.01))


def test_an_empty_name_is_no_folder() -> None:
    with pytest.raises(
        InputError, match=r"^-o: the name is empty \(an unset variable\?\); name a GeoTIFF or a folder$"
    ):
        find_jobs(PredictOptions(scenes=("a.tif",), output=""))
