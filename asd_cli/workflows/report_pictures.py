"""The pictures of a report: the scene and the scores seen from afar, polygons, and the strongest anomalies close up."""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asd_cli.errors import RasterError
from asd_cli.raster.gdal import open_raster, reading
from asd_cli.raster.grid import Grid
from asd_cli.raster.overview import fitted, read_reduced, shown_bands
from asd_cli.raster.pictures import Limits, jpeg, png, stretch_limits, stretched
from asd_cli.raster.ramp import ScoreRamp
from asd_cli.raster.scene import Scene
from asd_cli.raster.windows import Window
from asd_cli.vector.strongest import Strongest, in_pixels, svg_path
from asd_cli.workflows.report_scan import Scan

_log = logging.getLogger(__name__)
_CHIP_SIDE = 200  # pixels of a picture
_LEAST_SEEN, _AROUND = 64, 1.6  # pixels of the scene on a chip: at least, and times the polygon's size
_MOST_POINTS = 500_000  # characters of all outlines together


@dataclass(frozen=True)
class Layer:
    """A picture as a data URI, and what it shows in words."""

    uri: str
    text: str


@dataclass(frozen=True)
class Anomaly:
    """One of the strongest polygons; `left` and `top` in percent of the map, `outline` in cells of the map, `inset` in
    thousandths of its chip's longer side."""

    number: int
    score: str
    area: str
    place: str
    lonlat: str
    left: float
    top: float
    outline: str
    inset: str
    box: str
    input: Layer | None
    scores: Layer


@dataclass(frozen=True)
class Drawn:
    """Polygons on the map: the strongest with their pictures, the outlines of others, how many are drawn and known."""

    anomalies: list[Anomaly]
    others: str
    drawn: int
    total: int


class Input:
    """The scene as people see it: some of its bands, stretched alike in all pictures."""

    def __init__(self, path: str, dataset: Any, bands: tuple[int, ...], cells: tuple[int, int]) -> None:
        self.bands, self.path = bands, path
        seen = read_reduced(dataset, bands, cells)
        photo = {dataset.dtypes[band - 1] for band in bands} == {"uint8"}
        self._limits: Limits = stretch_limits(seen.pixels, seen.valid, alike=photo)
        self.overview = _uri(jpeg(stretched(seen.pixels, seen.valid, self._limits)), "jpeg")

    def chip(self, window: Window) -> str | None:
        """A window as a data URI; None, with a warning, where the scene is damaged."""
        try:
            # opened for each: after a read that failed a file is not to be trusted
            with reading(self.path), open_raster(self.path) as dataset:
                seen = read_reduced(dataset, self.bands, fitted(window.shape, _CHIP_SIDE), window)
        except RasterError as error:
            _log.warning("%s; an anomaly is shown without the scene", error)
            return None
        return _uri(jpeg(stretched(seen.pixels, seen.valid, self._limits)), "jpeg")


@contextmanager
def open_input(path: str, grid: Grid, bands: tuple[int, ...] | None, cells: tuple[int, int]) -> Iterator[Input]:
    """The scene of a map on `grid`.

    Raises:
        RasterError: it cannot be read, or does not lie on the grid.
    """
    with Scene.open(path, bands=bands) as scene:  # says what is wrong with it
        if not scene.grid.same_as(grid):
            raise RasterError(f"{path}: does not lie on the map's pixels; give the scene that the map was made from")
    with reading(path), open_raster(path) as dataset:
        yield Input(path, dataset, bands or shown_bands(dataset), cells)


def score_layer(scan: Scan, *, below: bool) -> str:
    """Data URI of the most anomalous scores of the cells; ordinary ones grey if `below`, else transparent."""
    return _uri(png(scan.ramp.rgba(scan.cells, below=below)), "png")


def draw_anomalies(path: Path, scan: Scan, found: Strongest, top: int, shown: Input | None) -> Drawn:
    """The `top` strongest polygons close up, and the outlines of as many others as a page can bear."""
    shapes = in_pixels(found.frame, scan.grid)
    cell = 1 / scan.reduction.factor
    anomalies = []
    with reading(str(path)), open_raster(path) as scores:
        for number, (shape, (_, row)) in enumerate(zip(shapes[:top], found.frame.iterrows(), strict=False), start=1):
            anomalies.append(_anomaly(number, shape, row, scan, _Closer(scores, scan.ramp, shown)))
    others, length = [], 0
    for shape in shapes[top:]:
        others.append(svg_path(shape, cell))
        length += len(others[-1])
        if length > _MOST_POINTS:
            break
    return Drawn(anomalies, "".join(others), len(anomalies) + len(others), found.total)


