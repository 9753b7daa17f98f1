"""`asd predict` on 1 and 2 workers of this machine beside a plain run: seconds, their ratio, and what a part costs.

python benchmarks/cluster.py [--json FILE] [--rounds 3] [--side 4096] [--folder DIR]

All runs compute with one thread for each worker, so that two workers can be twice as fast on two processors. Starting
the workers, which every call of `local:N` does, is told apart: the workers of a round are started once.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import arguments, median, ratios, save, show, spread
from scenes import MODEL, write_scene

from asd_cli.options import PredictOptions
from asd_cli.workflows import cluster
from asd_cli.workflows.predict import predict
from asd_cli.workflows.predict_scene import PredictReport

PLAIN, WORKERS, WINDOWS = "plain", (1, 2), (512, 1024)


def mapped(options: PredictOptions, out: Path, **changes: Any) -> tuple[PredictReport, bytes]:
    (report,) = predict(replace(options, output=str(out), **changes))
    files = out.read_bytes() + out.with_suffix(".gpkg").read_bytes()
    for path in out.parent.glob(f"{out.stem}.*"):
        path.unlink()
    return report, files


def one_round(options: PredictOptions, folder: Path) -> dict[str, float]:
    """Seconds by what ran; all files must be equal."""
    found: dict[str, float] = {}
    plain = {}
    for window in WINDOWS:
        report, plain[window] = mapped(options, folder / "map.tif", window=window)
        found[f"{PLAIN} {window}"] = report.seconds
    for count in WORKERS:
        began = time.perf_counter()
        with cluster._local(count) as here:
            given = replace(options, scheduler=here.scheduler_address)
            first, _ = mapped(given, folder / "map.tif", window=WINDOWS[-1])  # the workers import and open their model
            found[f"start {count}"] = time.perf_counter() - began - first.seconds
            for window in WINDOWS:
                report, files = mapped(given, folder / "map.tif", window=window)
                found[f"{count} {window}"] = report.seconds
                if files != plain[window]:
                    raise SystemExit(f"the map of {count} workers is another one")
    return found


def main() -> None:
    args = arguments(
        __doc__ or "",
        rounds=3,
        side={"type": int, "default": 4096},
        folder={"type": Path, "default": None, "help": "where the scene is made; the disk that counts"},
    )
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        scene = write_scene(Path(name) / "scene.tif", args.side)
        options = PredictOptions(scenes=(str(scene),), model=MODEL, device="cpu", threads=1)
        rounds = [one_round(options, Path(name)) for _ in range(args.rounds)]
    seconds = {key: [found[key] for found in rounds] for key in rounds[0]}
    rows = [["run (one thread a worker)", "window", "parts", "seconds", "of plain", "spread", "more a part"]]
    for window in WINDOWS:
        parts = (-(-args.side // window)) ** 2
        base = seconds[f"{PLAIN} {window}"]
        rows.append([PLAIN, str(window), str(parts), f"{median(base):.1f}", "1", "", ""])
        for count in WORKERS:
            taken = seconds[f"{count} {window}"]
            share = ratios(taken, base)
            more = median([(a - b / count) / parts * count for a, b in zip(taken, base, strict=True)])
            rows.append(
                [
                    f"{count} worker{'s' * (count > 1)}",
                    str(window),
                    str(parts),
                    f"{median(taken):.1f}",
                    f"{median(share):.2f}",
                    spread(share),
                    f"{more * 1000:.0f} ms",
                ]
            )
    show(f"{args.side} x {args.side} x 3 uint8 from disk to disk; all files are equal", rows)
    starts = ", ".join(f"{count}: {median(seconds[f'start {count}']):.1f} s" for count in WORKERS)
    print(f"\nstarting workers, by their number: {starts}")
    save(args.json, args.threads, {"side": args.side, "seconds": seconds})


if __name__ == "__main__":
    main()
