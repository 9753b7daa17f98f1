"""`asd info`: what a model file is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asd_cli.workflows.models import load_model


def describe_model(path: Path) -> dict[str, Any]:
    """Method, bands, training, calibration and hash of a model file, JSON-ready.

    Raises:
        ModelFileError: the file cannot be used.
    """
    model = load_model(path)
    header, calibration = model.header, model.calibration
    held_out = header.get("held_out")
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "sha256": model.sha256,
        "asd_version": header["asd_version"],
        "method": header["method"],
        **header["config"],
        "halo_px": model.detector.halo,
        "parameters": sum(p.numel() for p in model.detector.parameters()),
        "normal": header["normal"],
        "bands": header["bands"]["names"],
        "band_indexes": list(model.band_indexes),
        "dtype": header["bands"].get("dtype"),
        "pixel_size_m": header.get("pixel_size_m"),
        "normal_pixels": None if model.normal is None else model.normal.moments.count,
        "held_out_pixels": calibration.count,
        "false_alarm_rate": calibration.false_alarm_rate,
        "threshold_distance": calibration.threshold,
        **_prefixed("held_out", held_out if isinstance(held_out, dict) else {}),
        **_prefixed("training", header.get("training", {})),
    }


def _prefixed(prefix: str, facts: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}_{key}": value for key, value in facts.items()}
