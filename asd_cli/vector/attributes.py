"""What is known of each component besides its outline: counts, scores, areas and positions.

Arithmetic is exact, or in an order that the component alone decides: window sizes cannot change a digit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_LOW_BITS = 12  # of the 23 mantissa bits of a float32; the other 11 and the exponent name the bin
_BIN_BITS = 31 - _LOW_BITS


@dataclass(frozen=True)
class Facts:
    """One row per component: `pixels`, `first` (row-major index in the scene), `best` score, scene `edge`."""

    pixels: Ints
    first: Ints
    best: NDArray[np.float32]
    edge: NDArray[np.bool_]

    @classmethod
    def empty(cls, number: int, *, lower_is_anomalous: bool) -> Facts:
        """Facts of `number` components without pixels."""
        return cls(
            np.zeros(number, np.int64),
            np.full(number, np.iinfo(np.int64).max),
            np.full(number, np.inf if lower_is_anomalous else -np.inf, np.float32),
            np.zeros(number, np.bool_),
        )

    def absorb(self, index: Ints, other: Facts, *, lower_is_anomalous: bool) -> None:
        """Add row i of `other` to row ``index[i]``, in place."""
        best = np.minimum if lower_is_anomalous else np.maximum
        np.add.at(self.pixels, index, other.pixels)
        np.minimum.at(self.first, index, other.first)
        best.at(self.best, index, other.best)
        np.logical_or.at(self.edge, index, other.edge)

    def take(self, rows: NDArray[Any]) -> Facts:
        """The rows that an index or a mask names."""
        return Facts(self.pixels[rows], self.first[rows], self.best[rows], self.edge[rows])


@dataclass(frozen=True)
class Histograms:
    """Sparse histograms of the scores of many components, mergeable without loss.

    Non-negative float32 order like their bit patterns; a bin is all patterns that differ in the low 12 bits
    only (relative width 2^-11). Beside the count of each bin the sum of those low bits is kept, so that the
    sum of all scores, and of those in one bin, is exact. `key` is ``component << 19 | bin``, ascending and
    unique.
    """

    key: Ints
    count: Ints
    low: Ints

    @classmethod
    def of(cls, component: Ints, scores: NDArray[np.float32]) -> Histograms:
        """Histograms of scores (finite, >= 0) that belong to the given components."""
        bits = np.add(scores, np.float32(0)).view(np.int32)  # adding zero turns -0.0 into 0.0
        words = np.sort((component << 31) | bits)
        return cls._summed(words >> _LOW_BITS, np.ones(len(words), np.int64), words & ((1 << _LOW_BITS) - 1))

    @classmethod
    def _summed(cls, key: Ints, count: Ints, low: Ints) -> Histograms:
        """Sum rows of equal key; `key` ascends."""
        if len(key) == 0:
            return cls(key, count, low)
        starts = np.flatnonzero(np.diff(key, prepend=-1))
        return cls(key[starts], np.add.reduceat(count, starts), np.add.reduceat(low, starts))

    @property
    def component(self) -> Ints:
        """The component of each row."""
        return self.key >> _BIN_BITS

    def merged(self, other: Histograms) -> Histograms:
        """Both together; equal components are added up."""
        if len(other.key) == 0:
            return self
        key = np.concatenate([self.key, other.key])
        order = np.argsort(key, kind="stable")
        count, low = np.concatenate([self.count, other.count]), np.concatenate([self.low, other.low])
        return self._summed(key[order], count[order], low[order])

    def renamed(self, names: Ints) -> Histograms:
        """Component i becomes ``names[i]``; several may become one, a negative name drops the component."""
        component = names[self.component]
        keep = component >= 0
        key = (component[keep] << _BIN_BITS) | (self.key[keep] & ((1 << _BIN_BITS) - 1))
        order = np.argsort(key, kind="stable")
        return self._summed(key[order], self.count[keep][order], self.low[keep][order])

    def mean(self, number: int) -> Floats:
        """Mean score of components ``0 .. number - 1``; each must have a score."""
        base, unit = self._bins()
        total = np.bincount(self.component, weights=self.count * base + self.low * unit, minlength=number)
        return np.asarray(total / np.bincount(self.component, weights=self.count, minlength=number))

    def percentile_95(self, number: int, *, lower_is_anomalous: bool) -> Floats:
        """Nearest-rank 95th percentile (5th when lower is anomalous) of components ``0 .. number - 1``.

        What is returned is the mean of the scores in the bin of that rank: within 2^-11 (0.05 %) of the score
        of that rank, and equal to it when the bin holds one value.
        """
        cumulative = np.cumsum(self.count)
        pixels = np.bincount(self.component, weights=self.count, minlength=number).astype(np.int64)
        rank = (19 * pixels + 19) // 20
        if lower_is_anomalous:
            rank = pixels - rank + 1
        row = np.searchsorted(cumulative, np.cumsum(pixels) - pixels + rank, side="left")
        base, unit = self._bins()
        return np.asarray(base[row] + self.low[row] / self.count[row] * unit[row])

    def _bins(self) -> tuple[Floats, Floats]:
        """Lowest score of each row's bin and the step between neighbouring float32 there."""
        bits = (self.key & ((1 << _BIN_BITS) - 1)) << _LOW_BITS
        base = bits.astype(np.int32).view(np.float32)
        return base.astype(np.float64), np.spacing(base).astype(np.float64)


