"""STAC item of a map: what it is, where it lies, when its scene was taken, and what made it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from asd_cli.raster.acquired import Moment, acquired
from asd_cli.raster.gdal import open_raster, reading
from asd_cli.raster.grid import Grid
from asd_cli.vector.footprint import footprint
from asd_cli.workflows.jobs import Job
from asd_cli.workflows.models import Model

STAC_VERSION = "1.1.0"
_EXTENSIONS = {"projection": "v2.0.0", "raster": "v1.1.0", "processing": "v1.1.0", "mlm": "v1.4.0"}
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_POLYGON_TYPES = {
    ".gpkg": "application/geopackage+sqlite3",
    ".geojson": "application/geo+json",
    ".fgb": "application/vnd.flatgeobuf",
    ".parquet": "application/vnd.apache.parquet",
}
_ANY_TIME = {"start_datetime": "0001-01-01T00:00:00Z", "end_datetime": "9999-12-31T23:59:59Z"}
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_.\- ]+")


@dataclass(frozen=True)
class Origin:
    """What an item tells of scene and model beyond the map's tags: the model file (relative to the folder of the item),
    its bands, when the scene was taken.

    Plain values, so that a map can be finished where neither is at hand, from any folder.
    """

    model: str
    bands: tuple[str, ...]
    dtype: str
    acquired: Moment | None

    @classmethod
    def of(cls, scene: str, model: Model, folder: Path) -> Origin:
        """Read from the scene's tags and the model; `folder` is that of the item.

        Raises:
            RasterError: the scene cannot be read.
        """
        bands = model.header["bands"]
        with reading(scene), open_raster(scene) as dataset:
            moment = acquired(dataset, scene)
        file = os.path.relpath(model.path, folder)
        return cls(file, tuple(bands["names"]), str(bands.get("dtype") or "other"), moment)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Origin:
        """What `to_json` gave."""
        moment = values["acquired"]
        found = None if moment is None else Moment(**moment)
        return cls(values["model"], tuple(values["bands"]), values["dtype"], found)


@dataclass(frozen=True)
class MapFacts:
    """What a finished map tells of itself: its grid, tags, and the description, unit and statistics of its band."""

    grid: Grid
    tags: Mapping[str, str]
    description: str
    unit: str
    statistics: Mapping[str, str]

    @classmethod
    def of(cls, dataset: Any) -> MapFacts:
        """From an open raster that `asd predict` made."""
        description, unit = dataset.descriptions[0] or "", dataset.units[0] or ""
        return cls(Grid.from_dataset(dataset), dataset.tags(), description, unit, dataset.tags(1))


def stac_item(job: Job, facts: MapFacts, origin: Origin) -> str:
    """The item as JSON; equal inputs give equal bytes. Links are relative to the item, which lies beside the raster."""
    where, tags = footprint(facts.grid), facts.tags
    scene, model = tags["ASD_SCENE"], tags["ASD_MODEL"]
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [
            f"https://stac-extensions.github.io/{name}/{version}/schema.json" for name, version in _EXTENSIONS.items()
        ],
        "id": job.raster.stem,
        "geometry": None if where is None else where.geometry,
        **({} if where is None else {"bbox": list(where.bbox)}),  # forbidden without a geometry
        "properties": {
            **_time(origin.acquired),
            "title": f"Anomalies of {scene}",
            "description": f"{facts.description} ({facts.unit}) and polygons around what is anomalous",
            **_projection(facts.grid),
            "processing:software": {"asd": tags["ASD_VERSION"]},
            "processing:lineage": f"{scene} scored by {model} ({tags['ASD_METHOD']})",
            **_model(facts, origin),
            "asd:score": tags["ASD_SCORE"],
            "asd:threshold": float(tags["ASD_THRESHOLD"]),
            "asd:false_alarm_rate": float(tags["ASD_FALSE_ALARM_RATE"]),
            "asd:model_sha256": tags["ASD_MODEL_SHA256"],
        },
        "links": [],
        "assets": _assets(job, facts, origin),
    }
    return json.dumps(item, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _time(moment: Moment | None) -> dict[str, Any]:
    """A scene whose time nobody knows may be of any: the specification asks for a time or an interval."""
    if moment is None:
        return {"datetime": None, **_ANY_TIME, "asd:datetime_source": "unknown"}
    return {"datetime": moment.text, "asd:datetime_source": moment.source}


def _projection(grid: Grid) -> dict[str, Any]:
    authority = None if grid.crs is None else grid.crs.to_authority()
    code = None if authority is None else ":".join(authority)
    found: dict[str, Any] = {"proj:code": code, "proj:shape": list(grid.shape)}
    if grid.crs is not None and code is None:
        found["proj:wkt2"] = grid.crs.to_wkt(version="WKT2_2019")
    if not grid.transform.is_identity:
        t = grid.transform
        found["proj:transform"] = [t.a, t.b, t.c, t.d, t.e, t.f]
        corners = [(x, y) for x in (0, grid.width) for y in (0, grid.height)]
        xs, ys = zip(*((t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f) for x, y in corners), strict=True)
        found["proj:bbox"] = [min(xs), min(ys), max(xs), max(ys)]
    return found


def _model(facts: MapFacts, origin: Origin) -> dict[str, Any]:
    sides = {"dim_order": ["batch", "channel", "height", "width"], "data_type": "float32"}
    bands = list(origin.bands)
    taken = {"name": "bands of the scene", "bands": bands, "input": {"shape": [-1, len(bands), -1, -1], **sides}}
    given = {"name": facts.description, "description": facts.unit, "tasks": ["segmentation"]}
    return {
        "mlm:name": _model_name(Path(origin.model).stem),
        "mlm:architecture": facts.tags["ASD_METHOD"],
        "mlm:framework": "PyTorch",
        "mlm:tasks": ["segmentation"],
        "mlm:input": [taken],
        "mlm:output": [{**given, "result": {"shape": [-1, 1, -1, -1], **sides}}],
    }


def _model_name(stem: str) -> str:
    """Letters, digits and a few signs, with a letter first and no sign last, as the extension asks."""
    name = _NOT_IN_NAMES.sub("_", stem).rstrip("_.- ")
    return name if len(name) > 2 and name[0].isalpha() else f"asd-{name or 'model'}"


def _assets(job: Job, facts: MapFacts, origin: Origin) -> dict[str, Any]:
    folder = (job.stac or job.raster).parent
    assets: dict[str, Any] = {
        "raster": {
            "href": _href(job.raster, folder),
            "type": _COG,
            "title": "Score map",
            "roles": ["data"],
            "raster:bands": [_band(facts)],
        }
    }
    if job.polygons is not None:
        kind = _POLYGON_TYPES[job.polygons.suffix.lower()]
        assets["polygons"] = _asset(job.polygons, folder, kind, "Anomalies", "data")
    if job.quicklook is not None:
        assets["quicklook"] = _asset(job.quicklook, folder, "image/png", "Quicklook", "overview")
    for style in job.styles:
        name = "style" if style.stem == job.raster.stem else "polygon_style"
        assets[name] = _asset(style, folder, "application/x-qgis-layer-settings", "QGIS style", "metadata")
    assets["model"] = _asset(folder / origin.model, folder, "application/octet-stream", "Model file", "mlm:model")
    assets["model"]["raster:bands"] = [{"name": name, "data_type": origin.dtype} for name in origin.bands]
    return assets


def _asset(path: Path, folder: Path, kind: str, title: str, role: str) -> dict[str, Any]:
    return {"href": _href(path, folder), "type": kind, "title": title, "roles": [role]}


def _band(facts: MapFacts) -> dict[str, Any]:
    names = ("minimum", "maximum", "mean", "stddev", "valid_percent")
    found = {name: facts.statistics.get(f"STATISTICS_{name.upper()}") for name in names}
    band = {
        "name": facts.tags["ASD_SCORE"],
        "description": facts.description,
        "unit": facts.unit,
        "data_type": "float32",
        "nodata": "nan",
        "sampling": "point" if facts.grid.area_or_point == "Point" else "area",
        "statistics": {name: float(value) for name, value in found.items() if value is not None},
    }
    size = facts.grid.pixel_size_m
    return band if size is None else {**band, "spatial_resolution": size}


def _href(path: Path, folder: Path) -> str:
    """Relative URL of a file."""
    return "./" + quote(Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix())
