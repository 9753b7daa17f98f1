"""`asd evaluate`: scores against the truth, from a score raster or from a model and tiles."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from asd_cli.data.classes import ClassTable, scan_classes
from asd_cli.data.discovery import TileSource, discover_tiles
from asd_cli.data.layouts import FoundTiles, find_tiles
from asd_cli.data.tiles import LabelledTile, TileSet
from asd_cli.errors import InputError, LabelError, OutputError, RasterError
from asd_cli.metrics.histogram import ScoreCollector
from asd_cli.metrics.iou import confusion_at
from asd_cli.metrics.roc import RocCurve
from asd_cli.nn.devices import resolve_device
from asd_cli.options import SCORES, EvaluateOptions, TileOptions
from asd_cli.raster.gdal import gdal_session, open_raster
from asd_cli.raster.scene import Scene
from asd_cli.raster.windows import Window, write_windows
from asd_cli.staging import StagedFiles, check_not_read, check_target
from asd_cli.vector.labels import IGNORED
from asd_cli.workflows.figures import ClassIndex, Direction, EvaluateReport, Figures
from asd_cli.workflows.fitting import map_window
from asd_cli.workflows.models import Model, load_model
from asd_cli.workflows.plots import PLOT_FILES, plot_curves
from asd_cli.workflows.tilesets import tile_set

_log = logging.getLogger(__name__)
_WINDOW = 1024
_CLASSES = 20  # anomalous classes with a row of their own, the largest
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Scored:
    """Pixels of a window: scores as written (NaN = none), which are normal, and class codes, all (h, w)."""

    scores: Floats
    normal: NDArray[np.bool_]
    codes: NDArray[np.int32]


class Watch(Protocol):
    """What is told every window that has been scored."""

    def __call__(self, place: int, window: Window, scored: Scored, seconds: float) -> None:
        """`place` of the tile, and the `seconds` that reading and scoring took."""


@dataclass(frozen=True)
class _Case:
    """What is compared: tiles with labels, what scores them, and the calibrated threshold, as written."""

    tiles: TileSet
    score: Callable[[TileSet, LabelledTile, Window], Scored]
    threshold: float
    direction: Direction


def evaluate(
    options: EvaluateOptions,
    *,
    tiles: TileSet | None = None,
    watch: Watch = lambda place, window, scored, seconds: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> EvaluateReport:
    """Compare scores with labels, in constant memory.

    `tiles`, with a model, take the place of those that the options name, such as a part of them. `progress` gets
    pixels done and in all.

    Raises:
        AsdError: rasters, labels, the model or a target cannot be used.
    """
    _check_targets(options)
    case = _case(options, tiles)
    tiles = case.tiles
    check_not_read([options.csv] if options.csv is not None else [], [*tiles.files, options.model or ""])
    index = _class_index(tiles)
    pooled = ScoreCollector(options.exact_limit)
    rows = []
    total, done = sum(grid.width * grid.height for grid in tiles.grids), 0
    for place, name in enumerate(_short_names(tiles.sources)):
        own = ScoreCollector(options.exact_limit)
        with tiles.open(place) as tile:
            for window in write_windows(tile.grid.height, tile.grid.width, _WINDOW):
                start = time.perf_counter()
                scored = case.score(tiles, tile, window)
                watch(place, window, scored, time.perf_counter() - start)
                _collect(own, index, case, scored)
                done += window.height * window.width
                progress(done, total)
        pooled.merge(own)
        rows.append(Figures.of(name, own.curve(), case.threshold, case.direction))
    curve = pooled.curve()
    report = EvaluateReport(
        pooled=Figures.of("pooled", curve, case.threshold, case.direction),
        classes=index.rows(pooled, case.threshold, case.direction),
        tiles=tuple(rows) if len(rows) > 1 else (),
        normal=tuple(dict.fromkeys(tiles.classes.name(code) for code in sorted(tiles.normal_codes))),
        exact=pooled.exact,
        classes_left_out=index.left_out,
    )
    if not report.pooled.pixels:
        raise InputError("no pixel has both a score and a label; check --labels, nodata and --ignore-label")
    _write(options, report, curve, case.direction.threshold(case.threshold))
    return report


def _short_names(sources: Sequence[TileSource]) -> list[str]:
    """File names of the tiles, or their paths where two names are equal."""
    names = [PurePosixPath(source.path).name for source in sources]
    return names if len(set(names)) == len(names) else [source.path for source in sources]


def _class_index(tiles: TileSet) -> ClassIndex:
    codes = [code for code in tiles.classes.found if code not in tiles.ignored_codes]
    by_name: dict[str, list[int]] = {}
    for code in tiles.anomalous_class(np.array(codes, np.int32)).tolist():
        if code != IGNORED:
            by_name.setdefault(tiles.classes.name(code), []).append(code)
    return ClassIndex(by_name, dict(tiles.classes.pixels), _CLASSES)


def _collect(own: ScoreCollector, index: ClassIndex, case: _Case, scored: Scored) -> None:
    """Add the scored pixels of a window that are normal, or labelled as something else."""
    scores = case.direction.upwards(scored.scores)
    own.add(scores[scored.normal], np.zeros(np.count_nonzero(scored.normal), np.uint8))
    other = case.tiles.anomalous_class(scored.codes)
    chosen = (other != IGNORED) & ~np.isnan(scores)
    own.add(scores[chosen], index.places(other[chosen]))


def _case(options: EvaluateOptions, tiles: TileSet | None) -> _Case:
    rate = options.false_alarm_rate
    if options.model is None:
        if rate is not None:
            raise InputError(
                "--false-alarm-rate: a score raster has its threshold in its tags; give a model (-m) and images, "
                "or predict with that rate"
            )
        return _from_rasters(options.tiles)
    model = load_model(options.model)
    threshold = model.calibration.threshold if rate is None else model.calibration.distance(rate)
    return _scored_by(
        model, _labelled_tiles(model, options.tiles) if tiles is None else tiles, threshold, options.device
    )


def _labelled_tiles(model: Model, given: TileOptions) -> TileSet:
    """The tiles that the options name, with the model's own normal classes where they name none."""
    trained = tuple(str(name) for name in model.header["normal"])
    found = find_tiles(given, normal=given.normal or trained)
    if not found.classes.labelled:
        raise LabelError(f"{found.sources[0].path}: has no labels to compare with; give them with --labels")
    normal = given.normal or _default_normal(found.classes, trained)
    tiles = tile_set(given, found, normal)
    if given.bands is None and (chosen := model.bands_of(tiles)):
        tiles = tile_set(given, found, normal, bands=chosen)
    return tiles


