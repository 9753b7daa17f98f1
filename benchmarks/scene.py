"""`asd predict` from disk to disk, beside the forward pass alone and a pipeline whose scorer does nothing.

python benchmarks/scene.py [--json FILE] [--rounds 3] [--side 10980] [--folder DIR]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from common import arguments, median, on_threads, save, seconds_of, show, spread
from scenes import MODEL, predict, write_scene

from asd_cli.workflows.models import load_model

SIDE = 128


def forward_only(threads: int) -> float:
    """Mpx/s of the scorer on blocks in memory."""
    detector = load_model(MODEL).detector
    engine = detector.distance_engine(torch.device("cpu"), SIDE)
    around = SIDE + 2 * detector.halo
    block = np.random.default_rng(0).uniform(0, 255, (1, detector.bands, around, around)).astype(np.float32)
    job = on_threads(lambda: lambda: engine(block), threads, 16)
    seconds = median(seconds_of({"forward": job}, rounds=3, least=2.0)["forward"])
    return threads * 16 * SIDE * SIDE / seconds / 1e6


def main() -> None:
    args = arguments(
        __doc__ or "",
        rounds=3,
        side={"type": int, "default": 10980},
        folder={"type": Path, "default": None, "help": "where the scene is made; the disk that counts"},
    )
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        scene = write_scene(folder / "scene.tif", args.side)
        runs: dict[str, list[dict]] = {"asd predict": [], "scorer does nothing": []}
        forward: list[float] = []
        for _ in range(args.rounds):
            forward.append(forward_only(args.threads))
            for label, engine in (("asd predict", "real"), ("scorer does nothing", "nothing")):
                runs[label].append(predict(scene, folder, "--threads", str(args.threads), engine=engine))
    rows = [["disk to disk", "Mpx/s", "spread", "of forward only", "peak MiB"]]
    rows.append(["forward only", f"{median(forward):.2f}", spread(forward), "100%", ""])
    results = {"side": args.side, "forward_only_mpx_s": forward, **runs}
    for label, found in runs.items():
        speed = [run["mpx_s"] for run in found]
        share = median([a / b for a, b in zip(speed, forward, strict=True)])
        peak = max(run["peak_mib"] for run in found)
        rows.append([label, f"{median(speed):.2f}", spread(speed), f"{share:.0%}", f"{peak:.0f}"])
    show(f"{args.side} x {args.side} x 3 uint8, {args.threads} threads", rows)
    stages = [["stage (seconds at work; stages overlap)", *runs]]
    for stage in runs["asd predict"][0]["stages"]:
        each = [f"{median([run['stages'].get(stage, 0.0) for run in found]):.2f}" for found in runs.values()]
        stages.append([stage, *each])
    stages.append(["in all", *(f"{median([run['work_seconds'] for run in found]):.2f}" for found in runs.values())])
    show("Where the time goes", stages)
    save(args.json, args.threads, results)


if __name__ == "__main__":
    main()
