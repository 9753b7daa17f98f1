"""Locks between processes, on files; they end with the process that holds them."""

from __future__ import annotations

import logging
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO

from asd_cli.errors import OutputError

_log = logging.getLogger(__name__)


class Lock:
    """A lock on a file, which stays. Shared ones exclude only those that are not."""

    def __init__(self, file: IO[bytes]) -> None:
        """Use `take`."""
        self._file = file

    @classmethod
    def take(cls, path: Path, *, shared: bool = False) -> Lock | None:
        """The lock; None if another process, or thread, has it.

        Raises:
            FileNotFoundError: the folder is missing, or was removed meanwhile.
            OSError: the file cannot be opened.
        """
        file = path.open("ab+", buffering=0)
        try:
            if not _locked(file, shared=shared):
                file.close()
                return None
            if path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                raise FileNotFoundError(path)
            with suppress(OSError):  # a full disk, perhaps
                file.truncate(0)
                if not shared:
                    file.write(f"process {os.getpid()} on {platform.node()}".encode())
        except BaseException:
            file.close()
            raise
        return cls(file)

    @staticmethod
    def holder(path: Path) -> str:
        """Who has a lock, as far as the file tells: ` (process 123 on host)` or nothing."""
        try:
            text = path.read_text(encoding="utf-8")
        except OSError:
            return ""
        return f" ({text})" if text else ""

    def alone(self) -> bool:
        """Whether no one shares the lock; then no one can take it any more."""
        return _locked(self._file, shared=False)

    def release(self) -> None:
        """Give it back."""
        self._file.close()


def _locked(file: IO[bytes], *, shared: bool) -> bool:
    if sys.platform == "win32":  # without locks two runs at once make the same file twice
        return True
    import fcntl

    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        _log.warning(
            "%s: this file system has no locks (%s); see that no two runs write the same map", file.name, error
        )
    return True


def claimed(target: Path, path: Path, *, shared: bool = False) -> Lock:
    """The lock at `path`, for a run that writes `target`.

    Raises:
        OutputError: another run has it, or it cannot be made. FileNotFoundError: its folder is gone.
    """
    try:
        lock = Lock.take(path, shared=shared)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be locked ({error.strerror}); check its permissions") from error
    if lock is None:
        raise OutputError(f"{target}: another run{Lock.holder(path)} is writing it; wait for it or choose another name")
    return lock