def _scored_by(model: Model, tiles: TileSet, threshold: float, device: str) -> _Case:
    if tiles.band_count != model.detector.bands:
        raise model.band_error(tiles.sources[0].path, tiles.band_count)
    mapper = model.mapper(resolve_device(device))

    def score(tiles: TileSet, tile: LabelledTile, window: Window) -> Scored:
        data, values = map_window(mapper, tiles, tile, window)
        return Scored(values[0], data.normal, data.codes)

    return _Case(tiles, score, threshold, Direction())


def _from_rasters(given: TileOptions) -> _Case:
    if given.layout != TileOptions.layout:
        raise InputError(f"--layout {given.layout}: is for images; give a model (-m) to score them with")
    sources = discover_tiles(given.tiles, labels=given.labels, label_field=given.label_field)
    if not all(source.label for source in sources):
        raise LabelError(f"{sources[0].path}: has no labels to compare with; give the truth with --labels")
    kind, threshold, tagged = _score_tags(sources)
    classes = scan_classes(sources)
    normal = given.normal or _default_normal(classes, _tagged_names(tagged))
    tiles = tile_set(given, FoundTiles(sources, classes), normal)
    if tiles.band_count != 1:
        raise RasterError(
            f"{sources[0].path}: {tiles.band_count} bands, a score raster has one; for images give a model (-m)"
        )
    highest = np.inf if kind == "distance" else 1

    def score(tiles: TileSet, tile: LabelledTile, window: Window) -> Scored:
        data = tile.read(window)
        scores = data.chip.pixels[0]
        odd = scores[data.chip.valid & ~((scores >= 0) & (scores <= highest))]
        if odd.size:
            cure = f"if it stands for no data, add --nodata {odd[0]:g}" if odd[0] < 0 else "predict it again"
            usual = "0 or more" if kind == "distance" else "0 to 1"
            raise RasterError(f"{tile.path}: holds {odd[0]:g}, but a score of kind {kind} is {usual}; {cure}")
        return Scored(
            np.where(data.chip.valid, scores, np.float32(np.nan)), tiles.normal_mask(data.chip, data.codes), data.codes
        )

    return _Case(tiles, score, threshold, Direction(lower_is_anomalous=kind == "far"))


