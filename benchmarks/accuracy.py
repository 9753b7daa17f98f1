"""The methods side by side on the labelled sets, `asd compare` on each: protocol of their README, one row a method.

    python benchmarks/accuracy.py [--data ../shared/data] [--sets hokkaido,gsi,amazon,nepal,ships] [--seeds 0,1,2]
        [--methods asd,rx,dsvdd,riad,arnet,ganomaly] [--folder DIR] [--json FILE] [--cv]

Tiles sorted by name, the first half trains on its normal pixels, the second half tests. With --cv the second half is
not touched: two folds within the first half, which is what recipes are chosen by.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import save, show

SETS = {
    "hokkaido": ("hokkaido_landslide", "0,0,0"),
    "gsi": ("gsi_solar_panel", "0,0,0"),
    "amazon": ("amazon_forest_s2", "1"),
    "nepal": ("nepal_landslide_landsat", "0,0,0"),
    "ships": ("hrsid_sar_ship", "0,0,0"),
}
FIGURES = ("auc", "miou_oracle", "miou", "false_alarm_rate", "train_seconds")
RATE = 0.01  # of false alarms, beside the models' own 0.001


def half(source: Path, folder: Path, *, first: bool) -> Path:
    """The training or the test half of a set, as links."""
    images = sorted(path for path in (source / "images").iterdir() if not path.name.startswith("."))
    masks = {path.stem: path for path in (source / "masks").iterdir()}
    for image in images[: len(images) // 2] if first else images[len(images) // 2 :]:
        for kind, path in (("images", image), ("masks", masks[image.stem])):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            if not (folder / kind / path.name).exists():
                (folder / kind / path.name).symlink_to(path.resolve())
    return folder


def compared(tiles: Path, normal: str, folder: Path, *options: str) -> dict[str, Any]:
    """Rows of `asd compare` by name."""
    command = [sys.executable, "-m", "asd_cli", "compare", str(tiles), "--normal", normal, "-o", str(folder), *options]
    done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"asd compare failed on {tiles}")
    return {row["name"]: row for row in json.loads(done.stdout)["rows"]}


def at_rate(folder: Path, tiles: Path, normal: str) -> dict[str, float]:
    """False alarms at `RATE`, by row: of the models that a comparison left, on the tiles that they have not seen."""
    found = {}
    for model in sorted(folder.glob("runs/*/first-half/model.safetensors")):
        kept = model.with_name("at_rate.json")
        if not kept.exists() or kept.stat().st_mtime_ns < model.stat().st_mtime_ns:
            command = [sys.executable, "-m", "asd_cli", "evaluate", "-m", str(model), str(tiles), "--normal", normal]
            command += ["--false-alarm-rate", str(RATE), "--json"]
            kept.write_text(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        found[model.parents[1].name] = json.loads(kept.read_text())["pooled"]["calibrated"]["false_alarm_rate"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--methods", default="asd,rx,dsvdd,riad,arnet,ganomaly")
    parser.add_argument("--folder", type=Path, default=None, help="keeps what is done; the same call goes on there")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--cv", action="store_true")
    parser.add_argument("rest", nargs="*", help="options of asd compare, after --")
    args = parser.parse_args()
    base = args.folder or Path(tempfile.mkdtemp(prefix="accuracy"))
    split = ["--folds", "2"] if args.cv else []
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name in args.sets.split(","):
        source, normal = args.data / SETS[name][0], SETS[name][1]
        tiles = base / "first_halves" / name
        if args.cv and not tiles.exists():
            half(source, tiles, first=True)
        for seed in args.seeds.split(","):
            folder = base / f"{name}_{'cv' if args.cv else 'test'}_{seed}"
            options = ["--methods", args.methods, "--seed", seed, "--maps", "2", *split, *args.rest]
            rows = compared(tiles if args.cv else source, normal, folder, *options)
            rates = {}
            if not args.cv:
                rates = at_rate(folder, half(source, base / "second_halves" / name, first=False), normal)
            for row, found in rows.items():
                results.setdefault(name, {}).setdefault(row, []).append({**found, "at_rate": rates.get(row)})
    for name, rows in results.items():
        table = [[name, "AUC", "sd", "mIoU*", "mIoU", "false alarms", f"at {RATE}", "train s"]]
        for row, found in rows.items():
            each = [[run["mean"][figure] for run in found] for figure in FIGURES]
            if None in [value for values in each for value in values]:
                table.append([row, "failed", *[""] * 6])
                continue
            auc, oracle, calibrated, alarms, seconds = (statistics.mean(values) for values in each)
            spread = f"{statistics.stdev(each[0]):.3f}" if len(each[0]) > 1 else ""
            rates = [run["at_rate"] for run in found if run["at_rate"] is not None]
            cells = (f"{auc:.3f}", spread, f"{oracle:.3f}", f"{calibrated:.3f}", f"{alarms:.2g}")
            table.append([row, *cells, f"{statistics.mean(rates):.2g}" if rates else "", f"{seconds:.0f}"])
        show(f"{name}, {'two folds of the first half' if args.cv else 'second half'}", table)
    save(args.json, 0, results)


if __name__ == "__main__":
    main()
