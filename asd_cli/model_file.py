"""The model file: one safetensors file with a JSON header. It holds numbers and text, no code; nothing is unpickled.

Header (the text under the one metadata key ``asd``): format, version, method, config, bands, pixel size, normal
classes, training, figures. Tensors: ``method.*`` weights and buffers, ``moments.*`` of the normal descriptors,
``calibration.*``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asd_cli import __version__
from asd_cli.errors import ModelFileError

FORMAT = "asd-model"
FORMAT_VERSION = 1
_MAX_FILE = 1 << 30
_MAX_HEADER = 8 << 20
_REQUIRED: dict[str, type | tuple[type, ...]] = {
    "format": str,
    "format_version": int,
    "asd_version": str,
    "method": str,
    "config": dict,
    "bands": dict,
    "normal": list,
}

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class ModelFile:
    """A model file in memory: `header` is JSON-ready, `arrays` are named with their part's prefix, `sha256` is the
    file's."""

    header: dict[str, Any]
    arrays: Arrays = field(repr=False)
    sha256: str = ""

    def part(self, prefix: str) -> Arrays:
        """Tensors named ``prefix.*``, without the prefix."""
        return {k[len(prefix) + 1 :]: v for k, v in self.arrays.items() if k.startswith(f"{prefix}.")}


def model_header(**fields: Any) -> dict[str, Any]:
    """A header of this format and version with the given fields."""
    return {**fields, "format": FORMAT, "format_version": FORMAT_VERSION, "asd_version": __version__}


def write_model(path: Path, header: Mapping[str, Any], parts: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
    """Write a model file; the same content gives the same bytes. `parts` maps a prefix to its tensors."""
    from safetensors.numpy import save

    arrays = {f"{prefix}.{k}": np.array(v, order="C") for prefix, part in parts.items() for k, v in part.items()}
    # a single metadata key: several would be written in random order
    path.write_bytes(save(arrays, metadata={"asd": json.dumps(header, sort_keys=True, allow_nan=False)}))


def read_model(path: Path) -> ModelFile:
    """Read and check a model file.

    Raises:
        ModelFileError: it is missing, too large, damaged, not ours, of a newer version, or holds numbers that are not
        finite.
    """
    if not path.is_file():
        raise ModelFileError(f"{path}: no such model file")
    size = path.stat().st_size
    if size > _MAX_FILE:
        raise ModelFileError(f"{path}: {size} bytes is too large for a model file (limit {_MAX_FILE})")
    raw = path.read_bytes()
    header = _check_header(path, raw)
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = dict(load(raw))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{path}: damaged model file ({error})") from error
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ModelFileError(f"{path}: tensor {name} holds values that are not finite; train again")
    return ModelFile(header, arrays, hashlib.sha256(raw).hexdigest())


def _check_header(path: Path, raw: bytes) -> dict[str, Any]:
    length = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or not 2 <= length <= min(_MAX_HEADER, len(raw) - 8):
        raise ModelFileError(f"{path}: not a model file (no safetensors header)")
    try:
        text = json.loads(raw[8 : 8 + length]).get("__metadata__", {}).get("asd")
        header = json.loads(text) if isinstance(text, str) else None
    except (ValueError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path}: not a model file (unreadable header)") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ModelFileError(f"{path}: a safetensors file, but not one that asd wrote")
    version = header.get("format_version")
    if version != FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: model format {version}, this asd ({__version__}) reads format {FORMAT_VERSION}; "
            "install a matching asd or train again"
        )
    for key, kind in _REQUIRED.items():
        if not isinstance(header.get(key), kind):
            raise ModelFileError(f"{path}: the model header has no valid {key!r}")
    return header
