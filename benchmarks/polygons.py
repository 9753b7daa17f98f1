"""Streaming polygons: time a pixel over the size of the map and the share of anomalous pixels.

python benchmarks/polygons.py [--json FILE] [--rounds 5] [--sides 2048,4096,8192,16384]
"""

from __future__ import annotations

import time

import numpy as np
from affine import Affine
from common import arguments, median, save, show
from rasterio.io import MemoryFile
from scipy import ndimage

from asd_cli.raster.grid import Grid
from asd_cli.raster.windows import write_windows
from asd_cli.vector.polygons import PolygonStream

PIECE, WINDOW = 2048, 1024
SHARES = (0.001, 0.01, 0.05, 0.2)


def texture(share: float) -> tuple[np.ndarray, np.ndarray]:
    """(anomalous, score) of one piece: smooth noise, the largest `share` of it anomalous."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(PIECE, PIECE)), 2, mode="wrap")
    score = (noise.argsort(axis=None).argsort().reshape(noise.shape) / noise.size).astype(np.float32)
    return score >= 1 - share, score


def grid_of(side: int) -> Grid:
    with MemoryFile() as memory:
        place = {"crs": "EPSG:32633", "transform": Affine(10, 0, 500_000, 0, -10, 5_500_000)}
        with memory.open(
            driver="GTiff", width=side, height=side, count=1, dtype="uint8", sparse_ok=True, **place
        ) as new:
            return Grid.from_dataset(new)


def seconds(side: int, share: float) -> tuple[float, int]:
    anomalous, score = texture(share)
    stream = PolygonStream(grid_of(side))
    taken = 0.0
    for window in write_windows(side, side, WINDOW):
        rows = np.arange(window.row, window.row_stop) % PIECE
        cols = np.arange(window.col, window.col_stop) % PIECE
        part = np.ix_(rows, cols)
        mask, values = anomalous[part], score[part]
        start = time.perf_counter()
        stream.add(window, mask, values)
        taken += time.perf_counter() - start
    start = time.perf_counter()
    count = sum(len(frame) for frame in stream.batches())
    return taken + time.perf_counter() - start, count


def main() -> None:
    args = arguments(__doc__ or "", sides={"default": "2048,4096,8192,16384"})
    sides = [int(side) for side in args.sides.split(",")]
    rows = [["anomalous", *(f"{side} px" for side in sides), "polygons a Mpx"]]
    results = {}
    for share in SHARES:
        cells = [f"{share:.1%}"]
        for side in sides:
            runs = [seconds(side, share) for _ in range(args.rounds)]
            each = [taken / side**2 * 1e6 for taken, _ in runs]
            count = runs[0][1]
            cells.append(f"{median(each):.4f}")
            results[f"{share} {side}"] = {"us_a_pixel": each, "polygons": count}
        rows.append([*cells, f"{count / side**2 * 1e6:.0f}"])
    show("Microseconds a pixel", rows)
    save(args.json, 1, results)


if __name__ == "__main__":
    main()
