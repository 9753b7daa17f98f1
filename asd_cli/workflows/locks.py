"""Locks between processes, on files; they end with the process that holds them."""

from __future__ import annotations

import logging
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from asd_cli.errors import OutputError

_log = logging.getLogger(__name__)
_LOCK = "lock"
Shard = tuple[int, int]


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
    def held(path: Path, *, shared: bool = False) -> bool:
        """Whether another process, or thread, has a lock; nothing is changed.

        Raises:
            OSError: the file is missing or cannot be opened.
        """
        with path.open("rb+") as file:
            return not _locked(file, shared=shared)

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


def claimed(target: Path, folder: Path, shard: Shard | None) -> list[Lock]:
    """The locks of a run that writes `target` and has this work folder: of the folder, which shards share, and of the
    shard.

    Raises:
        OutputError: another run has one, or it cannot be made. FileNotFoundError: the folder is gone.
    """
    with ExitStack() as stack:
        locks = []
        for path, shared in _files(folder, shard):
            with _opened(path):
                lock = Lock.take(path, shared=shared)
            if lock is None:
                raise _in_use(target, path)
            stack.callback(lock.release)
            locks.append(lock)
        stack.pop_all()
    return locks


def check_free(target: Path, folder: Path, shard: Shard | None) -> None:
    """Fail where another run has what `claimed` would take; nothing is changed.

    Raises:
        OutputError: so it is, or a lock cannot be looked at.
    """
    for path, shared in _files(folder, shard):
        with _opened(path), suppress(FileNotFoundError):
            if Lock.held(path, shared=shared):
                raise _in_use(target, path)


def _files(folder: Path, shard: Shard | None) -> list[tuple[Path, bool]]:
    """Those of a run, and whether it shares them."""
    whole = (folder / _LOCK, shard is not None)
    return [whole] if shard is None else [whole, (folder / f"{_LOCK}-{shard[0]}-of-{shard[1]}", False)]


@contextmanager
def _opened(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be locked ({error.strerror}); check its permissions") from error


def _in_use(target: Path, path: Path) -> OutputError:
    return OutputError(f"{target}: another run{Lock.holder(path)} is writing it; wait for it or choose another name")
