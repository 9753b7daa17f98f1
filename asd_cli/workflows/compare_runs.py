"""One run of a comparison: train on some tiles, score others, keep both in a folder of its own, and use them again."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from asd_cli import __version__
from asd_cli.data.tiles import TileSet
from asd_cli.errors import InputError
from asd_cli.nn.devices import resolve_device
from asd_cli.options import EvaluateOptions, TrainOptions
from asd_cli.staging import StagedFiles, write_text
from asd_cli.workflows.compare_scores import ScoreWatch, preview_file
from asd_cli.workflows.compare_splits import Split
from asd_cli.workflows.evaluate import evaluate
from asd_cli.workflows.figures import EvaluateReport
from asd_cli.workflows.models import load_model
from asd_cli.workflows.train import train

_log = logging.getLogger(__name__)
_NOT_OF_THE_RUN = ("tiles", "output", "log", "resume", "overwrite", "device")
Progress = Callable[..., None]


@dataclass(frozen=True)
class Run:
    """A training and its evaluation. `tiles` are all tiles, `shown` the places of those whose maps are kept."""

    name: str
    split: Split
    folder: Path
    training: TrainOptions
    tiles: TileSet
    shown: tuple[int, ...]
    fingerprint: Mapping[str, Any]

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"{self.name}, {self.split.name}"

    @property
    def model(self) -> Path:
        """Its model file."""
        return self.folder / "model.safetensors"


def digest_of(tiles: TileSet) -> str:
    """SHA-256 of the names and the content of all files that the tiles and their labels come from."""
    digest = hashlib.sha256()
    for name in sorted(tiles.files):
        digest.update(f"{Path(name).name}\0".encode())
        if Path(name).is_file():
            with Path(name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def fingerprint_of(training: TrainOptions, split: Split, tiles: TileSet, digest: str) -> dict[str, Any]:
    """What must be equal for the results of an earlier run to count, by the names that users know."""
    options = {name: value for name, value in asdict(training).items() if name not in _NOT_OF_THE_RUN}
    options |= {name: value for name, value in asdict(training.tiles).items() if name != "tiles"}
    named = {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    facts = {
        **named,
        "the device": str(resolve_device(training.device)),
        "the training tiles": [Path(tiles.sources[place].path).name for place in split.train],
        "the test tiles": [Path(tiles.sources[place].path).name for place in split.test],
        "the content of the tiles": digest,
        "the version of asd": __version__,
    }
    plain: dict[str, Any] = json.loads(json.dumps(facts))
    return plain


def perform(run: Run, *, fresh: bool, progress: Progress) -> dict[str, float]:
    """The figures of a run, by training and scoring as far as its folder does not hold them.

    `fresh`: nothing that lies there counts. `progress` gets what is done, steps or pixels done, in all, and figures.

    Raises:
        AsdError: training or scoring fails.
        KeyboardInterrupt: interrupted; the next call goes on from there.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    state = _State.begin(run, fresh=fresh)
    if state.trained is None:
        _train(run, state, progress)
    if state.figures is None or not preview_file(run.folder).exists() or not set(run.shown) <= set(state.shown):
        _score(run, state, progress)
    else:
        _log.info("%s: done before, its results are used again", run.title)
    return {**_plain_figures(state.trained or {}), **_plain_figures(state.figures or {})}


class _State:
    """What ``run.json`` in the folder of a run holds: how far it is."""

    def __init__(self, path: Path, fingerprint: Mapping[str, Any]) -> None:
        self.path, self._fingerprint = path, fingerprint
        self.seconds = 0.0  # that interrupted trainings took
        self.trained: dict[str, Any] | None = None
        self.figures: dict[str, Any] | None = None
        self.shown: list[int] = []

    @classmethod
    def begin(cls, run: Run, *, fresh: bool) -> _State:
        """The state that an earlier run left, if it belongs to this one; else a new one, and the log says why."""
        state = cls(run.folder / "run.json", run.fingerprint)
        found = _read(state.path)
        reason = "start over" if fresh else _difference(found, run)
        if reason is None:
            state.seconds, state.trained = found["seconds"], found["trained"]
            state.figures, state.shown = found["figures"], found["shown"]
            return state
        if state.path.exists() and not fresh:
            _log.info("%s: the earlier results do not count (%s); it is run again", run.title, reason)
        for path in (run.model, run.model.with_name(f"{run.model.name}.checkpoint")):
            path.unlink(missing_ok=True)
        state.save()
        return state

    def save(self) -> None:
        """Write the file, whole or not at all."""
        text = json.dumps(
            {
                "seconds": self.seconds,
                "trained": self.trained,
                "figures": self.figures,
                "shown": self.shown,
                "fingerprint": self._fingerprint,
            },
            indent=2,
        )
        write_text(self.path, text, overwrite=True)


