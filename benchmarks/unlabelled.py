"""Hyperspectral scenes as their own reference: `asd train --unlabelled` and `asd predict` on each of the ABU scenes.

    python benchmarks/unlabelled.py [--data ../shared/data] [--scenes abu-*] [--methods asd,rx] [--seeds 0]
        [--folder DIR] [--json FILE]

AUC of the distances against the map of anomalies, which no training sees.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from common import save, show
from scipy.io import loadmat


def asd(*arguments: object) -> str:
    """Standard output of a command."""
    command = [sys.executable, "-m", "asd_cli", *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def as_rasters(source: Path, folder: Path) -> tuple[Path, Path]:
    """Cube and map of anomalies of a ``.mat`` file as GeoTIFFs."""
    data = loadmat(source)
    arrays = {"scene": np.moveaxis(data["data"], 2, 0), "truth": data["map"][None].astype(np.uint8)}
    for name, array in arrays.items():
        count, height, width = array.shape
        profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": array.dtype}
        with rasterio.open(folder / f"{name}.tif", "w", **profile) as raster:
            raster.write(array)
    return folder / "scene.tif", folder / "truth.tif"


def measured(source: Path, folder: Path, method: str, seed: str) -> dict[str, float]:
    """AUC and seconds of training; kept in the folder."""
    kept = folder / f"{method}_{seed}.json"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        scene, truth = as_rasters(source, folder)
        model, map_ = folder / f"{method}_{seed}.safetensors", folder / f"{method}_{seed}.tif"
        start = time.monotonic()
        asd("train", "--unlabelled", "--method", method, "--seed", seed, scene, "-o", model, "--overwrite")
        seconds = time.monotonic() - start
        asd("predict", scene, "-m", model, "-o", map_, "--score", "distance", "--no-polygons", "--overwrite")
        found = json.loads(asd("evaluate", map_, "--labels", truth, "--normal", "0", "--json"))
        kept.write_text(json.dumps({"auc": found["pooled"]["auc"], "train_seconds": seconds}))
    figures: dict[str, float] = json.loads(kept.read_text())
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--scenes", default="abu-*")
    parser.add_argument("--methods", default="asd,rx")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--folder", type=Path, default=None, help="keeps what is done; the same call goes on there")
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    base = args.folder or Path(tempfile.mkdtemp(prefix="unlabelled"))
    scenes = sorted((args.data / "hsi_abu").glob(f"{args.scenes}.mat"))
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for scene in scenes:
        for method in args.methods.split(","):
            runs = [measured(scene, base / scene.stem, method, seed) for seed in args.seeds.split(",")]
            results.setdefault(scene.stem, {})[method] = runs
    table = [["AUC within the scene", *args.methods.split(","), "train s"]]
    means: dict[str, list[float]] = {}
    for name, rows in results.items():
        aucs = {method: statistics.mean(run["auc"] for run in runs) for method, runs in rows.items()}
        for method, auc in aucs.items():
            means.setdefault(method, []).append(auc)
        seconds = max(run["train_seconds"] for runs in rows.values() for run in runs)
        table.append([name, *(f"{auc:.3f}" for auc in aucs.values()), f"{seconds:.0f}"])
    table.append(["mean", *(f"{statistics.mean(found):.3f}" for found in means.values()), ""])
    show(f"{len(scenes)} scenes, seeds {args.seeds}", table)
    save(args.json, 0, results)


if __name__ == "__main__":
    main()
