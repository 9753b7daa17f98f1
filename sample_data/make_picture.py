"""Draw overview.png: the sample scene, its anomaly score and the polygons, as `asd predict` writes them.

asd predict scene.tif -o /tmp/anomaly.tif -m forest.safetensors
python make_picture.py /tmp/anomaly.tif
"""

from __future__ import annotations

import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
from matplotlib.figure import Figure

HERE = Path(__file__).parent


def read_photo() -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """The scene (H, W, 3), brightened, and its extent (left, right, bottom, top)."""
    with rasterio.open(HERE / "scene.tif") as scene:
        pixels = np.moveaxis(scene.read(), 0, -1).astype(float)
        bounds = scene.bounds
    photo = np.clip(pixels * 1.4, 0, 255).astype(np.uint8)
    photo[(pixels == 0).all(axis=-1)] = 255
    return photo, (bounds.left, bounds.right, bounds.bottom, bounds.top)


def draw(anomaly: Path, target: Path) -> None:
    photo, extent = read_photo()
    with rasterio.open(anomaly) as raster:
        score = raster.read(1)
    polygons = gpd.read_file(anomaly.with_suffix(".gpkg"))
    figure = Figure(figsize=(15, 4.9), layout="constrained")
    axes = figure.subplots(1, 3)
    axes[0].imshow(photo, extent=extent)
    image = axes[1].imshow(score, extent=extent, cmap="magma", vmin=0, vmax=1, interpolation="none")
    axes[2].imshow(photo, extent=extent)
    polygons.boundary.plot(ax=axes[2], color="#ffe600", linewidth=0.9)
    for axis, title in zip(axes, ("scene.tif", "anomaly.tif", "anomaly.gpkg"), strict=True):
        axis.set(title=title, xticks=[], yticks=[], xlabel="", ylabel="")
    figure.colorbar(image, ax=axes[1], fraction=0.04)
    figure.savefig(target, dpi=80)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), HERE / "overview.png")