def _read(path: Path) -> dict[str, Any]:
    """What the file holds; empty where it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    wanted = {"seconds", "trained", "figures", "shown", "fingerprint"}
    return found if isinstance(found, dict) and wanted <= set(found) else {}


def _difference(found: Mapping[str, Any], run: Run) -> str | None:
    """Why results do not belong to a run; None where they do."""
    if not found:
        return "they are unreadable"
    before, now = found["fingerprint"], run.fingerprint
    different = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if different:
        return f"made with another {', another '.join(_called(key) for key in different)}"
    trained = found["trained"]
    if trained is not None and _sha256(run.model) != trained["sha256"]:
        return "the model file is missing or another one"
    return None


def _called(key: str) -> str:
    return key.removeprefix("the ")


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _train(run: Run, state: _State, progress: Progress) -> None:
    start = time.monotonic()
    begun = run.model.with_name(f"{run.model.name}.checkpoint").exists()
    try:
        report = train(
            replace(run.training, output=run.model, resume=begun, overwrite=True),
            tiles=run.tiles.subset(run.split.train),
            progress=lambda *given: progress(f"{run.title}: train", *given),
        )
    except BaseException:
        state.seconds += time.monotonic() - start
        state.save()
        raise
    if report is None:
        raise InputError("asd compare runs in one process; start it without torchrun")
    state.trained = {
        "sha256": report.sha256,
        "steps": report.steps,
        "train_seconds": state.seconds + report.seconds,
        "model_bytes": run.model.stat().st_size,
        "training_tiles": report.tiles,
        "normal_pixels": report.normal_pixels,
    }
    state.save()


def _score(run: Run, state: _State, progress: Progress) -> None:
    tiles = run.tiles.subset(run.split.test)
    watch = ScoreWatch(tiles, [place for place, whole in enumerate(run.split.test) if whole in run.shown])
    report = evaluate(
        EvaluateOptions(tiles=run.training.tiles, model=run.model, device=run.training.device),
        tiles=tiles,
        watch=watch,
        progress=lambda *given: progress(f"{run.title}: score", *given),
    )
    calibration = load_model(run.model).calibration
    previews = {str(run.split.test[place]): calibration.score(away) for place, away in watch.previews().items()}
    with StagedFiles(overwrite=True) as staged:
        np.savez_compressed(staged.stage(preview_file(run.folder)), **previews)  # type: ignore[arg-type]
        staged.commit()
    state.figures, state.shown = _figures(report, watch), list(run.shown)
    state.save()


def _figures(report: EvaluateReport, watch: ScoreWatch) -> dict[str, float | None]:
    """Figures of all test pixels together; None where one has no meaning."""
    pooled = report.pooled
    figures = {
        "auc": pooled.auc,
        "average_precision": pooled.average_precision,
        "miou_oracle": pooled.oracle["miou"],
        "f1_oracle": pooled.oracle["f1"],
        "region_overlap": watch.region_overlap(),
        **{name: pooled.calibrated[name] for name in ("miou", "f1", "precision", "recall", "false_alarm_rate")},
        "mpx_per_second": watch.pixels / watch.seconds / 1e6,
        "pixels": pooled.pixels,
        "anomalous": pooled.anomalous,
    }
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def _plain_figures(kept: Mapping[str, Any]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in kept.items() if not isinstance(value, str)}


def previews_of(runs: Sequence[Run], place: int) -> dict[str, Any]:
    """Score map (h, w), 0 to 1, of a tile by the name of the row; rows without one are left out."""
    found = {}
    for run in runs:
        if place in run.split.test and preview_file(run.folder).exists():
            with np.load(preview_file(run.folder)) as maps:
                if str(place) in maps:
                    found[run.name] = maps[str(place)]
    return found
