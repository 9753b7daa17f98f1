"""`asd compare`: methods on the same tiles, splits and calibration; one table, score maps side by side."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from asd_cli.data.tiles import TileSet
from asd_cli.errors import AsdError, LabelError, OutputError
from asd_cli.options import CompareOptions
from asd_cli.staging import StagedFiles
from asd_cli.workflows.compare_maps import draw, picture
from asd_cli.workflows.compare_report import CompareReport, CompareRow
from asd_cli.workflows.compare_runs import Progress, Run, digest_of, fingerprint_of, perform, previews_of
from asd_cli.workflows.compare_splits import drawn, splits_of
from asd_cli.workflows.compare_variants import Planned, planned
from asd_cli.workflows.tilesets import normal_names, open_tiles

_log = logging.getLogger(__name__)
_RUNS, _MAPS, _ERROR = "runs", "maps", "error.txt"


def compare(
    options: CompareOptions, *, progress: Progress = lambda what, done, total, figures=None: None
) -> CompareReport:
    """Train and evaluate every row on every split, write the table and the maps into the output folder.

    What an earlier call into the same folder has finished with the same options, tiles and version is used again. A
    row that fails is reported as such and does not end the others. `progress` gets what is done, how far, of how much,
    and figures. Memory: that of `train`, and one test tile.

    Raises:
        AsdError: options, tiles, labels or the folder cannot be used; said before anything is trained.
        KeyboardInterrupt: interrupted; the same call goes on from there.
    """
    rows = planned(options)
    for name, text in rows.refused.items():
        _log.warning("%s: is left out, as its options are refused: %s", name, text)
    _check_folder(options)
    tiles = open_tiles(options.tiles)
    if not tiles.classes.labelled:
        raise LabelError(f"{tiles.sources[0].path}: has no labels to compare with; give them with --labels")
    splits = splits_of(options, tiles)
    digest = digest_of(tiles)
    runs = [
        Run(
            name,
            split,
            options.output / _RUNS / name / split.name,
            training,
            tiles,
            drawn(split, tiles, -(-options.maps // len(splits))),
            fingerprint_of(training, split, tiles, digest),
        )
        for name, training in rows.trainings.items()
        if name not in rows.refused
        for split in splits
    ]
    _make(options.output / _RUNS)
    try:
        results = [_attempt(run, fresh=options.overwrite, progress=progress) for run in runs]
    except KeyboardInterrupt:
        _log.info("%s: keeps what is done; the same command goes on from there", options.output)
        raise
    report = CompareReport(
        rows=tuple(_row(name, rows, runs, results) for name in rows.trainings),
        splits={
            split.name: {"train": _names(tiles, split.train), "test": _names(tiles, split.test)} for split in splits
        },
        normal=tuple(normal_names(tiles, options.tiles)),
        folder=options.output,
        maps=tuple(_draw_maps(runs, tiles, options)),
    )
    _write(report)
    if report.failed:
        _log.warning(
            "%d of %d rows failed: %s", len(report.failed), len(report.rows), ", ".join(r.name for r in report.failed)
        )
    return report


def _check_folder(options: CompareOptions) -> None:
    folder = options.output
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not existing.is_dir():
        raise OutputError(f"{folder}: {existing} is a file; name a folder")
    if existing == folder and any(folder.iterdir()) and not (folder / _RUNS).is_dir():
        raise OutputError(f"{folder}: holds other files; name a new folder, or that of an earlier comparison")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror}); check the name and the folder") from error


def _attempt(run: Run, *, fresh: bool, progress: Progress) -> dict[str, float] | str:
    """Figures of a run, or why it failed; what is our own fault leaves its traceback in the folder."""
    trace = run.folder / _ERROR
    try:
        figures = perform(run, fresh=fresh, progress=progress)
    except AsdError as error:
        return str(error)
    except Exception as error:
        trace.write_text(traceback.format_exc(), encoding="utf-8")
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]} (see {trace})"
    trace.unlink(missing_ok=True)
    return figures


def _row(name: str, rows: Planned, runs: Sequence[Run], results: Sequence[dict[str, float] | str]) -> CompareRow:
    method = rows.trainings[name].method
    if name in rows.refused:
        return CompareRow(name, method, errors={"options": rows.refused[name]})
    own = {run.split.name: result for run, result in zip(runs, results, strict=True) if run.name == name}
    return CompareRow(
        name,
        method,
        {split: result for split, result in own.items() if not isinstance(result, str)},
        {split: result for split, result in own.items() if isinstance(result, str)},
    )


def _names(tiles: TileSet, places: Sequence[int]) -> tuple[str, ...]:
    return tuple(PurePosixPath(tiles.sources[place].path).name for place in places)


def _draw_maps(runs: Sequence[Run], tiles: TileSet, options: CompareOptions) -> Iterator[Path]:
    """A picture of every shown tile; those of earlier calls go."""
    folder = options.output / _MAPS
    places = sorted({place for run in runs for place in run.shown})[: options.maps]
    stems = [PurePosixPath(tiles.sources[place].path).stem for place in places]
    for old in folder.glob("*.png"):
        old.unlink()
    for place, stem in zip(places, stems, strict=True):
        scores = previews_of(runs, place)
        if scores:
            _make(folder)
            target = folder / f"{stem if stems.count(stem) == 1 else f'{stem}_{place}'}.png"
            with StagedFiles(overwrite=True) as staged:
                draw(staged.stage(target), *picture(tiles, place), scores)
                staged.commit()
            yield target


def _write(report: CompareReport) -> None:
    """The three tables, all or none."""
    with StagedFiles(overwrite=True) as staged:
        try:
            report.write_csv(staged.stage(report.folder / "table.csv"))
            report.write_json(staged.stage(report.folder / "table.json"))
            staged.stage(report.folder / "table.md").write_text(report.markdown(), encoding="utf-8")
            staged.commit()
        except OSError as error:
            raise OutputError(f"{error.filename or report.folder}: cannot be written ({error.strerror})") from error
