"""Drawing rasters of every make, and which of their pixels are valid, worked out from what was drawn."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
SIZES = [
    (1, 1), (1, 2), (2, 1), (1, 13), (11, 1), (1, 513), (514, 1), (2, 2), (3, 5), (16, 17), (31, 64), (65, 33),
    (127, 129), (511, 4), (512, 3), (5, 512), (513, 2), (3, 515), (130, 20),
]  # fmt: skip
_STAND_INS = {  # nodata within the range of the type, and as many characters that are beyond it
    "uint8": ("200", "300"), "int8": ("100", "200"), "uint16": ("60000", "70000"), "int16": ("20000", "40000"),
    "uint32": ("4000000000", "5000000000"), "int32": ("2000000000", "3000000000"),
    "float32": ("-3.4028234663852886e+38", "-1.797693134862315e+308"),
}  # fmt: skip
_RPC = {
    **dict.fromkeys(
        (
            "ERR_BIAS",
            "ERR_RAND",
            "LINE_OFF",
            "SAMP_OFF",
            "LAT_OFF",
            "LONG_OFF",
            "HEIGHT_OFF",
            "LINE_SCALE",
            "SAMP_SCALE",
        ),
        "10",
    ),
    **dict.fromkeys(("LAT_SCALE", "LONG_SCALE", "HEIGHT_SCALE"), "2"),
    **dict.fromkeys(("LINE_NUM_COEFF", "LINE_DEN_COEFF", "SAMP_NUM_COEFF", "SAMP_DEN_COEFF"), " ".join(["0.5"] * 20)),
}
_LOCAL = 'LOCAL_CS["mine",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'
PLACES: dict[str, tuple[str | None, Affine | None]] = {
    "north-up": ("EPSG:25832", Affine(0.5, 0, 400_000, 0, -0.5, 5_600_000)),
    "south-up": ("EPSG:25832", Affine(0.5, 0, 400_000, 0, 0.5, 5_600_000)),
    "mirrored": ("EPSG:25832", Affine(-0.5, 0, 400_000, 0, -0.5, 5_600_000)),
    "rotated": ("EPSG:25832", Affine(0.4, 0.3, 400_000, 0.3, -0.4, 5_600_000)),
    "sheared": ("EPSG:25832", Affine(0.4, 0.3, 400_000, 0, -0.2, 5_600_000)),
    "turned": ("EPSG:25832", Affine(0, 10, 400_000, 10, 0, 5_600_000)),
    "oblong": ("EPSG:3857", Affine(0.1, 0, -1e7, 0, -30, 2e7)),
    "geographic": ("EPSG:4326", Affine(5e-6, 0, 9, 0, -5e-6, 50)),
    "date line": ("EPSG:4326", Affine(0.01, 0, 179.95, 0, -0.01, 10)),
    "date line, projected": ("EPSG:3832", Affine(1000, 0, 3_300_000, 0, -1000, 100_000)),
    "degrees from 0 to 360": ("EPSG:4326", Affine(0.1, 0, 250, 0, -0.1, 10)),
    "pole": ("EPSG:4326", Affine(0.5, 0, -180, 0, -0.5, 90)),
    "beyond the pole": ("EPSG:4326", Affine(1, 0, -170, 0, -1, 95)),
    "polar": ("EPSG:3413", Affine(1000, 0, -10_000, 0, -1000, 10_000)),
    "feet": ("EPSG:2263", Affine(1, 0, 1_000_000, 0, -1, 200_000)),
    "compound": ("EPSG:25832+5783", Affine(1, 0, 400_000, 0, -1, 5_600_000)),
    "geocentric": ("EPSG:4978", Affine(1, 0, 4_000_000, 0, -1, 1_000_000)),
    "local": (_LOCAL, Affine(1, 0, 10, 0, -1, 20)),
    "far off": ("EPSG:25832", Affine(1, 0, 1e12, 0, -1, -1e12)),
    "minute": ("EPSG:25832", Affine(1e-9, 0, 0, 0, -1e-9, 0)),
    "vast": ("EPSG:25832", Affine(1e9, 0, 0, 0, -1e9, 0)),
    "no CRS": (None, Affine(0.5, 0, 400_000, 0, -0.5, 5_600_000)),
    "CRS alone": ("EPSG:25832", None),
    "nothing": (None, None),
    "GCPs": ("EPSG:4326", None),
    "RPCs": (None, None),
    "RPCs and CRS": ("EPSG:4326", Affine(5e-6, 0, 9, 0, -5e-6, 50)),
}


@dataclass(frozen=True)
class Drawn:
    """A raster to write; `valid` (H, W) are the pixels that count, `pixels` (C, H, W) those of the data bands."""

    pixels: NDArray[Any]
    valid: NDArray[np.bool_]
    hidden: NDArray[np.bool_] | None
    content: str
    nodata: str | None
    mask: str
    place: str
    point: bool
    options: dict[str, Any]

    @property
    def bands(self) -> int:
        return len(self.pixels)


@st.composite
def scenes(draw: Callable[..., Any]) -> Drawn:
    """Rasters whose every trait is drawn apart from the others."""
    dtype = draw(st.sampled_from(DTYPES))
    bands, (height, width) = draw(st.integers(1, 5)), draw(st.sampled_from(SIZES))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    content = draw(st.sampled_from(CONTENTS[np.dtype(dtype).kind == "f"]))
    pixels = _pixels(content, (bands, height, width), np.dtype(dtype), random)
    kinds = [None, "0", "beyond", "-9999", "nan"]
    nodata = draw(st.sampled_from(kinds))
    if (nodata == "-9999" and np.dtype(dtype).name in ("uint8", "int8", "uint16", "uint32")) or (
        nodata == "nan" and np.dtype(dtype).kind != "f"
    ):
        nodata = "beyond"
    if nodata == "beyond" and dtype not in _STAND_INS:
        nodata = None
    if nodata not in (None, "beyond"):
        holes = random.random(pixels.shape) < draw(st.sampled_from([0.0, 0.05, 0.6]))
        pixels[holes] = float(nodata)
    mask = draw(st.sampled_from(["none", "none", "msk", "internal", "alpha"]))
    hidden = None
    if mask != "none":
        hidden = random.random((height, width)) < draw(st.sampled_from([0.0, 0.2, 1.0]))
    with np.errstate(over="ignore"):  # what float32 cannot hold is invalid
        valid = np.isfinite(pixels.astype(np.float32)).all(axis=0)
    if nodata not in (None, "beyond", "nan"):
        valid &= (pixels != float(nodata)).all(axis=0)
    if nodata == "beyond" and dtype == "float32":  # a double in the tag, and what it became in the pixels
        valid &= (pixels != np.finfo(np.float32).min).all(axis=0)
    if hidden is not None:
        valid &= ~hidden
    return Drawn(
        pixels, valid, hidden, content, nodata, mask, draw(st.sampled_from(sorted(PLACES))), draw(st.booleans()),
        _storage(draw, np.dtype(dtype)),
    )  # fmt: skip


CONTENTS = {
    False: ["texture", "texture", "constant", "zero", "extremes", "noise"],
    True: ["texture", "texture", "constant", "zero", "extremes", "nan", "some nan", "inf", "some inf", "minute"],
}


def _pixels(content: str, shape: tuple[int, ...], dtype: np.dtype[Any], random: np.random.Generator) -> NDArray[Any]:
    whole = dtype.kind != "f"
    least, most = (np.iinfo(dtype).min, np.iinfo(dtype).max) if whole else (np.finfo(dtype).min, np.finfo(dtype).max)
    values: NDArray[Any] = random.normal(100, 25, shape)
    if content == "constant":
        values = np.full(shape, 77.0)
    elif content in ("zero", "nan", "inf"):
        values = np.full(shape, float(content) if content != "zero" else 0.0)
    elif content in ("some nan", "some inf"):
        odd = {"some nan": [math.nan], "some inf": [math.inf, -math.inf]}[content]
        values = np.where(random.random(shape) < 0.1, random.choice(odd, shape), values)
    elif content == "minute":
        values = random.normal(0, 1e-42, shape)
    elif content == "extremes":
        return random.choice(np.array([least, most, 0, 100], dtype), shape)
    elif content == "noise":
        return random.integers(least, most, shape, dtype=dtype, endpoint=True)
    return values.clip(max(least, -1e6), min(most, 1e6)).astype(dtype) if whole else values.astype(dtype)


def _storage(draw: Callable[..., Any], dtype: np.dtype[Any]) -> dict[str, Any]:
    """Creation options of a GeoTIFF."""
    options: dict[str, Any] = {"interleave": draw(st.sampled_from(["band", "pixel"]))}
    layout = draw(st.sampled_from(["default", "rows", "strips", "tiles", "oblong tiles", "large tiles"]))
    blocks = {
        "default": {}, "rows": {"blockysize": 1}, "strips": {"blockysize": 7},
        "tiles": {"tiled": True, "blockxsize": 16, "blockysize": 16},
        "oblong tiles": {"tiled": True, "blockxsize": 64, "blockysize": 16},
        "large tiles": {"tiled": True, "blockxsize": 1024, "blockysize": 256},
    }  # fmt: skip
    options |= blocks[layout]
    compress = draw(st.sampled_from([None, "deflate", "lzw", "zstd", "packbits", "lzma", "lerc"]))
    if compress:
        options["compress"] = compress
    if compress in ("deflate", "lzw", "zstd"):
        options["predictor"] = draw(st.sampled_from([1, 2, 3] if dtype.kind == "f" else [1, 2]))
    return options | draw(st.sampled_from([{}, {"endianness": "big"}, {"bigtiff": "yes"}, {"sparse_ok": True}]))


def write(path: Path, drawn: Drawn) -> Path:
    """The raster as a GeoTIFF, side files included."""
    crs, transform = PLACES[drawn.place]
    pixels, dtype = drawn.pixels, drawn.pixels.dtype
    if drawn.mask == "alpha" and drawn.hidden is not None:
        pixels = np.concatenate([pixels, np.where(drawn.hidden, 0, 127).astype(dtype)[None]])
    count, height, width = pixels.shape
    options: dict[str, Any] = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": dtype}
    options |= {"photometric": "minisblack", "alpha": "unspecified"}  # four bands of bytes would be taken for RGBA
    if drawn.nodata is not None:
        beyond = drawn.nodata == "beyond"
        options["nodata"] = float(_STAND_INS[dtype.name][0] if beyond else drawn.nodata)
    if drawn.place == "GCPs":
        corners = [(0, 0), (0, width), (height, 0), (height, width)]
        options["gcps"] = [GroundControlPoint(r, c, 9 + c / 1e3, 50 - r / 1e3, 0) for r, c in corners]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", **options, **drawn.options, crs=crs, transform=transform) as dataset:
            if drawn.mask == "alpha":
                dataset.colorinterp = [ColorInterp.undefined] * (count - 1) + [ColorInterp.alpha]
            if drawn.point:
                dataset.update_tags(AREA_OR_POINT="Point")
            if drawn.place.startswith("RPCs"):
                dataset.update_tags(ns="RPC", **_RPC)
            dataset.write(pixels)
        if drawn.mask in ("msk", "internal") and drawn.hidden is not None:
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=drawn.mask == "internal"), rasterio.open(path, "r+") as dataset:
                dataset.write_mask(~drawn.hidden)
    if drawn.nodata == "beyond":
        _set_nodata(path, *_STAND_INS[dtype.name])
    return path


def _set_nodata(path: Path, before: str, after: str) -> None:
    """Put in place what rasterio refuses to write: nodata beyond the range of the type."""
    raw = path.read_bytes()
    assert raw.count(f"{before}\0".encode()) == 1
    path.write_bytes(raw.replace(f"{before}\0".encode(), f"{after}\0".encode()))


def is_kept(path: Path, drawn: Drawn) -> bool:
    """Whether the file holds what was drawn: GDAL 3.10 garbles big-endian blocks that are nodata throughout."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as dataset:
            return np.array_equal(dataset.read()[: drawn.bands], drawn.pixels, equal_nan=drawn.pixels.dtype.kind == "f")
