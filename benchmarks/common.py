"""What the benchmarks share: interleaved timing, facts about the machine, tables, JSON."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from asd_cli.nn.devices import cpu_count

LIBRARIES = ("torch", "onnxruntime", "numpy", "rasterio")


def arguments(description: str, *, rounds: int = 5, **more: Any) -> argparse.Namespace:
    """``--json FILE``, ``--rounds`` and ``--threads``; `more` adds options by name."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, default=None, help="file for the figures")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=cpu_count())
    for name, value in more.items():
        parser.add_argument(f"--{name}", **value)
    return parser.parse_args()


def machine(threads: int) -> dict[str, Any]:
    return {
        "processor": processor_name(),
        "processors": cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        "asd": version("asd-cli"),
        **{name: version(name) for name in LIBRARIES},
    }


def processor_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def seconds_of(jobs: Mapping[str, Callable[[], Any]], *, rounds: int, least: float = 0.4) -> dict[str, list[float]]:
    """Seconds a call of each job, once a round, the jobs taking turns so that a slow spell hits all of them.

    Each turn lasts at least `least` seconds. A round before the first is not counted.
    """
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, job in jobs.items():
            calls, start = 0, time.perf_counter()
            while calls == 0 or time.perf_counter() - start < least:
                job()
                calls += 1
            if number:
                taken[name].append((time.perf_counter() - start) / calls)
    return taken


def on_threads(make: Callable[[], Callable[[], Any]], threads: int, calls: int) -> Callable[[], None]:
    """A job that makes `calls` calls on each of several threads at once, each thread with its own callable."""
    callables = [make() for _ in range(threads)]

    def work(call: Callable[[], Any]) -> None:
        for _ in range(calls):
            call()

    def job() -> None:
        workers = [threading.Thread(target=work, args=(call,)) for call in callables]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return job


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float]) -> str:
    """Least and largest."""
    return f"{min(values):.3g} - {max(values):.3g}"


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(over, under, strict=True)]


def show(title: str, rows: Sequence[Sequence[str]]) -> None:
    """A table; the first row is its head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    print(f"\n{title}")
    for number, row in enumerate(rows):
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  " + "  ".join(cells))
        if number == 0:
            print("  " + "  ".join("-" * width for width in widths))


def save(path: Path | None, threads: int, results: Mapping[str, Any]) -> None:
    """Write the figures beside those of the machine, if a file was asked for."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(threads), **results}, indent=2) + "\n")
        print(f"\n{path}")