def _score_tags(sources: Sequence[TileSource]) -> tuple[str, float, str]:
    """Kind of score, threshold and normal classes of the score rasters; they must agree in the first two.

    Raises:
        RasterError: a file is damaged, was not written by `asd predict`, or differs from the first one.
    """
    found: list[dict[str, str]] = []
    for source in sources:
        with Scene.open(source.path), gdal_session(), open_raster(source.path) as dataset:
            tags = dataset.tags()
        if not {"ASD_SCORE", "ASD_THRESHOLD"} <= set(tags):
            raise RasterError(f"{source.path}: is no score raster of asd predict; for images give a model (-m)")
        found.append(tags)
        if any(tags[key] != found[0][key] for key in ("ASD_SCORE", "ASD_THRESHOLD")):
            kinds = [f"{tags['ASD_SCORE']} with threshold {tags['ASD_THRESHOLD']}" for tags in (found[-1], found[0])]
            raise RasterError(
                f"{source.path}: holds scores of kind {kinds[0]}, but {sources[0].path} of kind {kinds[1]}; "
                "evaluate them apart"
            )
    kind, text = found[0]["ASD_SCORE"], found[0]["ASD_THRESHOLD"]
    try:
        threshold = float(text)
    except ValueError:
        threshold = np.nan
    if kind not in SCORES or not threshold >= 0:
        raise RasterError(
            f"{sources[0].path}: its tags ASD_SCORE={kind} and ASD_THRESHOLD={text} make no sense; predict it again"
        )
    return kind, threshold, found[0].get("ASD_NORMAL", "")


def _tagged_names(text: str) -> tuple[str, ...]:
    """Class names of the tag ASD_NORMAL: joined by commas, which names themselves (``r,g,b``) may hold, too."""
    parts = text.split(",")
    if all(part.strip().isdecimal() for part in parts) and len(parts) % 3 == 0:
        return (*(",".join(parts[i : i + 3]) for i in range(0, len(parts), 3)), *parts)
    return tuple(name for name in (text, *parts) if name)


def _default_normal(classes: ClassTable, known: Sequence[str]) -> tuple[str, ...]:
    """Normal classes where the user names none: those the model knows, outside all polygons, or 0 of a 0/1 mask."""
    names = tuple(name for name in dict.fromkeys(known) if classes.has(name))
    if names:
        return names
    if 0 in classes.found and (classes.polygons or set(classes.found) <= {0, 1}):
        return (classes.name(0),)
    raise LabelError(f"say which class of the truth is normal with --normal; found: {classes.listed()}")


def _check_targets(options: EvaluateOptions) -> None:
    """Refuse targets that cannot be written; the folder of the plots is made later, if need be."""
    if options.csv is not None:
        check_target(options.csv, overwrite=options.overwrite)
    folder = options.plots
    if folder is None:
        return
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not existing.is_dir():
        raise OutputError(f"--plots {folder}: {existing} is a file; name a folder")
    for name in PLOT_FILES:
        check_target((folder if existing == folder else existing) / name, overwrite=options.overwrite)


def _write(options: EvaluateOptions, report: EvaluateReport, curve: RocCurve, threshold: float) -> None:
    """The CSV table and the plots that were asked for, all or none."""
    with StagedFiles(overwrite=options.overwrite) as staged:
        try:
            if options.csv is not None:
                _write_csv(staged.stage(options.csv), report)
            if options.plots is not None and curve.has_both_classes:
                options.plots.mkdir(parents=True, exist_ok=True)
                roc, pr = (staged.stage(options.plots / name) for name in PLOT_FILES)
                plot_curves(roc, pr, curve, confusion_at(curve, threshold))
            elif options.plots is not None:
                missing = "anomalous" if curve.positives == 0 else "normal"
                _log.warning("no plots are drawn: no scored pixel is %s in the truth", missing)
            staged.commit()
        except OSError as error:
            raise OutputError(f"{error.filename or 'results'}: cannot be written ({error.strerror})") from error


def _write_csv(path: Path, report: EvaluateReport) -> None:
    rows = [{"kind": kind, **row.flat()} for kind, row in report.rows()]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
