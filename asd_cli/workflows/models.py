"""A trained model in memory: detector, calibration and what the header says; to and from the model file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from asd_cli.density.calibration import Calibration
from asd_cli.density.moments import Moments
from asd_cli.errors import AsdError, ModelFileError, RasterError
from asd_cli.methods.base import Detector
from asd_cli.methods.registry import method_class
from asd_cli.model_file import read_model, write_model
from asd_cli.staging import StagedFiles
from asd_cli.workflows.mapping import BlockMapper


@dataclass(frozen=True)
class Model:
    """Everything that scoring needs. `moments` are those of the normal descriptors, where the method has some."""

    header: dict[str, Any]
    detector: Detector
    calibration: Calibration
    moments: Moments | None
    path: Path
    sha256: str = ""

    @property
    def band_indexes(self) -> tuple[int, ...]:
        """Bands of the training tiles that were used, counted from 1."""
        return tuple(int(i) for i in self.header["bands"]["indexes"])

    @property
    def pixel_size_m(self) -> float | None:
        """Pixel size of the training tiles in metres, or None when they had none."""
        size = self.header.get("pixel_size_m")
        return None if size is None else float(size)

    def mapper(self, device: torch.device) -> BlockMapper:
        """What turns chips into maps of distances."""
        return BlockMapper(prepared(self.detector, device).distances, self.detector.halo, device)

    def band_error(self, path: str, found: int) -> RasterError:
        """What to say of a raster whose bands do not fit."""
        wanted, names = self.detector.bands, ", ".join(self.header["bands"].get("names", []))
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
        }
        if self.moments is not None:
            parts["moments"] = moments_arrays(self.moments)
        with StagedFiles(overwrite=overwrite) as staged:
            temporary = staged.stage(self.path)
            write_model(temporary, self.header, parts)
            sha256 = read_model(temporary).sha256
            staged.commit()
        return sha256


def prepared(detector: Detector, device: torch.device) -> Detector:
    """The detector on a device, ready to score."""
    ready: Detector = detector.eval().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return ready


def load_model(path: Path) -> Model:
    """Read a model file and build its detector on the CPU.

    Raises:
        ModelFileError: the file is missing, damaged, or does not fit this version.
    """
    file = read_model(path)
    header = file.header
    try:
        bands = header["bands"]
        count, indexes = int(bands["count"]), [int(i) for i in bands["indexes"]]
        if not 1 <= count <= 4096 or len(indexes) != count:
            raise ValueError(f"{count} bands with {len(indexes)} indexes")
        detector = method_class(header["method"]).create(count, **header["config"])
        detector.load_arrays(file.part("method"))
        calibration = Calibration.from_arrays(file.part("calibration"))
        moments = moments_from(file.part("moments")) if file.part("moments") else None
    except AsdError as error:
        raise ModelFileError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: the model file does not describe a usable model ({error})") from error
    return Model(header, detector, calibration, moments, path, file.sha256)


def moments_arrays(moments: Moments) -> dict[str, NDArray[Any]]:
    """Moments as float64 arrays (the count as int64)."""
    return {
        "count": np.array(moments.count, np.int64),
        "mean": moments.mean,
        "second": moments.second,
        "third": moments.third,
        "fourth": np.array(moments.fourth, np.float64),
    }


def moments_from(arrays: Mapping[str, NDArray[Any]]) -> Moments:
    """What `moments_arrays` gave.

    Raises:
        ValueError: shapes do not belong together.
    """
    mean, second, third = arrays["mean"], arrays["second"], arrays["third"]
    if not (mean.ndim == 1 and second.shape == (len(mean), len(mean)) and third.shape == mean.shape):
        raise ValueError("moments of different lengths")
    count = int(arrays["count"])
    if count < 2:
        raise ValueError(f"moments of {count} pixels")
    return Moments(count, mean.copy(), second.copy(), third.copy(), float(arrays["fourth"]))
