"""Where the time of a job goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class StageClock:
    """Seconds that each stage of a job was at work, summed over the threads that did it; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def busy(self, stage: str) -> Iterator[None]:
        """Work of a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    def add(self, stage: str, seconds: float) -> None:
        """Count seconds that a stage was at work elsewhere."""
        with self._lock:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def reset(self) -> None:
        """Begin anew."""
        with self._lock:
            self._seconds.clear()

    def seconds(self) -> dict[str, float]:
        """Seconds by stage, in the order in which stages were first finished."""
        with self._lock:
            return dict(self._seconds)
