"""Drawing hostile model files: headers and tensors edited and signed again, files cut, flipped and of other kinds."""

from __future__ import annotations

import copy
import io
import json
import math
import pickle
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load, save

from asd_cli.data.scaling import Scaling
from asd_cli.density.calibration import Calibration
from asd_cli.density.moments import Moments
from asd_cli.density.normal import NormalPixels
from asd_cli.methods.base import DescriptorDetector, Detector, EvidenceDetector, MemoryDetector
from asd_cli.methods.registry import method_class
from asd_cli.model_file import _digest, model_header
from asd_cli.workflows.models import normal_arrays

Arrays = dict[str, NDArray[Any]]

CONFIGS: Mapping[str, tuple[str, int, dict[str, Any]]] = {
    "asd paper": ("asd", 3, {"length": 2, "scales": [0.5, 2.0], "patch_size": 10}),
    "asd localised": (
        "asd",
        3,
        {
            "taught": "localised",
            "length": 3,
            "scales": [0.5, 1.0],
            "patch_size": 10,
            "smoothing": 1.0,
            "hidden": 16,
            "members": 2,
        },
    ),
    "rx": ("rx", 4, {"mode": "global"}),
    "rx local": ("rx", 2, {"mode": "local", "inner": 1, "outer": 5, "share": 0.1}),
    "rx subspace": ("rx", 3, {"mode": "subspace", "drop": 1}),
    "dsvdd": ("dsvdd", 2, {"length": 2, "scales": [1.0], "patch_size": 10}),
    "riad": ("riad", 1, {"width": 1, "depth": 1, "smooth": 3, "cells": [2], "sets": 2}),
    "arnet": ("arnet", 1, {"width": 1, "depth": 1, "views": 2}),
    "ganomaly": ("ganomaly", 1, {"width": 1, "depth": 1, "latent": 1}),
    "patchcore": ("patchcore", 3, {"backbone": "resnet18", "halo": 32, "memory": 6, "neighbours": 2}),
    "padim": ("padim", 3, {"backbone": "resnet18", "halo": 32, "channels": 5}),
}


