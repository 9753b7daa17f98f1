"""Fitting what follows training: the normal Gaussian, and the calibration from held-out normal pixels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from asd_cli.data.pieces import Piece, PieceData, read_piece
from asd_cli.data.tiles import LabelledTile, TileSet
from asd_cli.density.gaussian import Gaussian
from asd_cli.density.moments import Moments
from asd_cli.density.normal import NormalPixels
from asd_cli.density.sample import PixelSample
from asd_cli.errors import TrainingError
from asd_cli.methods.base import DescriptorDetector, Detector, MemoryDetector
from asd_cli.nn.engines import Engine
from asd_cli.raster.windows import Window
from asd_cli.workflows.mapping import BlockMapper

_log = logging.getLogger(__name__)
_PIXELS_PER_VALUE = 50  # fewer pixels than this for each entry of the covariance and the fit is shaky
_CONTAMINATED = 4.0  # mean squared distance of a tile under the others, over the length of descriptors
_TRIMMED, _TRIM_VALUES = 0.05, 10_000_000
_THIN = 1e-10  # variance of a direction, relative to the widest, that is rounding of float32 descriptors
NOT_FINITE = "the descriptors are not finite; check the tiles for odd values (--bands, --nodata)"
Advance = Callable[[int], None]


def mapped_pieces(
    mapper: BlockMapper, tiles: TileSet, pieces: Sequence[Piece], advance: Advance
) -> Iterator[tuple[Piece, PieceData, NDArray[np.float32]]]:
    """Each piece with its data and its map (channels, h, w), tile by tile."""
    for index, group in groupby(pieces, key=lambda piece: piece.tile):
        with tiles.open(index) as tile:
            for piece in group:
                yield piece, *map_window(mapper, tiles, tile, piece.window)
                advance(1)


def map_window(
    mapper: BlockMapper, tiles: TileSet, tile: LabelledTile, window: Window
) -> tuple[PieceData, NDArray[np.float32]]:
    """Data and map (channels, h, w) of one window of an open tile; the map is NaN where the tile is invalid."""
    halo = mapper.halo
    data = read_piece(tiles, tile, window, halo, block=mapper.block)
    values = mapper(data.chip)[:, : window.height, : window.width]
    values[:, ~data.chip.valid[halo : halo + window.height, halo : halo + window.width]] = np.nan
    return data, values


class Limit(NamedTuple):
    """The farthest that a descriptor may lie from a Gaussian to count as normal."""

    gaussian: Gaussian
    distance: float

    def keeps(self, rows: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which of the rows (n, L) lie within."""
        kept: NDArray[np.bool_] = self.gaussian.distance(rows.astype(np.float64)) <= self.distance
        return kept


