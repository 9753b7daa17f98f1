"""The model file: one safetensors file with a JSON header. It holds numbers and text, no code; nothing is unpickled.

Header (the text under the one metadata key ``asd``): format, version, method, config, bands, pixel size, normal
classes, training, figures, and a digest of all of it and the tensors, so that damage shows. Tensors: ``method.*``
weights and buffers, ``moments.*`` of the normal descriptors, ``calibration.*``, ``tiles.*`` of the training.
"""

from __future__ import annotations

import hashlib
import json
import math
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
    "digest": str,
}
_MAX_BANDS = 4096
_MAX_DEPTH = 16  # of lists and objects in the header

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
    text = json.dumps({**header, "digest": _digest(header, arrays)}, sort_keys=True, allow_nan=False)
    # a single metadata key: several would be written in random order
    path.write_bytes(save(arrays, metadata={"asd": text}))


def _digest(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of what a model file holds, the digest itself left out."""
    rest = {key: value for key, value in header.items() if key != "digest"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def read_model(path: Path) -> ModelFile:
    """Read and check a model file.

    Raises:
        ModelFileError: it is missing, too large, damaged, not ours, of another version, or holds numbers that are not
        finite.
    """
    raw = _read(path)
    header = _read_header(path, raw)
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = dict(load(raw))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{path}: damaged model file ({error})") from error
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ModelFileError(f"{path}: tensor {name} holds values that are not finite; train again")
    if header["digest"] != _digest(header, arrays):
        raise ModelFileError(f"{path}: damaged model file (it is not as it was written); get it again")
    return ModelFile(header, arrays, hashlib.sha256(raw).hexdigest())


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise ModelFileError(f"{path}: no such model file")
    size = path.stat().st_size
    if size > _MAX_FILE:
        raise ModelFileError(f"{path}: {size} bytes is too large for a model file (limit {_MAX_FILE})")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror})") from error


def _read_header(path: Path, raw: bytes) -> dict[str, Any]:
    length = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or not 2 <= length <= min(_MAX_HEADER, len(raw) - 8):
        raise ModelFileError(f"{path}: not a model file, or cut off (no safetensors header)")
    try:
        text = json.loads(raw[8 : 8 + length]).get("__metadata__", {}).get("asd")
        header = json.loads(text) if isinstance(text, str) else None
        json.dumps(header, ensure_ascii=False).encode()  # no half characters, which no tag or terminal takes
    except (ValueError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path}: not a model file (unreadable header)") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT or _depth(header) > _MAX_DEPTH:
        raise ModelFileError(f"{path}: a safetensors file, but not one that asd wrote")
    version = header.get("format_version")
    if version != FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: model format {version}, this asd ({__version__}) reads format {FORMAT_VERSION}; "
            "install a matching asd or train again"
        )
    odd = [key for key, kind in _REQUIRED.items() if not isinstance(header.get(key), kind)] or _odd_values(header)
    if odd:
        raise ModelFileError(f"{path}: the model header has no valid {odd[0]!r}")
    return header


def _odd_values(header: Mapping[str, Any]) -> list[str]:
    """Names of header fields whose values cannot be right."""
    bands = header["bands"]
    count, indexes, names = (bands.get(key) for key in ("count", "indexes", "names"))
    size = header.get("pixel_size_m")
    checks = {
        "bands.count": _is_integer(count) and 1 <= count <= _MAX_BANDS,
        "bands.indexes": isinstance(indexes, list) and len(indexes) == count and all(map(_is_count, indexes)),
        "bands.names": _are_texts(names) and len(names) == count,
        "bands.of": bands.get("of") is None or _is_integer(bands["of"]),
        "bands.alpha": isinstance(bands.get("alpha", []), list) and all(map(_is_integer, bands.get("alpha", []))),
        "normal": _are_texts(header["normal"]),
        "pixel_size_m": size is None or (isinstance(size, (int, float)) and 0 < size < math.inf),
        "training": isinstance(header.get("training", {}), dict),
    }
    return [name for name, good in checks.items() if not good]


def _depth(value: Any) -> int:
    """How deep lists and objects are nested."""
    level, depth = [value], 0
    while level := [part for part in level if isinstance(part, (dict, list))]:
        level = [each for part in level for each in (part.values() if isinstance(part, dict) else part)]
        depth += 1
    return depth


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_integer(value) and value >= 1


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
