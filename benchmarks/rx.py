"""RX on the CPU, pixels to distances in memory, beside local RX pixel by pixel (and Spectral Python's, if installed).

python benchmarks/rx.py [--json FILE] [--rounds 5] [--threads N] [--bands 1,4,13] [--inner 5] [--outer 15]
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from common import arguments, median, on_threads, ratios, save, seconds_of, show, spread
from numpy.typing import NDArray

from asd_cli.methods.rx.method import RxMethod

SIDE, SMALL = 128, 24
CALLS = 8  # blocks on each thread in one turn


def pixel_by_pixel(image: NDArray[np.float64], inner: int, outer: int) -> NDArray[np.float64]:
    """(bands, h, w) -> squared distances from the plain mean and covariance of each ring."""
    keep, thick = np.ones((outer, outer), bool), (outer - inner) // 2
    keep[thick:-thick, thick:-thick] = False
    height, width = (n - outer + 1 for n in image.shape[1:])
    out = np.empty((height, width))
    for row in range(height):
        for col in range(width):
            around = image[:, row : row + outer, col : col + outer]
            ring = around[:, keep]
            off = around[:, outer // 2, outer // 2] - ring.mean(axis=1)
            out[row, col] = off @ np.linalg.solve(np.atleast_2d(np.cov(ring)), off)
    return out


def engine_job(bands: int, threads: int, **config: Any) -> Callable[[], Any]:
    """What maps blocks on all threads at once."""
    engine = RxMethod.create(bands, **config).distance_engine(torch.device("cpu"), SIDE)
    side = SIDE + 2 * RxMethod.create(bands, **config).halo
    block = np.random.default_rng(0).normal(size=(1, bands, side, side)).astype(np.float32)
    return on_threads(lambda: lambda: engine(block), threads, CALLS)


def main() -> None:
    args = arguments(
        __doc__ or "",
        bands={"default": "1,4,13"},
        inner={"type": int, "default": 5},
        outer={"type": int, "default": 15},
    )
    local = {"mode": "local", "inner": args.inner, "outer": args.outer}
    rows, results = [["RX", "Mpx/s", "spread", "against pixel by pixel"]], {}
    for bands in (int(count) for count in args.bands.split(",")):
        side = SMALL + args.outer - 1
        image = np.random.default_rng(0).normal(size=(bands, side, side))
        jobs: dict[str, tuple[int, Callable[[], Any]]] = {
            "global": (args.threads * CALLS * SIDE**2, engine_job(bands, args.threads, mode="global")),
            "local": (args.threads * CALLS * SIDE**2, engine_job(bands, args.threads, **local)),
            "local, pixel by pixel": (SMALL**2, lambda image=image: pixel_by_pixel(image, args.inner, args.outer)),
        }
        if bands > 1 and find_spec("spectral"):
            from spectral import rx

            cube = np.moveaxis(image, 0, -1)
            jobs["local, Spectral Python"] = side**2, lambda cube=cube: rx(cube, window=(args.inner, args.outer))
        taken = seconds_of({name: job for name, (_, job) in jobs.items()}, rounds=args.rounds)
        speeds = {name: [pixels / s / 1e6 for s in taken[name]] for name, (pixels, _) in jobs.items()}
        for name, speed in speeds.items():
            faster = median(ratios(speed, speeds["local, pixel by pixel"]))
            rows.append([f"{name}, {bands} band(s)", f"{median(speed):.4f}", spread(speed), f"{faster:.0f} x"])
            results[f"{name} {bands}"] = {"mpx_s": speed, "against_pixel_by_pixel": faster}
    show(f"{args.threads} threads, windows {args.inner} and {args.outer} px", rows)
    save(args.json, args.threads, results)


if __name__ == "__main__":
    main()
