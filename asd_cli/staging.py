"""Files that are whole or absent: written under a temporary name beside the target, renamed when complete."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from asd_cli.errors import InputError, OutputError, TargetError

_NAME_START = 40  # characters of the target's name in the temporary one, which must not grow too long by its additions
_SIDE_FILES = (".aux.xml", ".ovr", ".msk", "-wal", "-shm", "-journal")


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse a target that cannot be written, before any work.

    Raises:
        TargetError: the folder is missing or read-only, the target is a folder, or it exists and `overwrite` is false.
    """
    folder = target.parent
    try:
        os.fspath(target).encode()
    except UnicodeEncodeError as error:  # GDAL could not write it
        raise OutputError(f"{target}: the name is not UTF-8; choose another") from error
    try:
        if not folder.is_dir():
            raise TargetError(f"{target}: the folder {folder} does not exist; create it first (mkdir -p)")
        if target.is_dir():
            raise TargetError(f"{target}: is a folder; name a file")
        if target.exists() and not overwrite:
            raise TargetError(f"{target}: exists already; choose another name or add --overwrite")
    except OSError as error:  # a name that is too long, a folder that cannot be searched
        raise TargetError(str(_unwritable(target, error))) from error
    if not os.access(folder, os.W_OK):
        raise TargetError(f"{target}: the folder {folder} cannot be written to")


def check_not_read(targets: Iterable[Path], files: Iterable[str | Path]) -> None:
    """Refuse targets that are among `files`, which the run reads; names that are no files are passed over.

    Raises:
        InputError: one is, under whatever name.
    """
    read = {identity for name in files if (identity := _identity(name)) is not None}
    for target in targets:
        if _identity(target) in read:
            raise InputError(f"{target}: is among the files that are read; choose another output name")


def _identity(name: str | Path) -> tuple[int, int] | None:
    try:
        status = Path(name).stat()
    except (OSError, ValueError):  # no file, or a name of GDAL's own
        return None
    return status.st_dev, status.st_ino


def _unwritable(target: Path, error: OSError) -> OutputError:
    return OutputError(f"{target}: cannot be written ({error.strerror}); check the name and the folder")


def _remove_side_files(target: Path) -> None:
    for ending in _SIDE_FILES:
        with suppress(OSError):
            target.with_name(target.name + ending).unlink()


def write_beside(path: Path, data: bytes | memoryview) -> Path:
    """Write data to the disk under a temporary name beside `path`, for the caller to rename; a failure leaves nothing.

    Raises:
        OSError: the disk is full or failing.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    return temporary


class StagedFiles:
    """Context in which targets are written under temporary names; `commit` renames them, leaving without it removes
    them.

    Several targets of one run (raster, polygons) are committed together, so that either all appear or none. `notes` is
    a file that tells `undo_staging` what a process was about that was killed.
    """

    def __init__(self, *, overwrite: bool = False, notes: Path | None = None) -> None:
        self._overwrite, self._notes = overwrite, notes
        self._staged: list[tuple[Path, Path]] = []

    def stage(self, target: Path) -> Path:
        """Check `target` and return the temporary path (same folder, same suffix) to write instead."""
        check_target(target, overwrite=self._overwrite)
        start = target.stem[:_NAME_START]
        temporary = target.with_name(f".{start}.{uuid.uuid4().hex[:8]}.part{target.suffix}")
        self._note(temporary, target)
        self._staged.append((temporary, target))
        return temporary

    def commit(self) -> None:
        """Move every staged file to its target.

        Raises:
            OutputError: a target has appeared meanwhile or cannot be written; targets that are new are gone again.

        Side files of what is replaced (statistics, overviews, journals) go with it: they would count as the new one's.
        """
        for _, target in self._staged:
            check_target(target, overwrite=self._overwrite)
        self._note()
        try:
            self._rename()
        except BaseException:
            if self._notes is not None:  # what is at the targets now is not ours to undo
                self._notes.unlink(missing_ok=True)
            raise

    def _rename(self) -> None:
        new: list[Path] = []
        for temporary, target in self._staged:
            existed = target.exists()
            try:
                temporary.replace(target)
            except OSError as error:
                for path in new:
                    path.unlink(missing_ok=True)
                raise _unwritable(target, error) from error
            if not existed:
                new.append(target)
        for _, target in self._staged:
            if target not in new:
                _remove_side_files(target)

    def _note(self, *paths: Path) -> None:
        """Note a temporary file and its target, relative to the notes; without any, that they are being renamed."""
        if self._notes is None:
            return
        try:
            with self._notes.open("a", encoding="utf-8") as file:
                file.write(json.dumps([os.path.relpath(path, self._notes.parent) for path in paths]) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _unwritable(self._notes, error) from error

    def __enter__(self) -> StagedFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for temporary, _ in self._staged:
            with suppress(OSError):  # not to hide what went wrong before
                for leftover in list(temporary.parent.iterdir()):
                    if leftover.name.startswith(temporary.name):  # side files of GDAL's and SQLite's too
                        leftover.unlink()
        self._staged.clear()


def write_text(target: Path, text: str, *, overwrite: bool) -> None:
    """Write a text file, in UTF-8, whole or not at all.

    Raises:
        TargetError: see `check_target`. OutputError: it cannot be written.
    """
    with StagedFiles(overwrite=overwrite) as staged:
        try:
            staged.stage(target).write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"{target}: cannot be written ({error.strerror}); check the free space and the permissions"
            ) from error
        staged.commit()


def undo_staging(notes: Path, *, targets: bool = True) -> None:
    """Remove what a killed process has left by `StagedFiles` with these `notes`: temporary files, and what it had
    renamed to its `targets`.

    Raises:
        OutputError: something cannot be removed.
    """
    try:
        noted = _noted(notes)
        renaming = [] in noted
        for temporary, target in filter(None, noted):
            if targets and renaming and not temporary.exists():
                target.unlink(missing_ok=True)
            for leftover in list(temporary.parent.iterdir()):
                if leftover.name.startswith(temporary.name):
                    leftover.unlink()
        notes.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(notes, error) from error


def was_renaming(notes: Path) -> bool:
    """Whether a process was killed while, or after, it renamed its files: some of the targets are its own."""
    try:
        return [] in _noted(notes)
    except OSError:
        return False


def _noted(notes: Path) -> list[list[Path]]:
    """Temporary files with their targets; an empty entry where renaming began."""
    lines = notes.read_text(encoding="utf-8").split("\n")[:-1] if notes.exists() else []
    return [[notes.parent / name for name in json.loads(line)] for line in lines]
