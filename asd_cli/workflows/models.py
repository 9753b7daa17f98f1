"""A trained model in memory: detector, calibration and what the header says; to and from the model file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from asd_cli.data.known import KnownTiles
from asd_cli.data.tiles import TileSet
from asd_cli.density.calibration import Calibration
from asd_cli.density.moments import Moments
from asd_cli.density.normal import NormalPixels
from asd_cli.errors import AsdError, ModelFileError, RasterError
from asd_cli.methods.base import DescriptorDetector, Detector
from asd_cli.methods.registry import method_class
from asd_cli.model_file import read_model, write_model
from asd_cli.nn.devices import cpu_count
from asd_cli.raster.scene import Scene
from asd_cli.staging import StagedFiles
from asd_cli.workflows.mapping import BlockMapper, InTurns
from asd_cli.workflows.stages import StageClock

_MOST_PIXELS, _LARGEST = 1 << 60, 1e200  # of moments: beyond is damage


@dataclass(frozen=True)
class Model:
    """Everything that scoring needs. `normal` is what is known of normal pixels, where the method has descriptors of
    them; `tiles` are those that the networks are trained on."""

    header: dict[str, Any]
    detector: Detector
    calibration: Calibration
    normal: NormalPixels | None
    tiles: KnownTiles
    path: Path
    sha256: str = ""

    @property
    def band_indexes(self) -> tuple[int, ...]:
        """Bands of the training tiles that were used, counted from 1."""
        return tuple(self.header["bands"]["indexes"])

    def bands_of(self, given: Scene | TileSet) -> tuple[int, ...] | None:
        """Bands to choose in a scene or tiles opened without a choice; None: those that were taken are right.

        A file with as many bands as the training tiles had is taken to hold the same ones; but what it calls alpha is
        data only if the training tiles called it so.
        """
        bands, chosen = self.header["bands"], self.band_indexes
        masks = set(chosen) & set(given.tagged_alpha) - set(bands.get("alpha", ()))
        return chosen if given.file_bands == bands.get("of") and chosen != given.bands and not masks else None

    @property
    def pixel_size_m(self) -> float | None:
        """Pixel size of the training tiles in metres, or None when they had none."""
        size = self.header.get("pixel_size_m")
        return None if size is None else float(size)

    def mapper(
        self, device: torch.device, *, threads: int | None = None, clock: StageClock | None = None
    ) -> BlockMapper:
        """What turns chips into maps of distances."""
        engine = self.detector.distance_engine(device, self.detector.block_side(device))
        return BlockMapper(engine, self.detector.halo, threads=threads, clock=clock)

    def mappers(self, devices: Sequence[torch.device], *, threads: int | None, clock: StageClock) -> InTurns:
        """Mappers on several devices, each with weights of its own; processors share the threads."""
        if devices[0].type == "cpu":
            threads = max((threads or cpu_count()) // len(devices), 1)
        models = [self, *(replace(self, detector=deepcopy(self.detector)) for _ in devices[1:])]
        made = [
            model.mapper(device, threads=threads, clock=clock) for model, device in zip(models, devices, strict=True)
        ]
        return InTurns(made)

    def band_error(self, path: str, found: int) -> RasterError:
        """What to say of a raster whose bands do not fit."""
        wanted, names = self.detector.bands, ", ".join(self.header["bands"]["names"])
        return RasterError(
            f"{path}: {found} band{'s' * (found != 1)}, but the model was trained on {wanted} ({names}); "
            f"choose {wanted} with --bands"
        )

    def write(self, *, overwrite: bool) -> str:
        """Write the model file at `path`, whole or not at all; its SHA-256.

        Raises:
            OutputError: the target exists or cannot be written.
        """
        parts: dict[str, Mapping[str, NDArray[Any]]] = {
            "method": self.detector.arrays(),
            "calibration": self.calibration.to_arrays(),
            "tiles": self.tiles.to_arrays(),
        }
        if self.normal is not None:
            parts["moments"] = normal_arrays(self.normal)
        with StagedFiles(overwrite=overwrite) as staged:
            temporary = staged.stage(self.path)
            write_model(temporary, self.header, parts)
            sha256 = read_model(temporary).sha256
            staged.commit()
        return sha256


def load_model(path: Path) -> Model:
    """Read a model file and build its detector on the CPU.

    Raises:
        ModelFileError: the file is missing, damaged, or does not fit this version.
    """
    file = read_model(path)
    header = file.header
    try:
        detector = method_class(header["method"]).restore(
            header["bands"]["count"], header["config"], file.part("method")
        )
        calibration = Calibration.from_arrays(file.part("calibration"))
        normal = _normal_of(detector, file.part("moments"))
        tiles = KnownTiles.from_arrays(file.part("tiles"))
    except AsdError as error:
        raise ModelFileError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelFileError(f"{path}: the model file does not describe a usable model ({error})") from error
    return Model(header, detector, calibration, normal, tiles, path, file.sha256)


def _normal_of(detector: Detector, arrays: Mapping[str, NDArray[Any]]) -> NormalPixels | None:
    if not arrays:
        return None
    normal = normal_from(arrays)
    length = len(normal.moments.mean)
    if isinstance(detector, DescriptorDetector) and length != detector.length:
        raise ValueError(f"moments of {length} numbers for descriptors of {detector.length}")
    return normal


def normal_arrays(normal: NormalPixels) -> dict[str, NDArray[Any]]:
    """Normal pixels as float64 arrays (the count as int64)."""
    moments = normal.moments
    return {
        "count": np.array(moments.count, np.int64),
        "mean": moments.mean,
        "second": moments.second,
        "third": moments.third,
        "fourth": np.array(moments.fourth, np.float64),
        "within": normal.within,
        "squares": np.array(normal.squares, np.float64),
    }


def normal_from(arrays: Mapping[str, NDArray[Any]]) -> NormalPixels:
    """What `normal_arrays` gave; without ``within`` and ``squares``, as earlier versions wrote it, all pixels are taken
    to be of one tile.

    Raises:
        ValueError: shapes do not belong together, or values that no pixels have.
    """
    mean, second, third = (np.array(arrays[name], np.float64) for name in ("mean", "second", "third"))
    within = np.array(arrays.get("within", second), np.float64)
    square = (len(mean), len(mean)) if mean.ndim == 1 else None
    if not (second.shape == within.shape == square and third.shape == mean.shape):
        raise ValueError("moments of different lengths")
    count = int(arrays["count"])
    if not 2 <= count <= _MOST_PIXELS:
        raise ValueError(f"moments of {count} pixels")
    squares = float(arrays.get("squares", float(count) ** 2))
    normal = NormalPixels(Moments(count, mean, second, third, float(arrays["fourth"])), within, squares)
    if not _of_pixels(normal):
        raise ValueError("moments that no pixels have")
    return normal


def _of_pixels(normal: NormalPixels) -> bool:
    """Whether some pixels could have these moments, but for rounding."""
    count, second, within = float(normal.moments.count), normal.moments.second, normal.within
    for sums in (second, within):
        if np.abs(sums).max() > _LARGEST or not np.allclose(sums, sums.T, rtol=1e-6):
            return False
    inner, whole = np.diag(within), np.diag(second)
    return bool((inner >= 0).all() and (inner <= 1.001 * whole).all() and count <= normal.squares <= 1.001 * count**2)
