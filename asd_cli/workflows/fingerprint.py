"""What the scores of a map depend on, in words: parts are used again only where all of it is the same."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from asd_cli import __version__
from asd_cli.errors import InputError, RasterError
from asd_cli.nn.devices import resolve_devices
from asd_cli.options import RUN_OPTIONS, PredictOptions
from asd_cli.raster.scene import Scene
from asd_cli.raster.windows import Window
from asd_cli.workflows.map_files import Source
from asd_cli.workflows.map_job import PolygonJob, first_difference
from asd_cli.workflows.mapping import Map
from asd_cli.workflows.masks import mask_files
from asd_cli.workflows.models import Model
from asd_cli.workflows.work_folder import WorkFolder

FREE_OPTIONS = RUN_OPTIONS | {
    *("scenes", "output", "model", "bands", "polygons", "write_polygons", "device", "command"),  # told in other ways
}
"""Options of `asd predict` in which runs may differ that work on one map."""
_LIBRARIES = ("torch", "onnxruntime", "numpy")
_OF_VIEWERS = ".aux.xml"  # QGIS writes statistics there when it shows a scene; what else it may hold is told apart
_SAMPLE = 64  # side of the windows that stand for the pixels of a scene


def fingerprint(scene: Scene, model: Model, options: PredictOptions, polygons: PolygonJob | None) -> dict[str, str]:
    """Names, for people, with what must be the same in all runs that work on one map."""
    found = {"the version of asd": __version__}
    found |= {f"the version of {name}": _version(name) for name in _LIBRARIES}
    found["the model"] = f"{model.path.name}, SHA-256 {model.sha256}"
    found["the device"] = resolve_devices(options.device)[0].type
    given = {field.name: getattr(options, field.name) for field in fields(options) if field.name not in FREE_OPTIONS}
    found |= {f"--{name.replace('_', '-')}": str(value) for name, value in given.items()}
    found["the polygons"] = "none" if polygons is None else polygons.file
    found |= {"the scene": Path(scene.path).name, "its size": f"{scene.grid.width} x {scene.grid.height} px"}
    found["its bands"] = ",".join(map(str, scene.bands))
    found |= _states(scene, options)
    found["its nodata"] = ", ".join("none" if value is None else f"{value!r}" for value in scene.nodata_values)
    found["its georeference"] = f"{zlib.crc32(str(scene.grid.to_json()).encode()):08x}"
    return found | {"its pixels": _sample(scene)}


def unchanged(source: Source, work: WorkFolder, scene: Scene, options: PredictOptions) -> Source:
    """`source`, but after its last window it fails if a file of the scene or a mask is not as its fingerprint tells;
    what this run has kept counts no more then, as some of it is of the one state and some of the other."""

    def give(take: Callable[[Window, Map], None]) -> None:
        source(take)
        was = work.job.fingerprint
        now = _states(scene, options)
        if difference := first_difference({name: was[name] for name in now}, now):
            work.forget()
            raise InputError(
                f"{scene.path}: was changed while it was mapped ({difference}), so nothing is kept; run again when "
                "no other program writes to it"
            )

    return give


def _states(scene: Scene, options: PredictOptions) -> dict[str, str]:
    """The files of a scene, and its masks."""
    files = [name for name in scene.files if not name.endswith(_OF_VIEWERS)]
    found = {f"its file {Path(name).name}": _state(name) for name in files}
    return found | {f"the mask {Path(name).name}": _state(name) for name in mask_files(options, scene.path)}


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"


def _state(name: str) -> str:
    try:
        status = Path(name).stat()
    except (OSError, ValueError):  # a name of GDAL's own
        return "no file"
    return f"{status.st_size} bytes of {status.st_mtime_ns / 1e9:.6f}"


def _sample(scene: Scene) -> str:
    """Checksum of some windows: first, middle and last."""
    checksum, grid = 0, scene.grid
    height, width = min(_SAMPLE, grid.height), min(_SAMPLE, grid.width)
    for part in (0, 1, 2):
        window = Window((grid.height - height) * part // 2, (grid.width - width) * part // 2, height, width)
        try:
            chip = scene.read(window)
        except RasterError:  # told when its turn comes
            continue
        checksum = zlib.crc32(chip.valid.tobytes(), zlib.crc32(chip.pixels.tobytes(), checksum))
    return f"{checksum:08x}"
