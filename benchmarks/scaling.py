"""Time and memory a pixel of `asd predict` from 1 to 400 Mpx (VRT mosaics of the sample scene).

python benchmarks/scaling.py [--json FILE] [--sides 1000,3162,10000,20000] [--rounds 1] [--folder DIR] [--engine real]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import arguments, median, save, show
from scenes import predict, write_mosaic


def main() -> None:
    args = arguments(
        __doc__ or "",
        rounds=1,
        sides={"default": "1000,3162,10000,20000"},
        folder={"type": Path, "default": None},
        engine={"choices": ["real", "nothing"], "default": "real"},
    )
    rows = [["scene", "Mpx", "s", "us a pixel", "peak MiB", "polygons"]]
    results = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        sides = [int(side) for side in args.sides.split(",")]
        scenes = {side: write_mosaic(folder / f"mosaic{side}.vrt", side) for side in sides}
        runs: dict[int, list[dict]] = {side: [] for side in sides}
        for _ in range(args.rounds):
            for side, scene in scenes.items():
                runs[side].append(predict(scene, folder, "--threads", str(args.threads), engine=args.engine))
    for side, found in runs.items():
        seconds = median([run["work_seconds"] for run in found])
        peak = max(run["peak_mib"] for run in found)
        mpx = side * side / 1e6
        polygons = str(found[0]["polygons"])
        rows.append([f"{side} px", f"{mpx:.0f}", f"{seconds:.1f}", f"{seconds / mpx:.3f}", f"{peak:.0f}", polygons])
        results[str(side)] = found
    show(f"{args.threads} threads, scorer: {args.engine}", rows)
    save(args.json, args.threads, results)


if __name__ == "__main__":
    main()
