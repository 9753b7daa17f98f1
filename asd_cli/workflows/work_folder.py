"""The folder beside a target in which a run keeps finished parts until the files are made: claimed, checked, removed.

``anomaly.tif.parts`` holds ``job.json`` (what is made, and from what), a file a part, journals, locks, and notes of the
files that are being written. A run that ends early leaves it, and another goes on.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from asd_cli.errors import InputError, OutputError
from asd_cli.raster.findings import Findings
from asd_cli.raster.parts import JOURNAL, Parts
from asd_cli.raster.windows import Window
from asd_cli.staging import undo_staging, was_renaming, write_beside
from asd_cli.workflows.found_blocks import FoundBlocks
from asd_cli.workflows.locks import Lock, Shard, check_free, claimed
from asd_cli.workflows.map_job import MapJob

_log = logging.getLogger(__name__)
_SUFFIX = ".parts"
_JOB, _NOTES = "job.json", "staged.jsonl"
_OURS = ("job.json*", "lock*", "journal*.jsonl", "*.f32*", "*.hdr", "map.tif*", "map.vrt*", _NOTES, "bad_blocks*")
_BANDS = 1


def work_folder(target: Path) -> Path:
    """Where the parts of a target are kept."""
    return target.with_name(target.name + _SUFFIX)


def target_of(path: Path) -> Path:
    """The target, where `path` is it or its work folder."""
    return path.with_name(path.name.removesuffix(_SUFFIX)) if path.name.endswith(_SUFFIX) else path


def holds_files(target: Path) -> bool:
    """Whether a run was killed while it renamed its files: some that are at its targets are its own, to be redone."""
    return was_renaming(work_folder(target) / _NOTES)


def check_no_leftover(target: Path) -> None:
    """Refuse a target of which another run is working, or has left finished parts.

    Raises:
        OutputError: so it is; the text tells the ways out.
    """
    folder = work_folder(target)
    if not (folder / _JOB).exists():
        return
    check_free(target, folder, None)
    if finished := len(Parts(folder, _BANDS, target=target)):
        raise _leftover(folder, finished)


class WorkFolder:
    """The work folder of a target, claimed by this process; a context, left by `finish` or with something to resume.

    Leaving it by an error keeps the folder if it holds a finished part, and says so; else a folder that was begun is
    removed.
    """

    def __init__(self, target: Path, locks: list[Lock], shard: Shard | None = None) -> None:
        """Use `begin` or `reopen`."""
        self.target, self.folder = target, work_folder(target)
        self.job_file = self.folder / _JOB
        self._begun = False
        self._locks, self._shard = locks, shard
        journal = JOURNAL if shard is None else _journal(shard)
        self.parts = Parts(self.folder, _BANDS, target=target, journal=journal)
        self._job: MapJob | None = None
        self._gone = False

    @classmethod
    def begin(
        cls, target: Path, wanted: MapJob, *, shard: Shard | None = None, resume: bool = False, overwrite: bool = False
    ) -> WorkFolder:
        """Make the folder for a job, or take the one that is there for the same.

        Raises:
            OutputError: another run has it, it was left by one and `resume` is not given, or it cannot be made.
            InputError: it was left by a run of something else.
        """
        folder = work_folder(target)
        while True:
            try:
                folder.mkdir(exist_ok=True)
                work = cls(target, claimed(target, folder, shard), shard)
                break
            except FileNotFoundError as error:  # removed by a run that ended just now
                if not target.parent.is_dir():
                    raise OutputError(f"{folder}: cannot be made; its folder is gone") from error
            except OSError as error:
                raise OutputError(
                    f"{folder}: cannot be made ({error.strerror}); check the name and the folder"
                ) from error
        with work._or_leave():
            shutil.rmtree(_retired(folder), ignore_errors=True)  # a process was killed while it removed it
            work._settle(wanted, resume=resume, overwrite=overwrite)
        work._begun = True
        return work

    @classmethod
    def look(
        cls, target: Path, wanted: MapJob, *, shard: Shard | None = None, resume: bool = False
    ) -> tuple[MapJob, list[Window]]:
        """What a run would make, with the windows that are not finished; nothing is changed.

        Raises:
            OutputError, InputError: as `begin`; but see `check_no_leftover` for a run with neither option.
        """
        work = cls(target, [], shard)
        work._job, finished = wanted, False
        if work.folder.is_dir() and not work.job_file.exists():
            work._check_ours()
        if work.job_file.exists() and (resume or shard is not None):
            check_free(target, work.folder, shard)
            if not resume and work._has_own_parts():
                raise _leftover(work.folder, len(work.parts), shard)
            if finished := shard is not None or len(work.parts) > 0:
                work._job = work._stored_as(wanted)
        return work._job, [window for window in work.windows() if not (finished and window in work.parts)]

    @classmethod
    def reopen(cls, target: Path) -> WorkFolder:
        """The folder that runs have left, for this process alone.

        Raises:
            InputError: there is none. OutputError: another run has it.
        """
        folder = work_folder(target)
        try:
            if not (folder / _JOB).exists():
                raise InputError(
                    f"{target}: has no parts to merge (no {folder}); make them: asd predict ... --shard K/N"
                )
            work = cls(target, claimed(target, folder, None))
        except FileNotFoundError as error:
            raise InputError(f"{folder}: is gone; another run has finished it") from error
        with work._or_leave():
            work._job = work._stored()
            undo_staging(work.notes)
        return work

    @property
    def job(self) -> MapJob:
        """What is made here; the first run's, whose command and windows the others take over."""
        if self._job is None:
            raise RuntimeError("the work folder is not settled")
        return self._job

    @property
    def notes(self) -> Path:
        """For `StagedFiles`."""
        return self.folder / _NOTES

    def found(self, findings: Findings) -> FoundBlocks:
        """Keeps the bad blocks of the scene with the parts."""
        ending = "" if self._shard is None else f"-{self._shard[0]}-of-{self._shard[1]}"
        return FoundBlocks(self.folder, f"bad_blocks{ending}.json", findings)

    def windows(self) -> list[Window]:
        """The parts of this run: all, or those of its shard."""
        return list(self.job.windows()) if self._shard is None else self.job.shard(*self._shard)

    def finished(self) -> int:
        """How many of them are finished."""
        return sum(window in self.parts for window in self.windows())

    def missing(self) -> str | None:
        """What is not finished, for people: `3 of 8 parts (shards 2/4, 3/4)`; None if nothing."""
        windows = list(self.job.windows())
        missing = [window for window in windows if window not in self.parts]
        if not missing:
            return None
        counts = {int(path.stem.rsplit("-", 1)[1]) for path in self.folder.glob("journal-*-of-*.jsonl")}
        text = f"{len(missing)} of {len(windows)} parts"
        if len(counts) != 1:
            return text
        (count,) = counts
        names = [f"{n}/{count}" for n in range(1, count + 1) if not set(self.job.shard(n, count)).isdisjoint(missing)]
        return f"{text} (shard{'s' * (len(names) > 1)} {', '.join(names)})"

    def forget(self) -> None:
        """Let the parts of this run, and of earlier ones like it, count no more."""
        self.parts.close()
        for name in [JOURNAL] if self._shard is None else [_journal(self._shard)]:
            (self.folder / name).unlink(missing_ok=True)
        self.parts.load()

    def finish(self) -> None:
        """Remove the folder: what it was for is made."""
        with suppress(OSError):
            self.notes.unlink(missing_ok=True)
        self._dispose()

    def _settle(self, wanted: MapJob, *, resume: bool, overwrite: bool) -> None:
        alone = self._shard is None
        if not (self.folder / _JOB).exists():
            self._check_ours()
        if alone and not ((self.folder / _JOB).exists() and len(self.parts)):
            self._clear()
        elif not resume and self._has_own_parts():
            if not (overwrite and alone):
                raise _leftover(self.folder, len(self.parts), self._shard)
            _log.info("%s: left by another run, removed (--overwrite)", self.folder)
            self._clear()
        self._store(wanted)
        self._job = self._stored_as(wanted)
        if alone:
            undo_staging(self.notes)
        if resume and (finished := self.finished()):
            _log.info("%s: %d of %d parts are there already", self.folder, finished, len(self.windows()))

    def _has_own_parts(self) -> bool:
        """Whether a run of this kind (whole, or of the same shard) has been here."""
        return self._shard is None or any((self.folder / name).exists() for name in (JOURNAL, _journal(self._shard)))

    def _check_ours(self) -> None:
        strangers = [path.name for path in self.folder.iterdir() if not any(map(path.match, _OURS))]
        if strangers:
            raise OutputError(
                f"{self.folder}: holds other files ({strangers[0]}); it is needed for parts, move it away"
            )

    def _clear(self) -> None:
        """Remove everything but the locks."""
        undo_staging(self.notes, targets=False)
        journals = list(self.folder.glob("journal*"))  # first: without them nothing counts
        others = [path for path in self.folder.iterdir() if not path.match("lock*") and path.name != _JOB]
        for path in [*journals, *others, self.folder / _JOB]:
            path.unlink(missing_ok=True)
        self.parts.load()

    def _store(self, job: MapJob) -> None:
        """Write the job unless there is one; of several processes one is first."""
        path = self.folder / _JOB
        if path.exists():
            return
        try:
            temporary = write_beside(path, json.dumps(job.to_json(), indent=1).encode())
            try:
                os.link(temporary, path)
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                temporary.replace(path)
            finally:
                with suppress(OSError):
                    temporary.unlink()
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror}); check the disk") from error

    def _stored_as(self, wanted: MapJob) -> MapJob:
        job = self._stored()
        if difference := job.difference(wanted):
            raise InputError(
                f"{self.folder}: holds parts of another map, which are never mixed ({difference}); "
                "make it the same again, or remove the folder"
            )
        return job

    def _stored(self) -> MapJob:
        path = self.folder / _JOB
        try:
            return MapJob.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: is damaged or of another version of asd; remove the folder and start again"
            ) from error

    @contextmanager
    def _or_leave(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            if not (self.folder / _JOB).exists() and self._alone():
                with suppress(OSError, OutputError):
                    self._check_ours()
                    self._dispose()
            self._release()
            raise

    def _alone(self) -> bool:
        """Whether no other process is at work here; then none can begin, either."""
        return self._locks[0].alone()

    def _dispose(self) -> None:
        retired = _retired(self.folder)
        shutil.rmtree(retired, ignore_errors=True)
        self._gone = True
        with suppress(OSError):
            self.folder.rename(retired)  # at once: half a folder would look like one to resume
            self._release()  # on network drives open files cannot be removed
            shutil.rmtree(retired, ignore_errors=True)

    def _release(self) -> None:
        self.parts.close()
        for lock in self._locks:
            lock.release()

    def __enter__(self) -> WorkFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._begun and not self._gone:
            self._tell_or_remove()
        self._release()

    def _tell_or_remove(self) -> None:
        with suppress(OSError, OutputError):  # not to hide what went wrong before
            if finished := self.finished():
                text = "%s: %d of %d parts are finished; go on with --resume, of several scenes with --skip-existing"
                _log.info(text, self.folder, finished, len(self.windows()))
                return
            if self._alone():
                self.parts.load()
                if not len(self.parts):
                    self._dispose()


def _journal(shard: Shard) -> str:
    return f"journal-{shard[0]}-of-{shard[1]}.jsonl"


def _retired(folder: Path) -> Path:
    return folder.with_name(f".{folder.name.removesuffix(_SUFFIX)}.done")


def _leftover(folder: Path, finished: int, shard: Shard | None = None) -> OutputError:
    of = "" if shard is None else f", some of shard {shard[0]}/{shard[1]} or of a run without --shard"
    out = "with --overwrite or after removing the folder" if shard is None else "after removing the folder"
    return OutputError(
        f"{folder}: another run has left {finished} finished part{'s' * (finished != 1)}{of}; go on with --resume, or "
        f"start anew {out}"
    )
