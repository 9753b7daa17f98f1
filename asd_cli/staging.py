"""Files that are whole or absent: written under a temporary name beside the target, renamed when complete."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from types import TracebackType

from asd_cli.errors import OutputError


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse a target that cannot be written, before any work.

    Raises:
        OutputError: the folder is missing or read-only, the target is a folder, or it exists and `overwrite` is false.
    """
    folder = target.parent
    if not folder.is_dir():
        raise OutputError(f"{target}: the folder {folder} does not exist; create it first (mkdir -p)")
    if target.is_dir():
        raise OutputError(f"{target}: is a folder; name a file")
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: exists already; choose another name or add --overwrite")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{target}: the folder {folder} cannot be written to")


class StagedFiles:
    """Context in which targets are written under temporary names; `commit` renames them, leaving without it removes
    them.

    Several targets of one run (raster, polygons) are committed together, so that either all appear or none.
    """

    def __init__(self, *, overwrite: bool = False) -> None:
        self._overwrite = overwrite
        self._staged: list[tuple[Path, Path]] = []

    def stage(self, target: Path) -> Path:
        """Check `target` and return the temporary path (same folder, same suffix) to write instead."""
        check_target(target, overwrite=self._overwrite)
        temporary = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:8]}.part{target.suffix}")
        self._staged.append((temporary, target))
        return temporary

    def commit(self) -> None:
        """Move every staged file to its target."""
        for _, target in self._staged:
            check_target(target, overwrite=self._overwrite)
        for temporary, target in self._staged:
            temporary.replace(target)
        self._staged.clear()

    def __enter__(self) -> StagedFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for temporary, _ in self._staged:
            for leftover in temporary.parent.glob(f"{temporary.name}*"):
                leftover.unlink(missing_ok=True)
        self._staged.clear()