@dataclass(frozen=True)
class _Closer:
    """Cuts chips out of the scores and the scene."""

    scores: Any
    ramp: ScoreRamp
    shown: Input | None

    def score_chip(self, window: Window) -> str:
        """A window of the scores as a data URI."""
        seen = read_reduced(self.scores, [1], fitted(window.shape, _CHIP_SIDE), window)
        values: NDArray[np.float32] = np.where(seen.valid, seen.pixels[0], np.float32(np.nan))
        return _uri(png(self.ramp.rgba(values, below=True)), "png")


def _anomaly(number: int, shape: Any, row: Any, scan: Scan, closer: _Closer) -> Anomaly:
    grid, cell = scan.grid, 1 / scan.reduction.factor
    text, window = f"anomaly {number}", chip_window(shape.bounds, grid.shape)
    middle = shape.representative_point()
    t = grid.drawn().transform
    x, y = t.a * middle.x + t.b * middle.y + t.c, t.d * middle.x + t.e * middle.y + t.f
    scale = 1000 / max(window.shape)
    name = "" if grid.crs is None or grid.transform.is_identity else f" ({_crs_name(grid)})"
    input_chip = None if closer.shown is None else closer.shown.chip(window)
    return Anomaly(
        number=number,
        score=f"{row['score_max']:.4g}",
        area=_area(row),
        place=f"{x:.{_digits(t)}f}, {y:.{_digits(t)}f}{name}",
        lonlat=_lonlat(row),
        left=round(100 * middle.x * cell / scan.reduction.cells[1], 3),
        top=round(100 * middle.y * cell / scan.reduction.cells[0], 3),
        outline=svg_path(shape, cell),
        inset=svg_path(shape, scale, (window.col, window.row)),
        box=f"0 0 {window.width * scale:.1f} {window.height * scale:.1f}",
        input=None if input_chip is None else Layer(input_chip, f"Scene around {text}"),
        scores=Layer(closer.score_chip(window), f"Scores around {text}"),
    )


def chip_window(bounds: tuple[float, float, float, float], shape: tuple[int, int]) -> Window:
    """A square around (left, top, right, bottom) in pixels, with some surroundings, inside a raster of `shape`."""
    left, top, right, bottom = bounds
    side = max(_LEAST_SEEN, round(_AROUND * max(right - left, bottom - top)))
    height, width = (min(side, length) for length in shape)
    row = min(max(round((top + bottom - height) / 2), 0), shape[0] - height)
    col = min(max(round((left + right - width) / 2), 0), shape[1] - width)
    return Window(row, col, height, width)


def _area(row: Any) -> str:
    area, pixels = row.get("area_m2"), row.get("pixels")
    if area is None or not np.isfinite(area):
        return "area unknown" if pixels is None else f"{int(pixels):,} px"
    return f"{area / 1e6:,.2f} km²" if area >= 1e6 else f"{area:,.4g} m²" if area < 1e4 else f"{area:,.0f} m²"


def _lonlat(row: Any) -> str:
    lon, lat = row.get("lon"), row.get("lat")
    if lon is None or lat is None or not (np.isfinite(lon) and np.isfinite(lat)):
        return ""
    return f"{abs(lat):.5f}° {'N' if lat >= 0 else 'S'}, {abs(lon):.5f}° {'E' if lon >= 0 else 'W'}"


def _digits(transform: Any) -> int:
    """Decimals that tell pixels apart."""
    size = min(np.hypot(transform.a, transform.d), np.hypot(transform.b, transform.e))
    return int(np.clip(np.ceil(-np.log10(size)) + 1, 0, 9))


def _crs_name(grid: Grid) -> str:
    authority = None if grid.crs is None else grid.crs.to_authority()
    return "map coordinates" if authority is None else ":".join(authority)


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{b64encode(content).decode()}"
