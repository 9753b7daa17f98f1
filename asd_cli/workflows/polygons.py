"""`asd polygons`: polygons of a finished map at another threshold, without scoring it again."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from asd_cli.errors import InputError, RasterError
from asd_cli.options import SCORES, PolygonsOptions
from asd_cli.raster.gdal import gdal_session, open_raster
from asd_cli.raster.scene import Scene
from asd_cli.raster.windows import write_windows
from asd_cli.staging import StagedFiles, check_not_read
from asd_cli.vector.files import check_polygon_suffix, write_polygons
from asd_cli.vector.polygons import PolygonStream
from asd_cli.workflows.scores import Kind, ScoreScale, checked_threshold, is_anomalous

_WINDOW = 1024


@dataclass(frozen=True)
class PolygonsReport:
    """What was drawn; `score` is the kind of the map's scores, None if it is not one of `asd predict`."""

    map: str
    polygons: Path
    score: str | None
    threshold: float
    valid_pixels: int
    anomalous_pixels: int
    polygon_count: int
    seconds: float

    def summary(self) -> str:
        """One line for people."""
        share = self.anomalous_pixels / max(self.valid_pixels, 1)
        return (
            f"{self.map}: {share:.3%} of {self.valid_pixels} valid pixels anomalous at threshold {self.threshold:.6g}, "
            f"{self.polygon_count} polygons, {self.seconds:.1f} s"
        )

    def as_json(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return {**asdict(self), "anomalous_share": self.anomalous_pixels / max(self.valid_pixels, 1)}


def draw_polygons(
    options: PolygonsOptions, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> PolygonsReport:
    """Draw the polygons of a map as `asd predict` would have with these options; the same threshold gives the same
    bytes.

    Memory depends on the width of the map, never on its height; `progress` gets pixels done and in all.

    Raises:
        AsdError: the map, the model or the target cannot be used.
    """
    start = time.monotonic()
    if options.threshold is not None and options.false_alarm_rate is not None:
        raise InputError("--threshold and --false-alarm-rate exclude each other; give one of them")
    check_polygon_suffix(options.output)
    with ExitStack() as stack:
        staged = stack.enter_context(StagedFiles(overwrite=options.overwrite))
        temporary = staged.stage(options.output)
        scene = stack.enter_context(Scene.open(options.map))
        check_not_read([options.output], scene.files)
        if scene.band_count != 1:
            raise RasterError(f"{options.map}: has {scene.band_count} bands; a map of scores has one")
        kind, threshold = _scale(options)
        stack.enter_context(gdal_session())
        stream = PolygonStream(
            scene.grid.drawn(),
            connectivity=options.connectivity,
            min_area=options.min_area,
            simplify=options.simplify,
            min_score=options.min_score,
            lower_is_anomalous=kind == "far",
            folder=options.output.parent,
        )
        stack.callback(stream.close)
        valid, anomalous = _draw(scene, stream, kind, threshold, progress)
        count = write_polygons(stream.batches(), temporary, target=options.output)
        staged.commit()
    return PolygonsReport(
        map=options.map,
        polygons=options.output,
        score=kind,
        threshold=float(threshold),
        valid_pixels=valid,
        anomalous_pixels=anomalous,
        polygon_count=count,
        seconds=time.monotonic() - start,
    )


def _draw(
    scene: Scene,
    stream: PolygonStream,
    kind: Kind | None,
    threshold: np.float32,
    progress: Callable[[int, int], None],
) -> tuple[int, int]:
    """Hand the map to the stream window by window; its valid and its anomalous pixels."""
    valid = anomalous = done = 0
    for window in write_windows(*scene.grid.shape, _WINDOW):
        chip = scene.read(window)
        scores = np.where(chip.valid, chip.pixels[0], np.float32(np.nan))
        marked = is_anomalous(scores, threshold, lower=kind == "far")
        if (scores[marked] < 0).any():
            raise RasterError(
                f"{scene.path}: holds {np.nanmin(scores):g} where it is anomalous; scores are 0 or more, give a "
                "--threshold above 0"
            )
        stream.add(window, marked, scores)
        valid += int(np.count_nonzero(chip.valid))
        anomalous += int(np.count_nonzero(marked))
        done += window.height * window.width
        progress(done, scene.grid.height * scene.grid.width)
    return valid, anomalous


def _scale(options: PolygonsOptions) -> tuple[Kind | None, np.float32]:
    """Kind of the map's scores, None for a map that is not ours, and the threshold."""
    with gdal_session(), open_raster(options.map) as dataset:
        tags = dataset.tags()
    named = tags.get("ASD_SCORE")
    kind = cast(Kind, named) if named in SCORES else None
    if kind is None:
        if options.threshold is None:
            raise InputError(
                f"{options.map}: is no map of asd predict (it has no tag ASD_SCORE), so its threshold is unknown; give "
                "one with --threshold (scores at or above it are anomalous)"
            )
        if not np.isfinite(options.threshold):
            raise InputError(f"--threshold {options.threshold}: is no number; give one in units of the map")
        return None, np.float32(options.threshold)
    if options.min_score is not None:
        checked_threshold("--min-score", options.min_score, kind)
    if options.threshold is not None:
        return kind, checked_threshold("--threshold", options.threshold, kind)
    if options.false_alarm_rate is not None:
        return kind, _threshold_at(options.false_alarm_rate, kind, options, tags)
    try:
        return kind, checked_threshold("ASD_THRESHOLD", float(tags["ASD_THRESHOLD"]), kind)
    except (KeyError, ValueError, InputError) as error:
        raise RasterError(
            f"{options.map}: its tag ASD_THRESHOLD={tags.get('ASD_THRESHOLD', '')} makes no sense; give a --threshold"
        ) from error


def _threshold_at(rate: float, kind: Kind, options: PolygonsOptions, tags: dict[str, str]) -> np.float32:
    """The threshold of a false-alarm rate: itself in a map of false-alarm rates, else what the model says."""
    if kind == "far":
        return checked_threshold("--false-alarm-rate", rate, kind)
    if options.model is None:
        raise InputError(
            f"--false-alarm-rate {rate:g}: what score that is, only the model of {options.map} can tell; add -m "
            f"{tags.get('ASD_MODEL', 'MODEL')}, or give a --threshold"
        )
    from asd_cli.workflows.models import load_model  # torch is loaded for this alone

    model = load_model(options.model)
    if model.sha256 != tags.get("ASD_MODEL_SHA256", model.sha256):
        raise InputError(
            f"{options.model}: is not the model of {options.map}, which is {tags.get('ASD_MODEL', 'another')} with "
            f"SHA-256 {tags['ASD_MODEL_SHA256'][:12]}...; give that one, or a --threshold"
        )
    return ScoreScale.build(kind, model.calibration, rate=rate, threshold=None).threshold
