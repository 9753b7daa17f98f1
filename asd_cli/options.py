"""The options of each command, one frozen dataclass a command. The command line takes its defaults from here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

RECIPES = ("standard", "quick", "paper")
LOSSES = ("compact", "diverse", "feature-rich")
LOSS_FORMS = ("published", "paper")
ON_ERROR = ("fail", "skip")
ON_BAD_BLOCK = ("fail", "mask")
SCORES = ("unit", "distance", "far")
POLYGON_SUFFIXES = (".gpkg", ".geojson", ".fgb", ".parquet")
DEFAULT_MODEL = "asd_model.safetensors"
MODEL_VARIABLE = "ASD_MODEL"
LAYOUTS = (
    "auto",
    "deepglobe",
    "agriculture-vision",
    "landslide4sense",
    "landslide4sense-undivided",
    "fas",
)
FIRST_HALF = "first-half"


@dataclass(frozen=True)
class TileOptions:
    """How training tiles and their labels are read; shared by `train`, `fit-gaussian` and `evaluate`."""

    tiles: tuple[str, ...] = ()
    normal: tuple[str, ...] = ()
    labels: str | None = None
    label_field: str | None = None
    ignore_label: tuple[str, ...] = ()
    bands: tuple[int, ...] | None = None
    nodata: float | None = None
    layout: str = "auto"


@dataclass(frozen=True)
class TrainOptions:
    """Options of `asd train`."""

    tiles: TileOptions = field(default_factory=TileOptions)
    output: Path = Path(DEFAULT_MODEL)
    method: str = "asd"
    method_options: tuple[tuple[str, str], ...] = ()
    recipe: Literal["standard", "quick", "paper"] = "standard"
    steps: int | None = None
    crop: int | None = None
    crops: int | None = None
    length: int | None = None
    scales: tuple[float, ...] | None = None
    patch_size: int = 15
    without: tuple[str, ...] = ()
    loss_form: Literal["published", "paper"] = "published"
    unlabelled: bool = False
    holdout: float = 0.2
    false_alarm_rate: float = 0.001
    seed: int = 0
    device: str = "auto"
    log: Path | None = None
    resume: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class FitGaussianOptions:
    """Options of `asd fit-gaussian`."""

    tiles: TileOptions = field(default_factory=TileOptions)
    model: Path | None = None
    output: Path = Path(DEFAULT_MODEL)
    update: bool = False
    holdout: float = 0.2
    false_alarm_rate: float | None = None
    seed: int = 0
    device: str = "auto"
    overwrite: bool = False


@dataclass(frozen=True)
class PredictOptions:
    """Options of `asd predict`."""

    scenes: tuple[str, ...] = ()
    output: str = "anomaly.tif"
    model: Path | None = None
    score: Literal["unit", "distance", "far"] = "unit"
    false_alarm_rate: float | None = None
    threshold: float | None = None
    polygons: str | None = None
    write_polygons: bool = True
    min_area: float = 0.0
    simplify: float = 0.0
    connectivity: Literal[4, 8] = 8
    min_score: float | None = None
    mask: str | None = None
    area: str | None = None
    style: bool = True
    stac: bool = False
    quicklook: str | None = None
    bands: tuple[int, ...] | None = None
    nodata: float | None = None
    window: int | None = None
    max_memory: int = 256
    threads: int | None = None
    workers: int | None = None
    device: str = "auto"
    resume: bool = False
    shard: tuple[int, int] | None = None
    scheduler: str | None = None
    on_error: Literal["fail", "skip"] = "fail"
    on_bad_block: Literal["fail", "mask"] = "fail"
    skip_existing: bool = False
    report: Path | None = None
    overwrite: bool = False
    command: str = "asd predict"


RUN_OPTIONS = frozenset(
    {
        *("window", "max_memory", "threads", "workers", "resume", "shard", "scheduler"),
        *("on_error", "skip_existing", "report", "overwrite"),
    }
)
"""Options of `asd predict` that say how it runs: the files of a map are the same for all of them."""


@dataclass(frozen=True)
class PolygonsOptions:
    """Options of `asd polygons`; the model is needed for a false-alarm rate alone."""

    map: str = "anomaly.tif"
    output: Path = Path("polygons.gpkg")
    model: Path | None = None
    false_alarm_rate: float | None = None
    threshold: float | None = None
    min_area: float = 0.0
    simplify: float = 0.0
    connectivity: Literal[4, 8] = 8
    min_score: float | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class ExportOptions:
    """Options of `asd export`; `deepness` is the side in pixels of the tiles of that QGIS plug-in."""

    model: Path = Path(DEFAULT_MODEL)
    output: Path = Path("model.onnx")
    score: Literal["unit", "distance", "far"] = "unit"
    same_size: bool = False
    deepness: int | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class MergeOptions:
    """Options of `asd merge`; `maps` are targets of `asd predict --shard`, or their work folders."""

    maps: tuple[Path, ...] = ()
    overwrite: bool = False


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of `asd evaluate`: a score raster with `labels`, or tiles with a `model`, whose calibrated threshold is
    that of `false_alarm_rate` (None: its own)."""

    tiles: TileOptions = field(default_factory=TileOptions)
    model: Path | None = None
    csv: Path | None = None
    plots: Path | None = None
    false_alarm_rate: float | None = None
    exact_limit: int = 4_000_000
    device: str = "auto"
    overwrite: bool = False


@dataclass(frozen=True)
class ReportOptions:
    """Options of `asd report`; `bands` are those of the scene that are shown."""

    raster: Path = Path("anomaly.tif")
    output: Path = Path("report.html")
    scene: str | None = None
    polygons: Path | None = None
    bands: tuple[int, ...] | None = None
    top: int = 12
    overwrite: bool = False


@dataclass(frozen=True)
class Variant:
    """One row of a comparison: its name, and the fields of `TrainOptions` in which it differs from the others."""

    name: str
    changes: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class CompareOptions:
    """Options of `asd compare`; `method_options` are (METHOD:KEY, VALUE), `split` is first-half or a CSV file."""

    tiles: TileOptions = field(default_factory=TileOptions)
    output: Path = Path("compare")
    methods: tuple[str, ...] = ()
    method_options: tuple[tuple[str, str], ...] = ()
    variants: tuple[Variant, ...] = ()
    ablation: bool = False
    split: str = FIRST_HALF
    folds: int | None = None
    maps: int = 4
    recipe: Literal["standard", "quick", "paper"] = "standard"
    steps: int | None = None
    holdout: float = 0.2
    false_alarm_rate: float = 0.001
    seed: int = 0
    device: str = "auto"
    overwrite: bool = False
