"""`asd report`: a finished map as one HTML page that needs nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asd_cli.errors import InputError, OutputError, RasterError
from asd_cli.options import POLYGON_SUFFIXES, ReportOptions
from asd_cli.staging import check_not_read, check_target, write_text
from asd_cli.vector.strongest import Strongest, read_strongest
from asd_cli.workflows.report_page import Page, render
from asd_cli.workflows.report_pictures import Drawn, Input, draw_anomalies, open_input, score_layer
from asd_cli.workflows.report_scan import Scan, scan_map

_DRAWN = 3000  # polygons that may be outlined on the map
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReportSummary:
    """What the page tells, in short; `scene` and `polygons` are None where there are none."""

    report: Path
    raster: Path
    scene: str | None
    polygons: Path | None
    width: int
    height: int
    valid_pixels: int
    anomalous_pixels: int
    expected_false_alarms: float | None
    polygon_count: int | None
    shown: int

    def summary(self) -> str:
        """One line for people."""
        share = self.anomalous_pixels / max(self.valid_pixels, 1)
        found = "" if self.polygons is None else f", {self.polygon_count} polygons, {self.shown} of them close up"
        return (
            f"{self.report}: {self.width} x {self.height} px, {share:.3%} of {self.valid_pixels} valid pixels "
            f"anomalous{found}, {'without the scene' if self.scene is None else f'with {self.scene}'}"
        )

    def as_json(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return asdict(self)


def make_report(
    options: ReportOptions, progress: Callable[[int, int], None] = lambda done, total: None
) -> ReportSummary:
    """Write the page; memory does not grow with the map.

    Raises:
        AsdError: map, scene or polygons cannot be used, or the page cannot be written.
    """
    if options.output.suffix.lower() not in (".html", ".htm"):
        raise OutputError(f"{options.output}: a report is a web page; name it .html")
    if options.bands is not None and len(options.bands) not in (1, 3):
        raise InputError(f"--bands: {len(options.bands)} bands make no picture; give one or three")
    polygons = options.polygons or _beside(options.raster)
    check_not_read([options.output], [name for name in (options.raster, polygons, options.scene) if name])
    check_target(options.output, overwrite=options.overwrite)
    scan = scan_map(options.raster, progress)
    found = None
    if polygons is not None:
        most = max(_DRAWN, options.top)
        found = read_strongest(polygons, most, lower_is_anomalous=scan.ramp.lower_is_anomalous)
    with ExitStack() as stack:
        shown = _input(stack, options, scan)
        page = Page(
            raster=options.raster.name,
            scan=scan,
            input=shown,
            scores=score_layer(scan, below=shown is None),
            polygons=None if polygons is None else polygons.name,
            drawn=_drawn(options, scan, found, shown),
        )
        text = render(page)
    write_text(options.output, text, overwrite=options.overwrite)
    drawn = page.drawn
    return ReportSummary(
        report=options.output,
        raster=options.raster,
        scene=None if shown is None else shown.path,
        polygons=polygons,
        width=scan.grid.width,
        height=scan.grid.height,
        valid_pixels=scan.valid,
        anomalous_pixels=scan.anomalous,
        expected_false_alarms=page.expected,
        polygon_count=None if drawn is None else drawn.total,
        shown=0 if drawn is None else len(drawn.anomalies),
    )


def _beside(raster: Path) -> Path | None:
    """Polygons of the same name."""
    return next((path for suffix in POLYGON_SUFFIXES if (path := raster.with_suffix(suffix)).is_file()), None)


def _input(stack: ExitStack, options: ReportOptions, scan: Scan) -> Input | None:
    """The scene: the one given, else the one that the map names if it lies beside it and can be used."""
    cells = scan.reduction.cells
    if options.scene is not None:
        return stack.enter_context(open_input(options.scene, scan.grid, options.bands, cells))
    name = Path(scan.tags.get("ASD_SCENE", "")).name  # the name only: a tag must not lead elsewhere
    beside = options.raster.with_name(name) if name else options.raster
    if not name or not beside.is_file() or beside.samefile(options.raster):
        if options.bands is not None:
            raise InputError("--bands: the scene is not beside the map; name it with --scene")
        return None
    try:
        return stack.enter_context(open_input(str(beside), scan.grid, options.bands, cells))
    except RasterError as error:
        if options.bands is not None:
            raise
        _log.warning("%s; the report goes without the scene", error)
        return None


def _drawn(options: ReportOptions, scan: Scan, found: Strongest | None, shown: Input | None) -> Drawn | None:
    return None if found is None else draw_anomalies(options.raster, scan, found, options.top, shown)
