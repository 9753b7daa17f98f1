"""Scenes of any size from the sample scene, and `asd predict` on them in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window

SAMPLE = Path(__file__).parents[1] / "sample_data"
MODEL = SAMPLE / "forest.safetensors"
FIRST_ROW = 250  # above it lies the nodata corner
_CHILD = Path(__file__).with_name("predict_child.py")


def write_scene(path: Path, side: int) -> Path:
    """side x side x 3 uint8 as a tiled, uncompressed GeoTIFF: the sample scene, repeated."""
    with rasterio.open(SAMPLE / "scene.tif") as source:
        pixels = source.read(window=Window(0, FIRST_ROW, source.width, source.height - FIRST_ROW))
        profile = {"crs": source.crs, "transform": source.transform, "nodata": source.nodata}
    height, width = pixels.shape[1:]
    profile |= {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8", "bigtiff": "if_safer"}
    with rasterio.open(path, "w", tiled=True, blockxsize=512, blockysize=512, **profile) as target:
        for row in range(0, side, 512):
            rows = np.arange(row, min(row + 512, side)) % height
            target.write(pixels[:, rows][:, :, np.arange(side) % width], window=Window(0, row, side, len(rows)))
    return path


def write_mosaic(path: Path, side: int) -> Path:
    """side x side x 3 uint8 as a VRT: the sample scene, repeated."""
    with rasterio.open(SAMPLE / "scene.tif") as source:
        width, height, crs, step = source.width, source.height - FIRST_ROW, source.crs.to_string(), source.res[0]
    bands = ""
    for band in (1, 2, 3):
        parts = []
        for y in range(0, side, height):
            for x in range(0, side, width):
                w, h = min(width, side - x), min(height, side - y)
                size = f'xSize="{w}" ySize="{h}"'
                parts.append(
                    f'<SimpleSource><SourceFilename relativeToVRT="0">{SAMPLE / "scene.tif"}</SourceFilename>'
                    f'<SourceBand>{band}</SourceBand><SrcRect xOff="0" yOff="{FIRST_ROW}" {size}/>'
                    f'<DstRect xOff="{x}" yOff="{y}" {size}/></SimpleSource>'
                )
        bands += f'<VRTRasterBand dataType="Byte" band="{band}">'
        bands += f"<NoDataValue>0</NoDataValue>{''.join(parts)}</VRTRasterBand>"
    path.write_text(
        f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}"><SRS>{crs}</SRS>'
        f"<GeoTransform>500000,{step},0,5500000,0,{-step}</GeoTransform>{bands}</VRTDataset>"
    )
    return path


def predict(scene: Path, folder: Path, *options: str, engine: str = "real") -> dict[str, Any]:
    """`asd predict` in a process of its own: seconds, Mpx/s, peak memory in MiB, seconds by stage.

    engine: "real", or "nothing" for a scorer that gives 0 for every block.
    """
    output = folder / f"{scene.stem}_{engine}.tif"
    peak = folder / "peak"
    command = [sys.executable, str(_CHILD), engine, str(peak), str(scene), "-o", str(output), "-m", str(MODEL)]
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--overwrite", "--json", *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"predict failed on {scene}")
    report = json.loads(text)[0]
    pixels = report["width"] * report["height"]
    for written in folder.glob(f"{output.stem}.*"):
        written.unlink()
    return {
        "pixels": pixels,
        "seconds": seconds,
        "work_seconds": report["seconds"],
        "mpx_s": pixels / report["seconds"] / 1e6,
        "peak_mib": float(peak.read_text()),
        "processor_seconds": usage.ru_utime + usage.ru_stime,
        "polygons": report["polygon_count"],
        "stages": report["stages"],
    }
