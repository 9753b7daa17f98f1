"""`asd evaluate`: scores against the truth, from a score raster or from a model and tiles."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asd_cli.data.classes import ClassTable, scan_classes
from asd_cli.data.discovery import TileSource, discover_tiles
from asd_cli.data.tiles import LabelledTile, TileSet
from asd_cli.errors import InputError, LabelError, RasterError
from asd_cli.metrics.histogram import ScoreCollector
from asd_cli.metrics.iou import Confusion, confusion_at
from asd_cli.metrics.roc import RocCurve, auc, average_precision, upper_left
from asd_cli.nn.devices import resolve_device
from asd_cli.options import EvaluateOptions
from asd_cli.raster.scene import gdal_session, open_raster
from asd_cli.raster.windows import Window, write_windows
from asd_cli.staging import StagedFiles, check_target
from asd_cli.vector.labels import IGNORED
from asd_cli.workflows.fitting import map_window
from asd_cli.workflows.models import load_model
from asd_cli.workflows.tilesets import open_tiles_for

_WINDOW = 1024
_CLASSES = 250  # anomalous classes that are told apart
Floats = NDArray[np.float32]
Scorer = Callable[[TileSet, LabelledTile, Window], tuple[Floats, NDArray[np.bool_], NDArray[np.int32]]]


@dataclass(frozen=True)
class Figures:
    """One row of the table. NaN where a figure has no meaning (no anomalous or no normal pixel).

    `calibrated` figures are at the model's own threshold, `oracle` ones at the upper-left point of the ROC curve of
    this very truth.
    """

    name: str
    pixels: int
    anomalous: int
    auc: float
    average_precision: float
    calibrated_threshold: float
    calibrated: dict[str, float]
    oracle_threshold: float
    oracle: dict[str, float]

    def flat(self) -> dict[str, Any]:
        """All figures by name, on one level."""
        row = asdict(self)
        for kind in ("calibrated", "oracle"):
            row.update({f"{kind}_{key}": value for key, value in row.pop(kind).items()})
        return row


@dataclass(frozen=True)
class EvaluateReport:
    """Pooled figures, one row per anomalous class, one row per tile; `exact` is False where scores were binned (2^-12
    wide)."""

    pooled: Figures
    classes: tuple[Figures, ...]
    tiles: tuple[Figures, ...]
    normal: tuple[str, ...]
    exact: bool

    def as_json(self) -> dict[str, Any]:
        """All rows, JSON-ready."""
        return asdict(self)

    def rows(self) -> Iterator[tuple[str, Figures]]:
        """Kind and row, in the order of the table."""
        yield "pooled", self.pooled
        yield from (("class", row) for row in self.classes)
        yield from (("tile", row) for row in self.tiles)

    def table(self) -> str:
        """The table as text; columns marked * use the oracle threshold."""
        heads = (
            "",
            "anomalous",
            "AUC",
            "AP",
            "mIoU",
            "F1",
            "prec.",
            "recall",
            "FAR",
            "mIoU*",
            "F1*",
            "prec.*",
            "recall*",
        )
        lines = [heads, *(_cells(kind, row) for kind, row in self.rows())]
        widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
        text = [
            "  ".join(f"{c:<{w}}" if i == 0 else f"{c:>{w}}" for i, (c, w) in enumerate(zip(line, widths, strict=True)))
            for line in lines
        ]
        note = f"normal: {', '.join(self.normal)}; at the calibrated threshold {self.pooled.calibrated_threshold:.4g}; "
        note += f"* oracle: at the upper-left ROC point of this truth ({self.pooled.oracle_threshold:.4g})"
        return "\n".join([*text, note])


def _cells(kind: str, row: Figures) -> tuple[str, ...]:
    def text(value: float) -> str:
        return "-" if math.isnan(value) else f"{value:.3f}"

    at, best = row.calibrated, row.oracle
    share = row.anomalous / row.pixels if row.pixels else math.nan
    cells = [f"{share:.2%}" if row.pixels else "-", text(row.auc), text(row.average_precision)]
    cells += [text(at[key]) for key in ("miou", "f1", "precision", "recall")]
    cells.append("-" if math.isnan(at["false_alarm_rate"]) else f"{at['false_alarm_rate']:.2g}")
    cells += [text(best[key]) for key in ("miou", "f1", "precision", "recall")]
    return (row.name if kind == "pooled" else f"{kind} {row.name}", *cells)


def evaluate(
    options: EvaluateOptions, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> EvaluateReport:
    """Compare scores with labels, in constant memory. `progress` gets pixels done and in all.

    Raises:
        AsdError: rasters, labels, the model or a target cannot be used.
    """
    if options.csv is not None:
        check_target(options.csv, overwrite=options.overwrite)
    tiles, scorer, threshold = _from_model(options) if options.model else _from_rasters(options)
    pooled = ScoreCollector(options.exact_limit)
    index_of = {code: place for place, code in enumerate(_anomalous_codes(tiles)[:_CLASSES], start=1)}
    rows = []
    total, done = sum(grid.width * grid.height for grid in tiles.grids), 0
    for place, source in enumerate(tiles.sources):
        own = ScoreCollector(options.exact_limit)
        with tiles.open(place) as tile:
            for window in write_windows(tile.grid.height, tile.grid.width, _WINDOW):
                _collect(own, index_of, tiles, *scorer(tiles, tile, window))
                done += window.height * window.width
                progress(done, total)
        pooled.merge(own)
        rows.append(_figures(_short(source), own, None, threshold))
    report = EvaluateReport(
        pooled=_figures("pooled", pooled, None, threshold),
        classes=tuple(
            _figures(tiles.classes.name(c), pooled, i, threshold) for c, i in index_of.items() if pooled.count(i)
        ),
        tiles=tuple(rows) if len(rows) > 1 else (),
        normal=tuple(tiles.classes.name(code) for code in sorted(tiles.normal_codes)),
        exact=pooled.exact,
    )
    if not report.pooled.pixels:
        raise InputError("no pixel has both a score and a label; check --labels, nodata and --ignore-label")
    _write(options, report, pooled)
    return report


def _short(source: TileSource) -> str:
    return source.path.rsplit("/", 1)[-1]


def _anomalous_codes(tiles: TileSet) -> list[int]:
    codes = np.array(tiles.classes.found, np.int32)
    return [int(code) for code in tiles.anomalous_class(codes) if code != IGNORED]


def _collect(
    own: ScoreCollector,
    index_of: Mapping[int, int],
    tiles: TileSet,
    scores: Floats,
    normal: NDArray[np.bool_],
    codes: NDArray[np.int32],
) -> None:
    """Add the scored pixels of a window that are normal, or labelled as something else."""
    own.add(scores[normal], np.zeros(np.count_nonzero(normal), np.uint8))
    other = tiles.anomalous_class(codes)
    chosen = (other != IGNORED) & ~np.isnan(scores)
    for code in np.unique(other[chosen]):
        picked = scores[chosen & (other == code)]
        own.add(picked, np.full(len(picked), index_of.get(int(code), _CLASSES), np.uint8))


def _figures(name: str, scores: ScoreCollector, class_index: int | None, threshold: float) -> Figures:
    curve = scores.curve(class_index)
    best = upper_left(curve).threshold if curve.has_both_classes else math.nan
    return Figures(
        name=name,
        pixels=curve.positives + curve.negatives,
        anomalous=curve.positives,
        auc=auc(curve),
        average_precision=average_precision(curve),
        calibrated_threshold=threshold,
        calibrated=_at(curve, threshold),
        oracle_threshold=best,
        oracle=_at(curve, best),
    )


def _at(curve: RocCurve, threshold: float) -> dict[str, float]:
    names = ("miou", "iou_normal", "iou_anomalous", "f1", "precision", "recall", "false_alarm_rate")
    if math.isnan(threshold) or not curve.positives + curve.negatives:
        return dict.fromkeys(names, math.nan)
    confusion: Confusion = confusion_at(curve, threshold)
    return {name: float(getattr(confusion, name)) for name in names}


def _from_model(options: EvaluateOptions) -> tuple[TileSet, Scorer, float]:
    assert options.model is not None
    model = load_model(options.model)
    given = options.tiles
    if not given.normal:
        given = replace(given, normal=tuple(model.header["normal"]))
    tiles = open_tiles_for(model, given)
    if not tiles.classes.labelled:
        raise LabelError("the tiles have no labels to compare with; give them with --labels")
    mapper = model.mapper(resolve_device(options.device))

    def score(tiles: TileSet, tile: LabelledTile, window: Window) -> Any:
        data, values = map_window(mapper, tiles, tile, window)
        return values[0], data.normal, data.codes

    return tiles, score, model.calibration.threshold


def _from_rasters(options: EvaluateOptions) -> tuple[TileSet, Scorer, float]:
    given = options.tiles
    sources = discover_tiles(given.tiles, labels=given.labels, label_field=given.label_field)
    if not all(source.label for source in sources):
        raise LabelError(f"{sources[0].path}: has no labels to compare with; give the truth with --labels")
    tags = _score_tags(sources)
    classes = scan_classes(sources)
    normal = given.normal or _default_normal(classes, tags.get("ASD_NORMAL", ""))
    tiles = TileSet(sources, classes, normal=normal, ignore=given.ignore_label, nodata=given.nodata)
    if tiles.band_count != 1:
        raise RasterError(
            f"{sources[0].path}: {tiles.band_count} bands, a score raster has one; for images give a model (-m)"
        )
    far = tags["ASD_SCORE"] == "far"

    def score(tiles: TileSet, tile: LabelledTile, window: Window) -> Any:
        data = tile.read(window)
        scores = _upwards(data.chip.pixels[0]) if far else data.chip.pixels[0]
        normal = tiles.normal_mask(data.chip, data.codes)
        return np.where(data.chip.valid, scores, np.nan), normal, data.codes

    threshold = float(tags["ASD_THRESHOLD"])
    return tiles, score, float(_upwards(np.array([threshold]))[0]) if far else threshold


def _upwards(rates: NDArray[Any]) -> NDArray[Any]:
    """False-alarm rates in (0, 1] -> their negative decadic logarithm, >= 0, higher = more anomalous."""
    smallest = np.finfo(np.float32).smallest_subnormal
    upwards: NDArray[Any] = np.maximum(-np.log10(np.maximum(rates, smallest)), 0)
    return upwards.astype(rates.dtype)


def _score_tags(sources: list[TileSource]) -> dict[str, str]:
    """Tags of the first score raster; all must have the same kind of score and threshold."""
    found: list[dict[str, str]] = []
    for source in sources:
        with gdal_session(), open_raster(source.path) as dataset:
            found.append(dataset.tags())
    for source, tags in zip(sources, found, strict=True):
        if not {"ASD_SCORE", "ASD_THRESHOLD"} <= set(tags):
            raise RasterError(f"{source.path}: is no score raster of asd predict; for images give a model (-m)")
        if any(tags[key] != found[0][key] for key in ("ASD_SCORE", "ASD_THRESHOLD")):
            raise RasterError(
                f"{source.path}: has another kind of score or threshold than {sources[0].path}; evaluate them apart"
            )
    return found[0]


def _default_normal(classes: ClassTable, tagged: str) -> tuple[str, ...]:
    """Normal classes where the user names none: the map's own, outside all polygons, or 0 of a mask of 0 and 1."""
    names = tuple(name for name in tagged.split(",") if name)
    if names:
        try:
            classes.resolve(names)
            return names
        except LabelError:
            pass
    if classes.polygons or set(classes.found) <= {0, 1}:
        return (classes.name(0),)
    called = ", ".join(classes.name(code) for code in classes.found[:20])
    raise LabelError(f"say which class of the truth is normal with --normal; found: {called}")


def _write(options: EvaluateOptions, report: EvaluateReport, pooled: ScoreCollector) -> None:
    """The CSV table and the plots that were asked for."""
    if options.csv is not None:
        with StagedFiles(overwrite=options.overwrite) as staged:
            rows = [{"kind": kind, **row.flat()} for kind, row in report.rows()]
            with staged.stage(options.csv).open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
            staged.commit()
    if options.plots is not None:
        from asd_cli.workflows.plots import plot_curves

        options.plots.mkdir(parents=True, exist_ok=True)
        plot_curves(options.plots, pooled.curve(), report.pooled.calibrated_threshold, overwrite=options.overwrite)
