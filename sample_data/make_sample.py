"""Make the sample data: a synthetic orthophoto of a forest, its truth, and training tiles.

Run `python sample_data/make_sample.py [--out DIR]`; the same versions write the same bytes.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from features import Clearing, House, Lake, Track, Windthrow
from forest import Dieback, draw_crown, planted, shrubs
from light import render
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from scenery import Canvas

PIXEL = 0.5  # metres
CORNER = (589_000.0, 5_527_000.0)  # UTM 32N easting and northing of the landscape's origin
CRS = "EPSG:25832"
CLASSES = ("nodata", "forest", "clearing", "track", "water", "building", "dead tree")
SLATE = (0.155, 0.160, 0.175)


@dataclass(frozen=True)
class Place:
    """A window of the landscape: origin in metres east and south of `CORNER`, pixels, what stands in it."""

    seed: int
    origin: tuple[float, float]
    rows: int
    cols: int
    features: tuple[Any, ...] = ()
    dieback: tuple[Dieback, ...] = ()
    missing: tuple[int, int] = (0, 0)  # rows and columns of the empty corner at the upper right


SCENE = Place(
    seed=1,
    origin=(1200.0, 800.0),
    rows=1000,
    cols=1100,
    missing=(250, 352),
    features=(
        Clearing((95, 335), (40, 27), 0.4),
        Clearing((305, 105), (29, 21), -0.5),
        Clearing((492, 205), (22, 15), 0.9),
        Windthrow((92, 85), (29, 19), 0.2),
        Clearing((222, 402), (34, 25), 0.3, mown=True),
        Lake((405, 372), (58, 38), -0.35),
        Track(((-40, 215), (60, 222), (150, 186), (235, 228), (330, 268), (440, 262), (590, 300)), 3.8),
        Track(((150, 186), (172, 120), (160, 55), (205, -40)), 3.0),
        Track(((235, 228), (252, 300), (238, 372), (212, 440), (226, 540)), 3.2),
        House((212, 388), 15, 9.5, 0.35),
        House((228, 415), 12, 8.5, 1.85, SLATE),
        House((203, 416), 9, 6.5, 0.35, (0.26, 0.13, 0.085), 2.8),
        House((247, 405), 11, 8, 1.9, (0.33, 0.165, 0.115)),
    ),
    dieback=(
        Dieback((40, 150), 10),
        Dieback((215, 150), 18, 0.8),
        Dieback((228, 60), 4, 0.3),
        Dieback((335, 185), 13, 0.7),
        Dieback((425, 120), 7, 0.4),
        Dieback((405, 215), 1),
        Dieback((500, 290), 12, 0.7),
        Dieback((520, 420), 20, 0.75),
        Dieback((330, 440), 4, 0.2),
        Dieback((300, 350), 1, 0.0),
        Dieback((165, 300), 9, 0.5),
        Dieback((45, 265), 1, 1.0),
        Dieback((60, 440), 15, 0.8),
        Dieback((140, 455), 2, 0.0),
        Dieback((445, 470), 1, 1.0),
        Dieback((370, 50), 1, 0.0),
        Dieback((20, 60), 1, 1.0),
        Dieback((265, 185), 1, 0.0),
    ),
)

TILES = (
    Place(11, (300.0, 300.0), 256, 256),
    Place(12, (700.0, 420.0), 256, 256, (), (Dieback((40, 90), 9), Dieback((95, 35), 1, 0.0))),
    Place(13, (2100.0, 500.0), 256, 256, (Track(((-40, 40), (40, 62), (90, 50), (170, 85))),)),
    Place(14, (2400.0, 1100.0), 256, 256, (Clearing((80, 60), (24, 17), 0.5),), (Dieback((20, 105), 2),)),
    Place(15, (500.0, 1500.0), 256, 256),
    Place(16, (1000.0, 1900.0), 256, 256, (Lake((118, 118), (42, 30), 0.7),), (Dieback((30, 40), 6, 0.5),)),
    Place(
        17,
        (1700.0, 1700.0),
        256,
        256,
        (
            Clearing((102, 34), (22, 17), 0.2, mown=True),
            Track(((-40, 75), (45, 66), (84, 42), (112, -40)), 3.0),
            House((108, 38), 13, 9, 0.5),
        ),
    ),
    Place(18, (2300.0, 1800.0), 256, 256, (Windthrow((35, 40), (20, 14), 0.9),), (Dieback((95, 100), 1, 1.0),)),
)


def draw(place: Place) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The photo (3, rows, cols), 1..255 or 0 where missing, and the codes (rows, cols) of a place; seeded."""
    rng = np.random.default_rng([7, place.seed])
    canvas = Canvas(*place.origin, place.cols * PIXEL, place.rows * PIXEL, rng)
    for feature in place.features:
        feature.draw(canvas)
    for tree in [*shrubs(canvas), *planted(canvas, place.dieback)]:
        draw_crown(canvas, tree)
    photo, codes = render(canvas)
    tall, wide = place.missing
    if tall and wide:
        row, col = np.ogrid[: place.rows, : place.cols]
        empty = (place.cols - 0.5 - col) / wide + (row + 0.5) / tall < 1
        photo[:, empty] = 0
        codes[empty] = 0
    return photo, codes


def write_raster(path: Path, array: NDArray[np.uint8], place: Place) -> None:
    """A tiled, losslessly compressed GeoTIFF of a photo (3, H, W) or of codes (1, H, W); 0 is nodata."""
    north = CORNER[1] - place.origin[1]
    profile = {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": array.shape[0],
        "height": place.rows,
        "width": place.cols,
        "crs": CRS,
        "transform": Affine(PIXEL, 0, CORNER[0] + place.origin[0], 0, -PIXEL, north),
        "nodata": 0,
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "deflate",
        "predictor": 2 if array.shape[0] == 3 else 1,
        "zlevel": 9,
    }
    if array.shape[0] == 3:
        profile |= {"photometric": "RGB", "interleave": "pixel"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", **profile) as target:
        target.write(array)
        if array.shape[0] == 3:
            target.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
            target.descriptions = ("red", "green", "blue")
        else:
            target.descriptions = ("class",)


def write_categories(path: Path) -> None:
    """The class names beside a label raster, where GDAL looks for them."""
    names = "".join(f"      <Category>{name}</Category>\n" for name in CLASSES)
    path.with_name(path.name + ".aux.xml").write_text(
        '<PAMDataset>\n  <PAMRasterBand band="1">\n    <CategoryNames>\n'
        f"{names}    </CategoryNames>\n  </PAMRasterBand>\n</PAMDataset>\n",
        encoding="utf-8",
        newline="\n",
    )


def write_classes(folder: Path) -> None:
    """`classes.csv`: value,name."""
    lines = ["value,name", *(f"{value},{name}" for value, name in enumerate(CLASSES) if value)]
    (folder / "classes.csv").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def make(out: Path) -> None:
    """Write scene.tif, truth.tif, tiles/ and the class tables below a folder."""
    for place, image, label in [
        (SCENE, out / "scene.tif", out / "truth.tif"),
        *(
            (tile, out / f"tiles/images/tile_{i:02d}.tif", out / f"tiles/labels/tile_{i:02d}.tif")
            for i, tile in enumerate(TILES, 1)
        ),
    ]:
        photo, codes = draw(place)
        write_raster(image, photo, place)
        write_raster(label, codes[None], place)
    write_categories(out / "truth.tif")
    write_classes(out)
    write_classes(out / "tiles")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="folder to write to")
    make(parser.parse_args().out)
