"""Kills runs of `asd predict` (SIGKILL) at random moments, resumes them, and compares the files with an unbroken run's.

python benchmarks/kills.py [--kills 100] [--seed 0] [--width 2500] [--height 1500] [--model FILE] [--json FILE]

Runs take turns: whole ones, and ones in three shards with a merge at the end, which is killed, too. A kill is survived
if the map that it broke came out byte for byte, with nothing left beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

SAMPLE = Path(__file__).parents[1] / "sample_data"
TARGET = "map.tif"


def write_scene(path: Path, width: int, height: int) -> Path:
    """The sample scene, repeated, as a small file."""
    with rasterio.open(SAMPLE / "scene.tif") as source:
        pixels = source.read(window=Window(0, 250, source.width, source.height - 250))
        profile = {"crs": source.crs, "transform": source.transform, "nodata": source.nodata}
    rows, cols = np.arange(height) % pixels.shape[1], np.arange(width) % pixels.shape[2]
    profile |= {"driver": "GTiff", "width": width, "height": height, "count": 3, "dtype": "uint8", "tiled": True}
    with rasterio.open(path, "w", **profile) as target:
        target.write(pixels[:, rows][:, :, cols])
    return path


def start(folder: Path, words: list[str]) -> int:
    """`asd` in a process of its own, forked, as the imports would take longer than the work; its id."""
    if process := os.fork():
        return process
    code = 1
    try:
        from asd_cli.cli import main

        os.chdir(folder)
        log = os.open(folder.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["asd", *words]
        try:
            main(words, prog_name="asd")
        except SystemExit as end:
            code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(process: int, seconds: float | None = None) -> int | None:
    """Exit code; None if the process was killed, after `seconds`."""
    end = None if seconds is None else time.perf_counter() + seconds
    while True:
        done, status = os.waitpid(process, 0 if end is None else os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if end is not None and time.perf_counter() >= end:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return None
        time.sleep(0.002)


class Chain:
    """Commands that together make one map, each run again until it ends by itself."""

    def __init__(self, folder: Path, words: list[str], *, shards: int) -> None:
        self.folder = folder
        self.commands = [[*words, "--resume", "--shard", f"{k}/{shards}"] for k in range(1, shards + 1)]
        self.commands = [*self.commands, ["merge", TARGET]] if shards else [[*words, "--resume"]]
        self.kills = 0
        folder.mkdir()

    def step(self, seconds: float | None) -> str:
        """Run the next command, for so long at most: `killed` or `ended`."""
        code = wait(start(self.folder, self.commands[0]), seconds)
        text = (self.folder.parent / "log").read_text()
        if code is None:
            self.kills += 1
            return "killed"
        # killed after the files were in place: then they stand, and the rest is to say so
        made = code == 1 and ("exists already" in text or "has no parts to merge" in text)
        if code != 0 and not (made and self.kills):
            raise SystemExit(f"{' '.join(self.commands[0])} ended with {code}: {text}")
        self.commands.pop(0)
        return "ended"

    def files(self) -> dict[str, bytes]:
        # the folder of a killed removal is no part of the result, and the next run removes it
        return {p.name: p.read_bytes() for p in self.folder.iterdir() if not p.name.endswith(".tif.done")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("kills", 100), ("seed", 0), ("width", 2500), ("height", 1500)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--model", type=Path, default=SAMPLE / "forest.safetensors")
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    import asd_cli.workflows.merge
    import asd_cli.workflows.predict  # noqa: F401 - once, for all

    dice, tried, survived, moments = random.Random(args.seed), 0, 0, Counter()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        scene = write_scene(root / "scene.tif", args.width, args.height)
        words = ["predict", str(scene), "-o", TARGET, "-m", str(args.model.resolve()), "--window", "512"]
        unbroken = Chain(root / "unbroken", words, shards=0)
        unbroken.commands = [words]
        began = time.perf_counter()
        unbroken.step(None)
        whole = time.perf_counter() - began
        expected, number = unbroken.files(), 0
        while tried < args.kills:
            number += 1
            shards = 3 * (number % 2 == 0)
            chain = Chain(root / f"chain{number}", words, shards=shards)
            while chain.commands:
                left = args.kills - tried - chain.kills
                length = whole / shards if shards else whole
                chain.step(dice.uniform(0, length * 1.2) if left > 0 else None)
                moments[state(chain.folder)] += 1
            tried += chain.kills
            survived += chain.kills * (chain.files() == expected)
            print(f"kills survived {survived}, tried {tried} ({number} maps)", file=sys.stderr)
    print(f"kills survived / tried: {survived} / {tried}; {number} maps; seen afterwards: {dict(moments)}")
    if args.json is not None:
        args.json.write_text(json.dumps({"tried": tried, "survived": survived, "maps": number}))


def state(folder: Path) -> str:
    """What a run has left."""
    parts = folder / f"{TARGET}.parts"
    if not parts.is_dir():
        return "files" if (folder / TARGET).exists() else "nothing"
    if (folder / TARGET).exists():
        return "some files and parts"
    if list(folder.glob(".map*")):
        return "parts and unfinished files"
    return "parts" if list(parts.glob("*.f32")) else "a folder without parts"


if __name__ == "__main__":
    main()