def tiny_parts(kind: str) -> tuple[dict[str, Any], Arrays]:
    """Header and tensors of a tiny model with weights drawn by a seed; the small backbone must be installed."""
    name, bands, config = CONFIGS[kind]
    random = np.random.default_rng(3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        extra = {"weights": "random"} if "backbone" in config else {}
        detector = method_class(name).create(bands, **config, **extra).eval()
    detector.set_scaling(Scaling(np.full(bands, 20, np.float32), np.full(bands, 180, np.float32)))
    normal = _fit(detector, random)
    header = model_header(
        method=name,
        config=detector.config(),
        bands={
            "count": bands,
            "indexes": list(range(1, bands + 1)),
            "of": bands + 1,
            "names": [f"band {i}" for i in range(1, bands + 1)],
            "dtype": "uint8",
        },
        normal=["forest", "shrub"],
        pixel_size_m=0.5,
        training={"seed": 0, "tiles": 3, "losses": ["compact"]},
        held_out={"pixels": 1000, "mean": 1.5},
    )
    calibration = Calibration.fit(random.gamma(4.0, 1.0, 3000).astype(np.float32), 0.01)
    parts = {"method": detector.arrays(), "calibration": calibration.to_arrays()}
    if normal is not None:
        parts["moments"] = normal_arrays(normal)
    return header, {f"{prefix}.{key}": np.array(v) for prefix, part in parts.items() for key, v in part.items()}


def _fit(detector: Detector, random: np.random.Generator) -> NormalPixels | None:
    """Give it a Gaussian, evidence or memory of noise; the pixels where it has a Gaussian."""
    if isinstance(detector, EvidenceDetector):
        detector.set_evidence([random.normal(size=(500, detector.signs)).astype(np.float32)])
    if isinstance(detector, MemoryDetector):
        detector.set_memory(random.normal(size=(50, detector.length)).astype(np.float32), 0)
    if not isinstance(detector, DescriptorDetector):
        return None
    normal = NormalPixels.of_tile(Moments.of(random.normal(size=(400, detector.length))))
    detector.set_gaussian(detector.gaussian_of(normal))
    return normal


def signed(header: Mapping[str, Any], arrays: Arrays) -> bytes:
    """A file with this header and these tensors whose digest is right."""
    try:
        header = {**header, "digest": _digest(header, arrays)}
    except (RecursionError, TypeError, ValueError):  # the reader will not get as far as the digest either
        header = {**header, "digest": "0"}
    return save({k: np.array(v, order="C") for k, v in arrays.items()}, metadata={"asd": json.dumps(header)})


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


JUNK = st.one_of(
    st.sampled_from(
        [
            None, True, False, -1, 0, 1, 2, 7, 255, 10**9, 10**30, -(10**18), 0.5, -0.0, 1e-300, 1e308, math.nan,
            math.inf, -math.inf, "", "x", "asd", "localised", "rx", "3", "x" * 3000,
            "two\nlines", "\x1b[31mred", "\ud800", "a\0b",
            [], {}, [1], [1, 2, 3], [0.5, 1.0], ["a", "b", "c"], [None], {"a": 1}, [[1]], [1] * 5000, [1e9] * 3,
        ]
    ),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.integers(2, 700).map(nested),
)  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values in a JSON document."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in parts for place in _places(part, (*path, key)))]


def edit_header(draw: Callable[..., Any], header: dict[str, Any]) -> None:
    """One change in place: a value removed, replaced, added or doubled."""
    place = draw(st.sampled_from(_places(header)[1:]))
    owner: Any = header
    for key in place[:-1]:
        owner = owner[key]
    key = place[-1]
    what = draw(st.sampled_from(["remove", "replace", "replace", "replace", "scale", "add", "double"]))
    if what == "remove":
        del owner[key]
    elif what == "replace":
        owner[key] = copy.deepcopy(draw(JUNK))
    elif what == "scale" and isinstance(owner[key], (int, float)):
        owner[key] = owner[key] * draw(st.sampled_from([-1, 0, 2, 1000, 0.3]))
    elif what == "add" and isinstance(owner, dict):
        owner[draw(st.text(max_size=8) | st.sampled_from(["weights", "taught", "alpha", "bands"]))] = copy.deepcopy(
            draw(JUNK)
        )
    elif isinstance(owner, list):
        owner.append(copy.deepcopy(owner[key]))


_VALUES = [0, -1, 1, np.nan, np.inf, -np.inf, 1e38, -1e38, 3e-45, 1e300, 2**62]
_TYPES = ["float16", "float32", "float64", "int8", "int32", "int64", "uint8", "uint64", "bool"]


def edit_arrays(draw: Callable[..., Any], arrays: Arrays) -> None:
    """One change in place: a tensor removed, renamed, swapped, cast, reshaped, filled or spoilt at one place."""
    names = sorted(arrays)
    name, other = draw(st.sampled_from(names)), draw(st.sampled_from(names))
    array = arrays[name]
    what = draw(st.sampled_from(["remove", "rename", "swap", "add", "cast", "shape", "fill", "poke", "poke", "scale"]))
    with np.errstate(all="ignore"):
        if what == "remove":
            del arrays[name]
        elif what == "rename":
            arrays[draw(st.sampled_from(["", "x", f"{name}\n", "method.", "moments.count", other]))] = arrays.pop(name)
        elif what == "swap":
            arrays[name], arrays[other] = arrays[other], array
        elif what == "add":
            arrays[f"{name}.more"] = np.zeros(draw(st.sampled_from([(), (0,), (3, 3)])), np.float32)
        elif what == "cast":
            arrays[name] = array.astype(draw(st.sampled_from(_TYPES)))
        elif what == "shape":
            arrays[name] = draw(st.sampled_from(_SHAPES))(array)
        else:
            _spoil(draw, arrays, name, what)


_SHAPES: list[Callable[[NDArray[Any]], NDArray[Any]]] = [
    lambda a: a.reshape(-1),
    lambda a: a[None],
    lambda a: a.T.copy(),
    lambda a: a.reshape(-1)[:0],
    lambda a: a.reshape(-1)[:1].reshape(()) if a.size else a,
    lambda a: np.concatenate([a.reshape(-1), a.reshape(-1)]),
    lambda a: a.reshape(-1)[1:],
    lambda a: np.zeros((0, *a.shape), a.dtype),
]


def _spoil(draw: Callable[..., Any], arrays: Arrays, name: str, what: str) -> None:
    array = arrays[name].copy()
    value = draw(st.sampled_from(_VALUES))
    if array.dtype.kind != "f":
        value = int(value) if math.isfinite(value) else -1
        if array.dtype.itemsize < 8:
            value = abs(value) % 2
        else:
            value = min(max(value, 0 if array.dtype.kind == "u" else -(2**62)), 2**62)
    if what == "fill":
        array[...] = value
    elif what == "scale" and array.dtype.kind == "f":
        array = (array * array.dtype.type(draw(st.sampled_from([-1, 0, 2, 100])))).astype(array.dtype)
    elif array.size:
        array.reshape(-1)[draw(st.integers(0, array.size - 1))] = value
    arrays[name] = array


class _Bomb:
    """Unpickling it would raise something that nothing else raises."""

    def __reduce__(self) -> Any:
        return exec, ("raise SystemError('unpickled')",)


def other_files(whole: bytes) -> dict[str, bytes]:
    """Files of other kinds under the name of a model, and wholes with something before or behind."""
    zipped, saved = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("model.safetensors", whole)
    torch.save({"weight": torch.zeros(3)}, saved)
    return {
        "empty": b"",
        "pickle": pickle.dumps(_Bomb()),
        "pickle of tensors": pickle.dumps({"x": np.zeros(3)}),
        "zip": zipped.getvalue(),
        "torch": saved.getvalue(),
        "text": b"hello\n" * 200,
        "tiff": b"II*\0" + bytes(500),
        "zeros": bytes(5000),
        "ones": b"\xff" * 5000,
        "more behind": whole + b"more",
        "twice": whole + whole,
        "mark before": b"\xef\xbb\xbf" + whole,
        "pickle behind": whole + pickle.dumps(_Bomb()),
    }


def edit_bytes(draw: Callable[..., Any], whole: bytes) -> bytes:
    """The file cut, flipped, or with bytes left out or put in; most places are in the header."""
    head = 8 + int.from_bytes(whole[:8], "little")
    place = st.one_of(st.integers(0, 7), st.integers(8, head - 1), st.integers(0, len(whole) - 1))
    what = draw(st.sampled_from(["cut", "flip", "flip", "leave out", "put in", "length"]))
    if what == "cut":
        return whole[: draw(place)]
    if what == "length":
        return draw(st.integers(0, 2**64 - 1)).to_bytes(8, "little") + whole[8:]
    raw = bytearray(whole)
    if what == "flip":
        for at in draw(st.lists(place, min_size=1, max_size=4, unique=True)):
            raw[at] ^= draw(st.integers(1, 255))
        return bytes(raw)
    start = draw(place)
    raw[start : start + (draw(st.integers(1, 40)) if what == "leave out" else 0)] = (
        b"" if what == "leave out" else draw(st.binary(min_size=1, max_size=20))
    )
    return bytes(raw)


def edit_plan(draw: Callable[..., Any], whole: bytes) -> bytes:
    """The table of tensors edited: shapes, types and offsets that do not belong together, keys twice."""
    head = 8 + int.from_bytes(whole[:8], "little")
    table = json.loads(whole[8:head])
    entry = table[draw(st.sampled_from(sorted(set(table) - {"__metadata__"})))]
    key = draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
    odd = {
        "dtype": st.sampled_from(["F8_E4M3", "BF16", "F64", "I64", "U8", "BOOL", "X", "C64", 5, None]),
        "shape": st.lists(st.sampled_from([0, 1, 3, -1, 2**31, 2**63, 2**64, 1.5, "3"]), max_size=4),
        "data_offsets": st.lists(st.sampled_from([0, 1, 8, -8, 2**40, 2**64, len(whole)]), max_size=3),
    }[key]
    entry[key] = draw(odd)
    text = json.dumps(table)
    if draw(st.booleans()):
        text = text[:-1] + "," + text[1:]
    raw = text.encode()
    return len(raw).to_bytes(8, "little") + raw + whole[head:]


def tensors_of(whole: bytes) -> Arrays:
    return dict(load(whole))
