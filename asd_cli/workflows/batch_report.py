"""What becomes of the scenes of one call of `asd predict`: status, summary, exit code and the file of `--report`.

The report is one JSON object; `null` stands for what is not known::

    asd_batch_report   1, the version of this layout
    asd_version, command
    shard              K/N; counts are of this shard alone then, and the files are made by asd merge
    status             running | done | partial (some scenes failed, others did not) | failed | interrupted
    exit_code          0 | 3 | 1 | 130; null while running
    error              what ended the run early, in one line
    seconds            so far
    totals             scenes, those of each status, and sums of pixels, valid_pixels, anomalous_pixels, polygon_count,
                       bad_block_count
    scenes             one object each, in the order given:
      scene            as given
      status           done | failed | skipped (its files were there) | interrupted | waiting (not begun)
      seconds          spent on it
      width, height    of the scene
      pixels           of it, or of the shard's parts
      valid_pixels, anomalous_pixels, polygon_count
      raster, polygons files to be written; those of scenes not done are not there, or older
      files            these, and STAC item, quicklook and styles
      bad_block_count  blocks of the scene that could not be read and were masked
      bad_blocks       the first 1000 of them: col, row, width, height, bands
      error            why it failed
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asd_cli import __version__
from asd_cli.errors import AsdError, BatchError, InputError, OutputError, TargetError
from asd_cli.options import PredictOptions
from asd_cli.staging import check_not_read, check_target, write_text
from asd_cli.workflows.jobs import Job

_log = logging.getLogger(__name__)
_VERSION_KEY = "asd_batch_report"
_STATUSES = ("done", "failed", "skipped", "interrupted", "waiting")
_OF_A_MAP = ("width", "height", "pixels", "valid_pixels", "anomalous_pixels", "polygon_count")
_SUMS = ("pixels", "valid_pixels", "anomalous_pixels", "polygon_count", "bad_block_count")
_BETWEEN_WRITES = 5.0  # seconds


@dataclass
class Outcome:
    """What became of one scene; `facts` are those of its `PredictReport`, if it has one."""

    job: Job
    status: str = "waiting"
    seconds: float = 0.0
    error: str | None = None
    facts: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """As in the report."""
        facts = self.facts or {}
        return {
            "scene": self.job.scene,
            "status": self.status,
            "seconds": round(self.seconds, 3),
            **{key: facts.get(key) for key in _OF_A_MAP},
            "raster": str(self.job.raster),
            "polygons": None if self.job.polygons is None else str(self.job.polygons),
            "files": [str(path) for path in self.job.targets()],
            "bad_block_count": facts.get("bad_block_count", 0),
            "bad_blocks": list(facts.get("bad_blocks", ())),
            "error": self.error,
        }


class Batch:
    """The scenes of one call, and what has become of each."""

    def __init__(self, jobs: Sequence[Job], options: PredictOptions) -> None:
        self._skip, self._path, self._command = options.on_error == "skip", options.report, options.command
        self._shard = options.shard
        self._outcomes = {job: Outcome(job) for job in jobs}
        self._start = self._written = time.monotonic()

    def waiting(self) -> list[Job]:
        """Jobs of which nothing has become yet."""
        return [job for job, outcome in self._outcomes.items() if outcome.status == "waiting"]

    def count(self, status: str) -> int:
        """How many scenes have a status."""
        return sum(outcome.status == status for outcome in self._outcomes.values())

    def failures(self) -> dict[str, str]:
        """Errors by scene."""
        return {job.scene: outcome.error for job, outcome in self._outcomes.items() if outcome.error is not None}

    @contextmanager
    def attempt(self, job: Job) -> Iterator[None]:
        """Work on a scene. With `--on-error skip` what is wrong with it, or with its targets, is told and goes no
        further; what cannot be written (a full disk) ends the batch, as the next scene would not fare better."""
        start, outcome = time.monotonic(), self._outcomes[job]
        try:
            yield
        except (InputError, TargetError) as error:
            outcome.status, outcome.error = "failed", str(error)
            if not self._skip:
                raise
            _log.error("%s", error)
        except KeyboardInterrupt:
            outcome.status = "interrupted"
            raise
        except BaseException as error:
            known = isinstance(error, AsdError)
            outcome.status = "failed"
            outcome.error = str(error) if known else f"unexpected: {type(error).__name__}: {error}"
            raise
        finally:
            outcome.seconds += time.monotonic() - start

    def done(self, job: Job, facts: dict[str, Any]) -> None:
        """A scene is mapped."""
        self._outcomes[job].status, self._outcomes[job].facts = "done", facts
        if self._path is not None and time.monotonic() - self._written > _BETWEEN_WRITES:
            with suppress(OutputError):  # the last one counts
                self._write("running", None, None)

    def skipped(self, job: Job) -> None:
        """The files of a scene are there."""
        self._outcomes[job].status = "skipped"
        _log.info("%s: skipped, there is %s already", job.scene, " and ".join(map(str, job.results())))

    def summary(self) -> str:
        """One line on all scenes."""
        sums, parts = self._sums(), [f"{self.count(status)} {status}" for status in _STATUSES if self.count(status)]
        return (
            f"{len(self._outcomes)} scenes: {', '.join(parts)}; {sums['anomalous_pixels']} of {sums['valid_pixels']} "
            f"valid pixels anomalous, {sums['polygon_count']} polygons, {time.monotonic() - self._start:.1f} s"
        )

    def as_json(self, status: str, exit_code: int | None, error: str | None) -> dict[str, Any]:
        """See the module."""
        return {
            _VERSION_KEY: 1,
            "asd_version": __version__,
            "command": self._command,
            "shard": None if self._shard is None else "/".join(map(str, self._shard)),
            "status": status,
            "exit_code": exit_code,
            "error": error,
            "seconds": round(time.monotonic() - self._start, 3),
            "totals": self._sums(),
            "scenes": [outcome.as_json() for outcome in self._outcomes.values()],
        }

    def check_report(self) -> None:
        """Refuse a report that would replace anything but an earlier report, with `--overwrite` too.

        Raises:
            InputError: it is a scene or a target.
            TargetError: it cannot be written, or exists and is no such report.
        """
        if self._path is None:
            return
        check_not_read([self._path], [job.scene for job in self._outcomes])
        if self._path in {target for job in self._outcomes for target in job.targets()}:
            raise InputError(f"--report {self._path}: is also the name of a map; choose another")
        check_target(self._path, overwrite=True)
        if _exists_otherwise(self._path):
            raise TargetError(f"--report {self._path}: exists and is no report of an earlier run; choose another name")

    @contextmanager
    def reported(self) -> Iterator[None]:
        """Write the report at the end, whatever the end is; summarise several scenes; fail if scenes failed.

        Raises:
            BatchError: scenes failed.
            OutputError: the report cannot be written.
        """
        self.check_report()
        try:
            yield
            if len(self._outcomes) > 1:
                _log.info("%s", self.summary())
            self.conclude()
        except BaseException as error:
            status, code = _ending(error)
            text = f"{type(error).__name__}: {error}" if code is None else str(error) or None
            if self._path is not None:
                try:
                    self._write(status, code, text)
                except OutputError as unwritten:  # not to hide what went wrong before
                    _log.warning("%s", unwritten)
            raise
        self._write("done", 0, None)

    def conclude(self) -> None:
        """Fail if scenes failed.

        Raises:
            BatchError: exit code 3, or 1 where no scene went well.
        """
        failed, count = self.count("failed"), len(self._outcomes)
        if failed == count:
            raise BatchError("the scene failed" if count == 1 else f"all {count} scenes failed", exit_code=1)
        if failed:
            raise BatchError(f"{failed} of {count} scenes failed, see above", exit_code=3)

    def _sums(self) -> dict[str, int]:
        scenes = [outcome.as_json() for outcome in self._outcomes.values()]
        counts = Counter(scene["status"] for scene in scenes)
        return {
            "scenes": len(scenes),
            **{status: counts[status] for status in _STATUSES},
            **{key: sum(scene[key] or 0 for scene in scenes) for key in _SUMS},
        }

    def _write(self, status: str, exit_code: int | None, error: str | None) -> None:
        if self._path is None:
            return
        text = json.dumps(self.as_json(status, exit_code, error), indent=2) + "\n"
        write_text(self._path, text, overwrite=True)
        self._written = time.monotonic()


def _ending(error: BaseException) -> tuple[str, int | None]:
    """Status and exit code of a run that ends with an error; no code where it is our mistake."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, BatchError):
        return ("partial" if error.exit_code == 3 else "failed"), error.exit_code
    return "failed", error.exit_code if isinstance(error, AsdError) else None


def _exists_otherwise(path: Path) -> bool:
    """Whether there is a file, and not the report of an earlier run."""
    try:
        with path.open(encoding="utf-8") as file:
            return _VERSION_KEY not in file.read(100)
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True
