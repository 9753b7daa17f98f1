"""Which scenes `asd predict` maps, and to which files; every target is checked before any work."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from asd_cli.errors import InputError, OutputError, TargetError
from asd_cli.options import PredictOptions
from asd_cli.staging import check_not_read, check_target
from asd_cli.vector.files import check_polygon_suffix
from asd_cli.workflows.work_folder import check_no_leftover, holds_files

_RASTER_SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True)
class Job:
    """One scene and the files that it becomes."""

    scene: str
    raster: Path
    polygons: Path | None
    styles: tuple[Path, ...] = ()
    stac: Path | None = None
    quicklook: Path | None = None

    def results(self) -> list[Path]:
        """The files that were asked for."""
        return [path for path in (self.raster, self.polygons, self.stac, self.quicklook) if path is not None]

    def targets(self) -> list[Path]:
        """The files to be written: results and styles."""
        return [*self.results(), *self.styles]


def find_jobs(options: PredictOptions) -> list[Job]:
    """Scenes with their targets, which `check_targets` looks at.

    Raises:
        InputError: no scene matches, or options exclude each other.
        OutputError: `-o` is no GeoTIFF and no folder.
    """
    if options.skip_existing and options.overwrite:
        raise InputError("--skip-existing and --overwrite exclude each other; give one of them")
    if options.polygons is not None and not options.write_polygons:
        raise InputError("--polygons and --no-polygons exclude each other; give one of them")
    if options.threshold is not None and options.false_alarm_rate is not None:
        raise InputError("--threshold and --false-alarm-rate exclude each other; give one of them")
    if options.shard is not None and options.scheduler is not None:
        raise InputError("--shard and --scheduler exclude each other; give one of them")
    if not options.output:
        raise InputError("-o: the name is empty (an unset variable?); name a GeoTIFF or a folder")
    scenes = [scene for given in options.scenes for scene in find_scenes(given)]
    if not scenes:
        raise InputError("no scene given; name a raster, a glob, or @list.txt")
    output, several = Path(options.output), len(scenes) > 1
    if several and not output.is_dir():
        raise InputError(
            f"-o {options.output}: {len(scenes)} scenes need an existing folder; create it first (mkdir -p)"
        )
    if not output.is_dir() and not options.output.endswith("/"):
        _check_raster_suffix(output)
        rasters = [output]
    else:
        rasters = [output / f"{stem_of(scene)}_anomaly.tif" for scene in scenes]
    return [_job(options, scene, raster, several=several) for scene, raster in zip(scenes, rasters, strict=True)]


def find_scenes(given: str) -> Iterator[str]:
    """Names of rasters that a file, a glob, a GDAL name or ``@list`` (relative to the current folder) stands for.

    Raises:
        InputError: a glob matches nothing, or the list cannot be used.
    """
    if given.startswith("@"):
        for line in _listed(Path(given[1:])):
            yield from find_scenes(line)
    elif given.startswith("/vsi") or not glob.has_magic(given) or _exists(given):
        yield given
    else:
        found = sorted(glob.glob(given, recursive=True))  # noqa: PTH207 - absolute patterns too
        if not found:
            raise InputError(f"{given}: matches no file; check the pattern and the current folder")
        yield from found


def _listed(path: Path) -> Iterable[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except FileNotFoundError as error:
        raise InputError(f"@{path}: no such list; name a text file with one scene a line") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"@{path}: cannot be read as a list of scenes, one path a line in UTF-8") from error
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise InputError(f"@{path}: the list holds no scene; write one path a line")
    for name in names:
        if name.startswith("@"):
            raise InputError(f"@{path}: names another list, {name}; give both on the command line")
    return names


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # a name that is too long
        return False


def stem_of(scene: str) -> str:
    """Name of a scene without folders and endings, ``.tif.gz`` too."""
    name = PurePosixPath(Path(scene).as_posix())
    if name.suffix.lower() in (".gz", ".zip"):
        name = name.with_suffix("")
    return name.stem


def _check_raster_suffix(raster: Path) -> None:
    if raster.suffix.lower() not in _RASTER_SUFFIXES:
        raise OutputError(
            f"-o {raster}: no such folder, and no name of a GeoTIFF; create the folder first (mkdir -p) "
            f"or name the map {raster.with_suffix('.tif').name}"
        )


def _job(options: PredictOptions, scene: str, raster: Path, *, several: bool) -> Job:
    polygons = _polygon_target(options, raster, several=several)
    styled = [raster] if polygons is None else [raster, polygons]  # the same name with another ending: one style
    return Job(
        scene,
        raster,
        polygons,
        styles=tuple(dict.fromkeys(path.with_suffix(".qml") for path in styled)) if options.style else (),
        stac=raster.with_suffix(".json") if options.stac else None,
        quicklook=_quicklook_target(options.quicklook, raster, several=several),
    )


def _polygon_target(options: PredictOptions, raster: Path, *, several: bool) -> Path | None:
    if not options.write_polygons:
        return None
    given = ".gpkg" if options.polygons is None else options.polygons
    if _is_suffix(given):
        target = raster.with_suffix(given.lower())
        check_polygon_suffix(target)
        return target
    if several:
        raise InputError(f"--polygons {given}: for several scenes give a suffix only, such as .geojson")
    check_polygon_suffix(Path(given))
    return Path(given)


def _quicklook_target(given: str | None, raster: Path, *, several: bool) -> Path | None:
    if given is None:
        return None
    if not given:
        raise InputError("--quicklook: the name is empty (an unset variable?); name a PNG file or give .png")
    if several and not _is_suffix(given):
        raise InputError(f"--quicklook {given}: for several scenes give a suffix only: .png")
    target = raster.with_suffix(given.lower()) if _is_suffix(given) else Path(given)
    if target.suffix.lower() != ".png":
        raise OutputError(f"{target}: a quicklook cannot be written as '{target.suffix}'; use .png")
    return target


def _is_suffix(given: str) -> bool:
    """Whether a name is an ending only, such as ``.gpkg``."""
    return given.startswith(".") and "/" not in given and not Path(given).suffix and len(given) > 1


def check_targets(
    jobs: Sequence[Job],
    options: PredictOptions,
    *,
    attempt: Callable[[Job], AbstractContextManager[None]] = lambda job: nullcontext(),
    existing: Callable[[Job], None] | None = None,
) -> None:
    """Check the targets of every job within ``attempt(job)``; jobs whose targets are all there go to `existing`
    instead, if given.

    Raises:
        InputError: two scenes would be written to the same file, or a target is a scene.
        TargetError: a target cannot be written.
    """
    owners: dict[Path, str] = {}
    scenes, clash = [job.scene for job in jobs], _is_any_read(jobs)
    for job in jobs:
        with attempt(job):
            if clash:
                check_not_read(job.targets(), scenes)
            _check_one(job, owners, options, existing)


def _is_any_read(jobs: Sequence[Job]) -> bool:
    """Whether a target of any job is a scene; asked once, as it looks at all the files."""
    try:
        check_not_read([target for job in jobs for target in job.targets()], [job.scene for job in jobs])
    except InputError:
        return True
    return False


def _check_one(
    job: Job, owners: dict[Path, str], options: PredictOptions, existing: Callable[[Job], None] | None
) -> None:
    for target in job.targets():
        if target in owners:
            raise InputError(
                f"{target}: would be written for both {owners[target]} and {job.scene}; run them separately"
            )
    owners.update(dict.fromkeys(job.targets(), job.scene))
    going_on = options.resume and holds_files(job.raster)
    leftover_is_wrong = not (options.resume or options.overwrite or options.shard)
    if existing is not None and not going_on:
        there = [path for path in job.results() if _exists(str(path))]
        if there == job.results():
            existing(job)
            return
        if there:
            if leftover_is_wrong:
                check_no_leftover(job.raster)
            missing = next(path for path in job.results() if path not in there)
            raise TargetError(
                f"{there[0]}: exists already, but {missing} does not; "
                "remove it, or take --overwrite in place of --skip-existing"
            )
    for target in job.targets():
        check_target(target, overwrite=options.overwrite or going_on)
    if leftover_is_wrong:
        check_no_leftover(job.raster)
