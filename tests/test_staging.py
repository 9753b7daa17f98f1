from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from asd_cli.errors import InputError, OutputError
from asd_cli.staging import StagedFiles, check_not_read, check_target, write_text

NAMES = [
    "plain.tif",
    "two words.tif",
    "a[1]*?.tif",
    "ä漢字.gpkg",
    "-dash.tif",
    "no suffix",
    ".hidden",
    "x" * 251 + ".tif",
]


def write_and_fail(target: Path, sides: tuple[str, ...] = ()) -> None:
    with StagedFiles() as staged:
        temporary = staged.stage(target)
        assert temporary.parent == target.parent
        assert temporary.suffix == (target.suffix or ".part")
        temporary.write_text("half")
        for side in sides:
            temporary.with_name(temporary.name + side).write_text("beside")
        raise ZeroDivisionError


def write_both(folder: Path, *, meanwhile: Callable[[], object] = lambda: None) -> None:
    with StagedFiles() as staged:
        for name in ("map.tif", "map.gpkg"):
            staged.stage(folder / name).write_text("mine")
        meanwhile()
        staged.commit()


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_whole_or_absent_under_any_name(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    with pytest.raises(ZeroDivisionError):
        write_and_fail(target, (".aux.xml", "-journal", ".tmp.tif", ".tmp.tif.aux.xml"))
    assert listing(tmp_path) == []
    with StagedFiles() as staged:
        temporary = staged.stage(target)
        temporary.write_text("whole")
        temporary.with_name(temporary.name + "-journal").write_text("beside")
        staged.commit()
    assert listing(tmp_path) == [name]
    assert target.read_text() == "whole"


def test_a_pattern_in_the_name_removes_no_other_file(tmp_path: Path) -> None:
    (tmp_path / ".a1.keep.part.tif").write_text("another run's")
    with StagedFiles() as staged:
        staged.stage(tmp_path / "[ab]*.tif").write_text("half")
    assert listing(tmp_path) == [".a1.keep.part.tif"]


def test_existing_targets_need_overwrite(tmp_path: Path) -> None:
    target = tmp_path / "map.tif"
    target.write_text("old")
    with pytest.raises(OutputError) as caught:
        check_target(target, overwrite=False)
    assert str(caught.value) == f"{target}: exists already; choose another name or add --overwrite"
    with StagedFiles(overwrite=True) as staged:
        staged.stage(target).write_text("new")
        assert target.read_text() == "old"
        staged.commit()
    assert target.read_text() == "new"


def test_an_old_files_side_files_go_with_it(tmp_path: Path) -> None:
    for name in (
        "map.tif",
        "map.tif.aux.xml",
        "map.tif.ovr",
        "map.tif.msk",
        "map.gpkg",
        "map.gpkg-wal",
        "map.gpkg-shm",
    ):
        (tmp_path / name).write_text("old")
    (tmp_path / "map.tif.txt").write_text("notes")
    with StagedFiles(overwrite=True) as staged:
        for name in ("map.tif", "map.gpkg"):
            staged.stage(tmp_path / name).write_text("new")
        staged.commit()
    assert listing(tmp_path) == ["map.gpkg", "map.tif", "map.tif.txt"]


def test_a_target_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    second = tmp_path / "map.gpkg"
    with pytest.raises(OutputError, match="exists already"):
        write_both(tmp_path, meanwhile=lambda: second.write_text("theirs"))
    assert listing(tmp_path) == ["map.gpkg"]
    assert second.read_text() == "theirs"


def test_all_or_none_when_renaming_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if target.suffix == ".gpkg":
            raise PermissionError(13, "Permission denied")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OutputError) as caught:
        write_both(tmp_path)
    target = tmp_path / "map.gpkg"
    assert str(caught.value) == f"{target}: cannot be written (Permission denied); check the name and the folder"
    assert listing(tmp_path) == []


def test_folders_that_cannot_take_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "nowhere" / "map.tif"
    with pytest.raises(OutputError) as caught:
        check_target(missing, overwrite=True)
    assert str(caught.value) == f"{missing}: the folder {missing.parent} does not exist; create it first (mkdir -p)"
    with pytest.raises(OutputError, match="is a folder; name a file"):
        check_target(tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="File name too long"):
        check_target(tmp_path / ("x" * 300 + ".tif"), overwrite=True)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="cannot be written to"):
        check_target(tmp_path / "map.tif", overwrite=True)


def test_a_folder_that_vanishes_hides_no_error(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()

    def vanish() -> None:
        shutil.rmtree(folder)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_both(folder, meanwhile=vanish)


def test_what_is_read_is_never_a_target(tmp_path: Path) -> None:
    read = tmp_path / "read.tif"
    read.write_bytes(b"1")
    (tmp_path / "link.tif").symlink_to(read)
    check_not_read([tmp_path / "new.tif"], [read, "/vsimem/x", "a\0b"])
    for target in (read, tmp_path / "link.tif"):
        with pytest.raises(InputError, match="is among the files that are read; choose another output name"):
            check_not_read([target], [str(read)])


def test_text_is_whole_or_absent(tiny_disk: Path) -> None:
    target = tiny_disk / "report.json"
    write_text(target, "ä\n", overwrite=False)
    assert target.read_bytes() == "ä\n".encode()
    with pytest.raises(OutputError, match="exists already"):
        write_text(target, "new", overwrite=False)
    with pytest.raises(OutputError) as caught:
        write_text(target, "x" * 3_000_000, overwrite=True)
    reason = "No space left on device"
    assert str(caught.value) == f"{target}: cannot be written ({reason}); check the free space and the permissions"
    assert target.read_bytes() == "ä\n".encode()
    assert list(tiny_disk.iterdir()) == [target]
