"""What lies beside a map: QGIS styles, STAC item, quicklook; written before the files of the map appear."""

from __future__ import annotations

from pathlib import Path

from asd_cli.errors import OutputError
from asd_cli.raster.gdal import open_raster, reading
from asd_cli.raster.overview import fitted, read_reduced
from asd_cli.raster.pictures import png
from asd_cli.raster.ramp import ScoreRamp
from asd_cli.staging import StagedFiles
from asd_cli.workflows.jobs import Job
from asd_cli.workflows.stac import MapFacts, Origin, stac_item
from asd_cli.workflows.style import qml

_QUICKLOOK_SIDE = 1024  # pixels, the longer side


def write_side_files(job: Job, raster: Path, staged: StagedFiles, origin: Origin | None) -> None:
    """Stage the files that `job` wants beside its map; `raster` is the finished map under its temporary name.

    `origin` is needed for a STAC item only. Memory does not depend on the scene.

    Raises:
        OutputError: a file cannot be written.
        RasterError: the map cannot be read.
    """
    with reading(job.raster), open_raster(raster) as dataset:
        facts = MapFacts.of(dataset)
    ramp = ScoreRamp(facts.tags["ASD_SCORE"], float(facts.tags["ASD_THRESHOLD"]))
    for style in job.styles:
        _write(staged, style, qml(ramp).encode())
    if job.quicklook is not None:
        _write(staged, job.quicklook, quicklook(raster, ramp, job.raster))
    if job.stac is not None and origin is not None:
        _write(staged, job.stac, stac_item(job, facts, origin).encode())


def quicklook(raster: Path, ramp: ScoreRamp, name: Path) -> bytes:
    """PNG of a score map in the colours of its style, ordinary pixels grey, no data transparent; from its overviews.

    `name` is what messages call it.
    """
    with reading(name), open_raster(raster) as dataset:
        seen = read_reduced(dataset, [1], fitted(dataset.shape, _QUICKLOOK_SIDE))
    scores = seen.pixels[0]
    scores[~seen.valid] = float("nan")
    return png(ramp.rgba(scores, below=True))


def _write(staged: StagedFiles, target: Path, content: bytes) -> None:
    try:
        staged.stage(target).write_bytes(content)
    except OSError as error:
        raise OutputError(
            f"{target}: cannot be written ({error.strerror}); check the free space and the permissions"
        ) from error
