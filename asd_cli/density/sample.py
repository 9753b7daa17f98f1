"""A uniform sample of pixels from a stream: bounded memory, the same for every order of the batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from asd_cli.density.moments import FloatArray
from asd_cli.errors import InputError

_LEAST_SHARE = 1000


class PixelSample:
    """Uniform sample without replacement of rows (n, C) float32, with their exact minimum, maximum and count.

    Every row draws a random priority from (seed, batch key, place in the batch); the `capacity` rows with the
    lowest priorities stay ("bottom-k"). So the sample depends neither on the order of the batches nor on how
    they were spread over merged samples. Rows with NaN or Inf in any band are left out: a pixel is valid in
    all bands or in none, so one `count` holds for each band. `minimum` and `maximum` are (C,) float32, inf
    and -inf at first. Memory: a few times capacity x (4 C + 8) bytes and the batch at hand.
    """

    def __init__(self, capacity: int, bands: int, seed: int) -> None:
        if capacity < 1 or bands < 1 or seed < 0:
            raise ValueError(f"capacity {capacity} and bands {bands} must be >= 1, seed {seed} >= 0")
        self.capacity = capacity
        self.bands = bands
        self.seed = seed
        self.count = 0
        self.minimum = np.full(bands, np.inf, dtype=np.float32)
        self.maximum = np.full(bands, -np.inf, dtype=np.float32)
        self._rows = np.empty((0, bands), dtype=np.float32)
        self._priorities = np.empty(0, dtype=np.uint64)

    def add(self, rows: NDArray[np.floating], key: int | tuple[int, ...]) -> None:
        """Offer rows (n, C); `key` (integers >= 0) must be this batch's own, for example (tile, window)."""
        if rows.ndim != 2 or rows.shape[1] != self.bands:
            raise ValueError(f"rows must be (n, {self.bands}), got shape {rows.shape}")
        parts = (key,) if isinstance(key, int) else key
        # The number of parts goes in as well: a seed sequence cannot tell (3,) from (3, 0).
        random = np.random.default_rng([self.seed, len(parts), *parts])
        priorities = random.integers(0, 2**64, size=len(rows), dtype=np.uint64)
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            rows, priorities = rows[finite], priorities[finite]
        if len(rows) == 0:
            return
        rows = rows.astype(np.float32, copy=False)
        self.count += len(rows)
        self.minimum = np.minimum(self.minimum, rows.min(axis=0))
        self.maximum = np.maximum(self.maximum, rows.max(axis=0))
        self._offer(rows, priorities)

    def merge(self, other: PixelSample) -> None:
        """Take in a sample of other batches, made with the same capacity, bands and seed."""
        mine, theirs = (self.capacity, self.bands, self.seed), (other.capacity, other.bands, other.seed)
        if mine != theirs:
            raise ValueError(f"samples differ in (capacity, bands, seed): {mine} and {theirs}")
        self.count += other.count
        self.minimum = np.minimum(self.minimum, other.minimum)
        self.maximum = np.maximum(self.maximum, other.maximum)
        self._offer(other._rows, other._priorities)

    def _offer(self, rows: NDArray[np.float32], priorities: NDArray[np.uint64]) -> None:
        if len(priorities) > self.capacity:
            rows, priorities = _lowest(rows, priorities, self.capacity)
        if len(self._priorities) >= self.capacity:
            hopeful = priorities < self._priorities.max()
            rows, priorities = rows[hopeful], priorities[hopeful]
        if len(priorities) == 0:
            return
        rows = np.concatenate([self._rows, rows])
        priorities = np.concatenate([self._priorities, priorities])
        self._rows, self._priorities = _lowest(rows, priorities, self.capacity)

    @property
    def rows(self) -> NDArray[np.float32]:
        """(k, C) float32 sample, k <= capacity, in random order, the same for the same batches."""
        return self._rows[np.argsort(self._priorities, kind="stable")]

    def quantile(self, q: float) -> FloatArray:
        """(C,) float64 value below which the share `q` in [0, 1] of a band lies; exact for 0 and 1.

        Raises:
            InputError: no valid pixel was offered, or `q` is outside [0, 1].
        """
        if not 0.0 <= q <= 1.0:
            raise InputError(f"quantile {q} is outside 0 to 1; give a share such as 0.98")
        if self.count == 0:
            raise InputError("no valid pixel to take a quantile of; check the tiles, their masks and nodata value")
        if q in (0.0, 1.0):
            return (self.minimum if q == 0.0 else self.maximum).astype(np.float64)
        return np.quantile(self._rows.astype(np.float64), q, axis=0)


def shared_samples(keys: Sequence[int], capacity: int, bands: int, seed: int) -> dict[int, PixelSample]:
    """A sample for each key, which share the capacity, but for a least thousand of each."""
    each = max(capacity // len(keys), _LEAST_SHARE)
    return {key: PixelSample(each, bands, seed) for key in keys}


def _lowest(
    rows: NDArray[np.float32], priorities: NDArray[np.uint64], keep: int
) -> tuple[NDArray[np.float32], NDArray[np.uint64]]:
    if len(priorities) <= keep:
        return rows, priorities
    chosen = np.argpartition(priorities, keep - 1)[:keep]
    return rows[chosen], priorities[chosen]
