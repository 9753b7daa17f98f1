"""`asd predict --dry-run`: all checks, and what mapping would take; nothing is written."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asd_cli.errors import InputError
from asd_cli.nn.devices import resolve_devices, torch_threads
from asd_cli.options import PredictOptions
from asd_cli.raster.scene import Scene
from asd_cli.raster.windows import Window, write_windows
from asd_cli.raster.writer import BLOCK
from asd_cli.workflows.batch_report import Batch
from asd_cli.workflows.jobs import Job, find_jobs
from asd_cli.workflows.mapping import InTurns, read_window
from asd_cli.workflows.memory import MIB
from asd_cli.workflows.predict import Prepared, prepare
from asd_cli.workflows.predict_scene import Shared, map_job
from asd_cli.workflows.stages import StageClock
from asd_cli.workflows.work_folder import WorkFolder, work_folder

_log = logging.getLogger(__name__)
_SAMPLE = 2 * BLOCK  # side of the pixels that are scored
_PLACES = 9  # where pixels are looked for that are not all nodata
_MEASURING = 10.0  # seconds; scenes after that are taken to be as fast as those before
_OVERVIEWS = 4 / 3


@dataclass(frozen=True)
class Sample:
    """Scoring a part of a scene took `seconds` for `blocks` of the model."""

    window: Window
    blocks: int
    seconds: float


@dataclass(frozen=True)
class DryRun:
    """The plan: `scenes` in the order given, each JSON-ready, and how the times were estimated."""

    scenes: Sequence[Mapping[str, Any]]
    estimated: str
    batch: Batch

    def totals(self) -> dict[str, Any]:
        """Sums over the scenes that would be mapped."""
        planned = [scene for scene in self.scenes if scene["status"] == "planned"]
        sums = {key: sum(scene[key] for scene in planned) for key in ("pixels", "windows", "raster_bytes", "seconds")}
        most = {key: max((scene[key] for scene in planned), default=0) for key in ("memory_bytes", "working_bytes")}
        statuses = {
            f"{name}": sum(s["status"] == name for s in self.scenes) for name in ("planned", "skipped", "failed")
        }
        return {"scenes": len(self.scenes), **statuses, **sums, **most}

    def as_json(self) -> dict[str, Any]:
        """scenes: status (planned, skipped, failed), size, bands, shard (pixels, windows, bytes and seconds are
        its own), windows (their count) and window (their side in pixels), windows_finished (by earlier runs; pixels,
        windows, working_bytes and seconds leave them out), workers, memory_bytes, raster, raster_bytes (at most),
        working_bytes (more, while it is written), polygons, files (all that are made), seconds, error. totals.
        estimated: how."""
        return {"scenes": list(self.scenes), "totals": self.totals(), "estimated": self.estimated}

    def text(self) -> str:
        """For people."""
        totals = self.totals()
        lines = [line for scene in self.scenes for line in _lines(scene)]
        lines.append(
            f"in all: {totals['planned']} of {totals['scenes']} scenes, {totals['pixels'] / 1e6:.4g} Mpx, "
            f"memory {totals['memory_bytes'] / MIB:.0f} MiB beside the program's own, "
            f"up to {_size(totals['raster_bytes'])} of rasters and {_size(totals['working_bytes'])} more while the "
            f"largest is written, about {_duration(totals['seconds'])}"
        )
        return "\n".join([*lines, self.estimated])

    def conclude(self) -> None:
        """Fail as the run would.

        Raises:
            BatchError: scenes cannot be used.
        """
        self.batch.conclude()


def dry_run(options: PredictOptions) -> DryRun:
    """Check scenes, model and targets, and plan each scene.

    Raises:
        AsdError: a scene, the model or a target cannot be used.
    """
    if options.report is not None:
        raise InputError("--dry-run and --report exclude each other: a dry run writes nothing; take --json")
    jobs = find_jobs(options)
    batch = Batch(jobs, options)
    prepared = prepare(options, batch)
    plans: dict[Job, dict[str, Any]] = {}
    samples: list[Sample] = []
    if prepared is not None:
        _plan_all(prepared, options, batch, plans, samples)
    errors = batch.failures()
    scenes = [plans.get(job) or _left_out(job, errors.get(job.scene)) for job in dict.fromkeys(jobs)]
    to_score = sum(plan["windows"] > 0 for plan in plans.values())
    found = DryRun(scenes, _told(samples, to_score), batch)
    _warn_of_space(found.totals(), [job.raster.parent for job in plans])
    return found


def _plan_all(
    prepared: Prepared,
    options: PredictOptions,
    batch: Batch,
    plans: dict[Job, dict[str, Any]],
    samples: list[Sample],
) -> None:
    model, clock, start = prepared.model, StageClock(), time.monotonic()
    devices = resolve_devices(options.device)
    with torch_threads(options.threads), model.mappers(devices, threads=options.threads, clock=clock) as mapper:
        shared = Shared(model, mapper, prepared.scale, options, clock, lambda pixels: None, prepared.findings)
        for job in batch.waiting():
            with batch.attempt(job), shared.open(job.scene) as scene:
                plan = _plan(job, scene, shared)
                if not plan["windows"]:
                    rate = 0.0
                elif time.monotonic() - start < _MEASURING and (sample := _measured(scene, mapper)):
                    samples.append(sample)
                    rate = sample.seconds / sample.blocks
                else:
                    rate = sum(s.seconds for s in samples) / max(sum(s.blocks for s in samples), 1)
                share = plan["pixels"] / (plan["width"] * plan["height"])
                seconds = rate * share * _blocks(plan["height"], plan["width"], mapper.block)
                plans[job] = {**plan, "seconds": round(seconds, 2)}


def _plan(job: Job, scene: Scene, shared: Shared) -> dict[str, Any]:
    """All but the seconds."""
    grid, shard = scene.grid, shared.options.shard
    wanted, resume = map_job(job, scene, shared), shared.options.resume
    made, windows = WorkFolder.look(job.raster, wanted, shard=shard, resume=resume)
    memory = shared.memory(scene, made.side)
    pixels = sum(window.height * window.width for window in windows)
    all_windows = list(made.windows()) if shard is None else made.shard(*shard)
    return {
        "scene": job.scene,
        "status": "planned",
        "width": grid.width,
        "height": grid.height,
        "pixels": pixels,
        "bands": list(scene.bands),
        "shard": None if shard is None else "/".join(map(str, shard)),
        "windows": len(windows),
        "windows_finished": len(all_windows) - len(windows),
        "window": made.side,
        "workers": memory.workers,
        "memory_bytes": memory.expected,
        "raster": str(job.raster),
        "raster_bytes": int(4 * grid.width * grid.height * _OVERVIEWS) if shard is None else 0,
        "working_bytes": 4 * pixels,
        "polygons": None if job.polygons is None else str(job.polygons),
        "files": [str(path) for path in job.targets()],
        "error": None,
    }


def _left_out(job: Job, error: str | None) -> dict[str, Any]:
    return {
        "scene": job.scene,
        "status": "skipped" if error is None else "failed",
        "raster": str(job.raster),
        "polygons": None if job.polygons is None else str(job.polygons),
        "files": [str(path) for path in job.targets()],
        "error": error,
    }


def _measured(scene: Scene, mapper: InTurns) -> Sample | None:
    """Read and score some pixels, from the middle on; None if all pixels looked at are nodata."""
    height, width = scene.grid.shape
    windows = list(write_windows(height, width, _SAMPLE))
    windows = [window for window in windows if window.shape == windows[0].shape]  # not those at the edges
    for window in windows[len(windows) // 2 :: max(len(windows) // (2 * _PLACES), 1)]:
        chip = read_window(scene, window, mapper)
        if not chip.valid.any():
            continue
        mapper.submit(chip)()  # the first is slow: memory and kernels are set up
        start = time.monotonic()
        mapper.submit(read_window(scene, window, mapper))()
        return Sample(window, _blocks(window.height, window.width, mapper.block), time.monotonic() - start)
    return None


def _blocks(height: int, width: int, side: int) -> int:
    return math.ceil(height / side) * math.ceil(width / side)


def _told(samples: Sequence[Sample], scenes: int) -> str:
    """How times were estimated."""
    if not samples:
        return "times: unknown, as no valid pixels were found to score" if scenes else "times: nothing to score"
    window, count = samples[0].window, len(samples)
    others = "" if count == scenes else f", the other {scenes - count} as fast as those"
    return (
        f"times: from reading and scoring {window.width} x {window.height} px of {count} "
        f"scene{'s' * (count > 1)}{others}; writing and polygons take some more"
    )


def _lines(scene: Mapping[str, Any]) -> list[str]:
    if scene["status"] != "planned":
        return [f"{scene['scene']}: {scene['status']}" + (f" ({scene['error']})" if scene["error"] else "")]
    count = left = scene["windows"]
    if finished := scene["windows_finished"]:
        left, count = f"{count} of {count + finished}", count + finished
    lines = [
        f"{scene['scene']}: {scene['width']} x {scene['height']} px, bands {', '.join(map(str, scene['bands']))}; "
        f"{left} window{'s' * (count != 1)} of {scene['window']} px, "
        f"{scene['workers']} reading, {scene['memory_bytes'] / MIB:.0f} MiB, about {_duration(scene['seconds'])}",
    ]
    if scene["shard"] is not None:
        parts = f"parts of shard {scene['shard']}, up to {_size(scene['working_bytes'])}"
        return [*lines, f"  {work_folder(Path(scene['raster']))}: {parts}; asd merge makes the files"]
    lines.append(f"  {scene['raster']}: up to {_size(scene['raster_bytes'])}")
    if scene["polygons"] is not None:
        lines.append(f"  {scene['polygons']}: as many polygons as there are")
    return [*lines, *(f"  {name}" for name in scene["files"] if name not in (scene["raster"], scene["polygons"]))]


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _warn_of_space(totals: Mapping[str, Any], folders: Sequence[Path]) -> None:
    needed = totals["raster_bytes"] + totals["working_bytes"]
    for folder in dict.fromkeys(folders):
        with suppress(OSError):
            free = shutil.disk_usage(folder).free
            if free < needed:
                _log.warning("%s: %s free, but up to %s may be needed", folder, _size(free), _size(needed))
