"""Train on the first half of a labelled set, evaluate on the second, beside RX (Mahalanobis distance of raw pixels).

    python benchmarks/real_data.py ../shared/data/hokkaido_landslide --normal 0,0,0
    python benchmarks/real_data.py ../shared/data/amazon_forest_s2 --normal 1 -- --recipe paper

The set has images/ and masks/. Everything after -- goes to `asd train`. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from asd_cli.density.gaussian import Gaussian
from asd_cli.density.moments import Moments
from asd_cli.metrics.histogram import ScoreCollector
from asd_cli.metrics.iou import confusion_at
from asd_cli.metrics.roc import auc, upper_left
from asd_cli.options import TileOptions
from asd_cli.raster.windows import Window
from asd_cli.vector.labels import IGNORED
from asd_cli.workflows.tilesets import open_tiles


def split(source: Path, folder: Path) -> None:
    """Link the first half of the images (by name) and their masks into train/, the rest into test/."""
    images = sorted(path for path in (source / "images").iterdir() if not path.name.startswith("."))
    masks = {path.stem: path for path in (source / "masks").iterdir()}
    for place, image in enumerate(images):
        part = folder / ("train" if place < len(images) // 2 else "test")
        for kind, path in (("images", image), ("masks", masks[image.stem])):
            (part / kind).mkdir(parents=True, exist_ok=True)
            (part / kind / path.name).symlink_to(path.resolve())


def rx(folder: Path, normal: str) -> dict[str, float]:
    """AUC and mIoU (oracle) of the Mahalanobis distance of raw pixels."""
    moments = None
    for part in ("train", "test"):
        tiles = open_tiles(TileOptions(tiles=(str(folder / part),), normal=(normal,)))
        scores = ScoreCollector()
        for index, grid in enumerate(tiles.grids):
            with tiles.open(index) as tile:
                data = tile.read(Window(0, 0, grid.height, grid.width))
            mask = tiles.normal_mask(data.chip, data.codes)
            if part == "train":
                found = Moments.of(data.chip.pixels[:, mask].T)
                moments = found if moments is None else moments.merge(found)
                continue
            gaussian = Gaussian(moments.mean, moments.covariance, 0.0)
            other = data.chip.valid & (tiles.anomalous_class(data.codes) != IGNORED)
            for chosen, label in ((mask, 0), (other, 1)):
                distance = gaussian.distance(data.chip.pixels[:, chosen].T)
                scores.add(distance.astype(np.float32), np.full(len(distance), label, np.uint8))
    curve = scores.curve()
    return {"auc": auc(curve), "miou_oracle": confusion_at(curve, upper_left(curve).threshold).miou}


def asd(*arguments: str) -> tuple[dict, float]:
    """Report of an `asd` command run as a user would, and its seconds."""
    start = time.monotonic()
    command = [sys.executable, "-m", "asd_cli", *arguments, "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout), time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--normal", required=True)
    parser.add_argument("rest", nargs="*", help="options of asd train, after --")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        split(given.source, folder)
        model = str(folder / "model.safetensors")
        trained, train_s = asd("train", "--normal", given.normal, str(folder / "train"), "-o", model, *given.rest)
        report, evaluate_s = asd("evaluate", "-m", model, str(folder / "test"), "--normal", given.normal)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        pooled = report["pooled"]
        figures = {
            "set": given.source.name, "options": given.rest, "steps": trained["steps"],
            "auc": pooled["auc"], "average_precision": pooled["average_precision"],
            "miou_oracle": pooled["oracle"]["miou"], "miou_calibrated": pooled["calibrated"]["miou"],
            "false_alarm_rate": pooled["calibrated"]["false_alarm_rate"],
            "train_s": round(train_s, 1), "evaluate_s": round(evaluate_s, 1), "peak_MiB": round(peak),
            "rx": rx(folder, given.normal),
        }  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