def ellipsoidal_area(polygons: NDArray[np.object_], crs: Any) -> Floats:
    """Area in m2 on the ellipsoid of MultiPolygons in a geographic CRS, edges straight on the lon/lat plane.

    Edges of pixels follow meridians and parallels, not geodesics; the area between a parallel and the equator
    has a closed form (Snyder 1987, Map Projections: A Working Manual, eq. 3-12), so the areas of pixels add
    up exactly. Shells must run counter-clockwise and holes clockwise, or all the other way round.
    """
    geod, radians = crs.get_geod(), crs.axis_info[0].unit_conversion_factor
    _, points, offsets = shapely.to_ragged_array(polygons)
    sine = np.sin(np.clip(points[:, 1] * radians, -np.pi / 2, np.pi / 2))
    e = np.sqrt(geod.es)
    tail = np.arctanh(e * sine) / e if e > 0 else sine
    q = (1 - geod.es) * (sine / (1 - geod.es * sine**2) + tail)
    edges = (q[1:] + q[:-1]) / 2 * np.diff(points[:, 0]) * radians
    ring_ends, polygon_ends, feature_ends = offsets
    edges[ring_ends[1:-1] - 1] = 0  # from the end of a ring to the start of the next
    last = ring_ends[polygon_ends[feature_ends[1:]]]
    owner = np.repeat(np.arange(len(polygons)), np.diff(last, prepend=0))
    sums = np.bincount(owner[:-1], weights=edges, minlength=len(polygons))
    return np.asarray(np.abs(sums) * geod.a**2 / 2)


def longitude_latitude(polygons: NDArray[np.object_], crs: Any) -> tuple[Floats, Floats]:
    """Longitude and latitude (EPSG:4326, degrees) of the centroids; NaN where the CRS has none."""
    points = shapely.get_coordinates(shapely.centroid(polygons))
    try:
        transformer = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
        lon, lat = transformer.transform(points[:, 0], points[:, 1])
    except pyproj.exceptions.ProjError:  # a local or engineering CRS has no place on Earth
        return np.full(len(points), np.nan), np.full(len(points), np.nan)
    good = np.isfinite(lon) & np.isfinite(lat)
    lon, lat = np.where(good, lon, np.nan), np.where(good, lat, np.nan)
    return np.where(np.abs(lon) > 180, (lon + 180) % 360 - 180, lon), lat  # scenes from 0 to 360 degrees