def robust_limit(
    detector: DescriptorDetector,
    tiles: TileSet,
    pieces: Sequence[Piece],
    device: torch.device,
    seed: int,
    normal: NormalPixels,
) -> Limit:
    """What leaves out the twentieth of the pixels that lie farthest from the Gaussian of all: anomalies may be among
    them where nobody labelled any."""
    gaussian = detector.gaussian_of(normal)
    sample = PixelSample(max(_TRIM_VALUES // detector.length, 1000), detector.length, seed)
    engine = detector.descriptor_engine(device, detector.piece_side())
    add_normal(sample, detector, engine, tiles, pieces, lambda count: None)
    distances = gaussian.distance(sample.rows.astype(np.float64))
    return Limit(gaussian, float(np.quantile(distances, 1.0 - _TRIMMED)))


def tile_normals(
    detector: DescriptorDetector,
    tiles: TileSet,
    pieces: Sequence[Piece],
    device: torch.device,
    advance: Advance,
    *,
    within: Limit | None = None,
) -> dict[int, NormalPixels]:
    """Normal pixels, tile by tile, of those `within` a limit only; one pass."""
    engine, length = detector.descriptor_engine(device, detector.piece_side()), detector.length
    moments: dict[int, Moments] = {}
    for piece, every in normal_rows(detector, engine, length, tiles, pieces, advance):
        rows = every if within is None else every[within.keeps(every)]
        moments[piece.tile] = moments.get(piece.tile, Moments.empty(length)).merge(Moments.of(rows))
    return {tile: NormalPixels.of_tile(own) for tile, own in moments.items()}


def descriptor_sample(
    detector: MemoryDetector,
    tiles: TileSet,
    pieces: Sequence[Piece],
    device: torch.device,
    seed: int,
    advance: Advance,
) -> PixelSample:
    """A uniform sample of the descriptors of normal pixels, as many as the detector wants; one pass.

    Raises:
        TrainingError: none of them is finite.
    """
    sample = PixelSample(detector.sample_size, detector.length, seed)
    engine = detector.descriptor_engine(device, detector.piece_side())
    add_normal(sample, detector, engine, tiles, pieces, advance)
    return sample


def add_normal(
    sample: PixelSample, detector: Detector, engine: Engine, tiles: TileSet, pieces: Sequence[Piece], advance: Advance
) -> None:
    """Add to a sample what an engine makes of the normal pixels of pieces."""
    for piece, rows in normal_rows(detector, engine, sample.bands, tiles, pieces, advance):
        sample.add(rows, piece.key)
    if not sample.count:
        raise TrainingError(NOT_FINITE)


def normal_rows(
    detector: Detector, engine: Engine, channels: int, tiles: TileSet, pieces: Sequence[Piece], advance: Advance
) -> Iterator[tuple[Piece, NDArray[np.float32]]]:
    """Each piece with what an engine makes of its normal pixels, (n, channels)."""
    with BlockMapper(engine, detector.halo, channels=channels) as mapper:
        for piece, data, values in mapped_pieces(mapper, tiles, pieces, advance):
            yield piece, values[:, data.normal].T


def fit_normal(detector: DescriptorDetector, normal: NormalPixels) -> Gaussian:
    """Fit the detector's Gaussian and hand it over; warn, with numbers, of what makes it shaky.

    Raises:
        TrainingError: there are fewer than two pixels, or descriptors that are not finite.
    """
    length, moments = detector.length, normal.moments
    if moments.count < 2:
        raise TrainingError(f"{moments.count} normal pixel(s) to fit the Gaussian on; at least 2 are needed")
    if not (np.isfinite(moments.mean).all() and np.isfinite(moments.second).all()):
        raise TrainingError(NOT_FINITE)
    gaussian = detector.gaussian_of(normal)
    wanted = _PIXELS_PER_VALUE * np.count_nonzero(np.tril(gaussian.covariance))
    if moments.count < wanted:
        _log.warning(
            "the Gaussian of %d numbers rests on %d pixels only; %d or more are advisable",
            length,
            moments.count,
            wanted,
        )
    rank = covariance_rank(moments)
    if rank < length:
        _log.warning("the covariance of the descriptors has rank %d of %d; what it lacks is made up for", rank, length)
    detector.set_gaussian(gaussian)
    return gaussian


def covariance_rank(moments: Moments) -> int:
    """How many directions descriptors vary in, but for rounding."""
    variances = np.linalg.eigvalsh(moments.covariance)
    return int(np.count_nonzero(variances > _THIN * variances[-1]))


def suspicious_tiles(
    detector: DescriptorDetector, parts: Mapping[int, NormalPixels], known: NormalPixels | None = None
) -> dict[int, float]:
    """Tiles whose pixels look anomalous under the Gaussian of all others (and `known` pixels).

    Returns:
        The mean squared distance of their pixels over L, about 1 for normal ones, where it is above 4 and
        above three times the median of all tiles. Empty where the covariance is so thin that it tells nothing.
    """
    indexes = list(parts)
    if len(indexes) + (known is not None) < 2:
        return {}
    nothing = NormalPixels.of_all(detector.length, [])
    first = known or nothing
    # before the sums of many tiles take memory
    if covariance_rank(NormalPixels.of_all(detector.length, [first, *parts.values()]).moments) < detector.length:
        return {}
    before, behind = [first], [nothing]
    for index in indexes:
        before.append(before[-1].merge(parts[index]))
    for index in reversed(indexes):
        behind.append(behind[-1].merge(parts[index]))
    behind.reverse()
    ratios: dict[int, float] = {}
    for place, index in enumerate(indexes):
        rest = before[place].merge(behind[place + 1])
        if rest.moments.count > detector.length:
            ratios[index] = _mean_square(detector.gaussian_of(rest), parts[index].moments) / detector.length
    limit = max(_CONTAMINATED, 3.0 * float(np.median(list(ratios.values())))) if len(ratios) > 2 else _CONTAMINATED
    return {index: ratio for index, ratio in ratios.items() if ratio > limit}


def _mean_square(gaussian: Gaussian, part: Moments) -> float:
    shift = gaussian.whitening @ (part.mean - gaussian.mean)
    spread = gaussian.whitening @ part.covariance @ gaussian.whitening.T
    return float(shift @ shift + np.trace(spread))
