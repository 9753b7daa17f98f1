"""A Gaussian for tiles that nobody has seen yet.

The pixels of a few tiles are many, but the tiles are few: a covariance of all pixels is too sure of what these happen
to share. Two corrections, chosen by cross-validation (`benchmarks/accuracy.py`): tiles differ more from each other than
a few of them show, so what they differ by counts several times; and no direction is thinner than a share of what it
would be if all numbers were independent, so that none is odd only because the tiles at hand lack its variation. The
fewer they are, the larger is that share.

The second is a bound on the condition of the correlation matrix; see Won, Lim, Kim and Rajaratnam,
"Condition-number-regularized covariance estimation", J. Royal Statistical Society B 75 (2013).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asd_cli.density.gaussian import Gaussian, check_moments
from asd_cli.density.moments import FloatArray
from asd_cli.density.normal import NormalPixels

_MORE_BETWEEN = 2.0
"""How many times more than once counts what tiles differ by."""
_HIGHEST_FLOOR, _NOISE = 0.3, 1e-10
"""The floor of eigenvalues of a single tile, and what is rounding noise of float32 descriptors."""
_LEAST_DEVIATION = 1e-3
"""Standard deviation below which a number counts as this; those of networks and images on [-1, 1] are hundreds of
times larger unless they never vary."""


def fit_for_unseen(normal: NormalPixels, blocks: Sequence[int], *, caution: float) -> Gaussian:
    """The Gaussian whose covariance is that of all pixels plus twice that of the means of the tiles, block by block
    along the diagonal (`blocks` are their sizes) and 0 elsewhere, with no eigenvalue of a block's correlation matrix
    below `caution` (0 to 1) over the number of tiles, or 0.3.

    Of numbers on about [-1, 1], none has a standard deviation below 0.001.

    Raises:
        InputError: fewer than two descriptors, or descriptors that are not finite.
    """
    check_moments(normal.moments)
    whole = normal.moments.covariance + _MORE_BETWEEN * normal.between
    np.fill_diagonal(whole, np.maximum(np.diag(whole), _LEAST_DEVIATION**2))
    covariance, floor = np.zeros_like(whole), max(min(caution / normal.tiles, _HIGHEST_FLOOR), _NOISE)
    ends = np.cumsum(blocks)
    for start, end in zip(ends - blocks, ends, strict=True):
        covariance[start:end, start:end] = _floored(whole[start:end, start:end], floor)
    return Gaussian(normal.moments.mean.copy(), covariance, 0.0)


def _floored(covariance: FloatArray, floor: float) -> FloatArray:
    """With eigenvalues of its correlation matrix raised to the floor."""
    deviations = np.sqrt(np.diag(covariance))
    scale = np.outer(deviations, deviations)
    values, axes = np.linalg.eigh(covariance / scale)
    raised: FloatArray = (axes * np.maximum(values, floor)) @ axes.T * scale
    return (raised + raised.T) / 2.0
