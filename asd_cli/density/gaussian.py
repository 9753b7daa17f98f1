"""The normal Gaussian: Ledoit-Wolf covariance from moments and the Mahalanobis distance."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from asd_cli.density.moments import FloatArray, Moments
from asd_cli.errors import InputError

_LOG = logging.getLogger(__name__)
_CHUNK = 1 << 16
# Directions thinner than this, relative to the widest one, are rounding noise rather than variance.
_THINNEST = 1e-12
# Descriptors arrive as float32: a spread below this share of the mean cannot be told from rounding.
_ROUNDING = 1e-8


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Distribution of normal descriptors.

    Attributes:
        mean: (L,) float64.
        covariance: (L, L) float64, symmetric positive definite, shrinkage already applied.
        shrinkage: weight in [0, 1] of the scaled identity in `covariance`.

    Raises:
        InputError: shapes do not fit, values are not finite, or the covariance is not symmetric.
    """

    mean: FloatArray
    covariance: FloatArray
    shrinkage: float

    def __post_init__(self) -> None:
        length = self.mean.size
        if self.mean.shape != (length,) or self.covariance.shape != (length, length):
            raise InputError(
                f"Gaussian: mean {self.mean.shape} and covariance {self.covariance.shape} do not fit;"
                " they must be (L,) and (L, L)"
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.covariance).all()):
            raise InputError("Gaussian: mean or covariance is not finite; fit it again on valid descriptors")
        if not np.allclose(self.covariance, self.covariance.T, rtol=1e-6, atol=0.0):
            raise InputError("Gaussian: the covariance is not symmetric; fit it again")

    @cached_property
    def whitening(self) -> FloatArray:
        """(L, L) lower-triangular W with distance = |W (x - mean)| and W^T W = precision.

        Raises:
            InputError: the covariance is not positive definite.
        """
        try:
            factor = np.linalg.cholesky(self.covariance)
        except np.linalg.LinAlgError:
            raise InputError(
                f"Gaussian: the covariance of {self.mean.size} descriptors is not positive definite"
                f" (rank {self.rank}); fit it again with more normal pixels"
            ) from None
        return np.tril(np.linalg.solve(factor, np.eye(self.mean.size)))

    @property
    def precision(self) -> FloatArray:
        """(L, L) inverse of the covariance."""
        return self.whitening.T @ self.whitening

    @cached_property
    def _variances(self) -> FloatArray:
        return np.asarray(np.linalg.eigvalsh(self.covariance), dtype=np.float64)

    @property
    def rank(self) -> int:
        """Number of directions whose variance exceeds 1e-10 of the widest one's."""
        return int(np.count_nonzero(self._variances > 1e-10 * self._variances[-1]))

    @property
    def condition(self) -> float:
        """Variance of the widest over that of the thinnest direction, >= 1 (inf when singular)."""
        thinnest = float(self._variances[0])
        return float(self._variances[-1]) / thinnest if thinnest > 0 else float("inf")

    def distance(self, values: NDArray[np.floating]) -> FloatArray:
        """(n, L) descriptors -> (n,) float64 Mahalanobis distance, not squared, >= 0; NaN stays NaN."""
        if values.ndim != 2 or values.shape[1] != self.mean.size:
            raise ValueError(f"descriptors must be (n, {self.mean.size}), got shape {values.shape}")
        result = np.empty(len(values))
        turned = self.whitening.T
        for start in range(0, len(values), _CHUNK):
            with np.errstate(invalid="ignore", over="ignore"):
                white = (values[start : start + _CHUNK].astype(np.float64) - self.mean) @ turned
                result[start : start + _CHUNK] = np.sqrt(np.einsum("ij,ij->i", white, white))
        return result


def check_moments(moments: Moments) -> None:
    """Refuse moments that no Gaussian can be fitted on.

    Raises:
        InputError: fewer than two descriptors, or descriptors that are not finite.
    """
    if moments.count < 2:
        raise InputError(
            f"Gaussian: {moments.count} normal pixels are too few, at least 2 are needed;"
            " give more tiles or check their labels and masks"
        )
    if not (np.isfinite(moments.mean).all() and np.isfinite(moments.covariance).all() and np.isfinite(moments.fourth)):
        raise InputError(
            f"Gaussian: the descriptors of {moments.count} normal pixels are not finite; check the input for"
            " extreme values and declare its nodata value"
        )


def fit_ledoit_wolf(moments: Moments) -> Gaussian:
    """Gaussian with the shrunk covariance (1 - s) S + s tr(S)/L I.

    Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", J. Multivariate
    Analysis 88 (2004), section 3.2; the sums over pixels need nothing but the moments. Directions without
    variance get a tiny ridge, with a logged warning.

    Raises:
        InputError: fewer than two descriptors, or descriptors that are not finite.
    """
    check_moments(moments)
    empirical = moments.covariance
    shrinkage = _shrinkage(moments, empirical)
    scale = float(np.trace(empirical)) / len(empirical)
    covariance = (1.0 - shrinkage) * empirical + shrinkage * scale * np.eye(len(empirical))
    covariance = (covariance + covariance.T) / 2.0
    return Gaussian(moments.mean.copy(), _with_ridge(covariance, moments), shrinkage)


def _shrinkage(moments: Moments, empirical: FloatArray) -> float:
    """Ledoit-Wolf weight in [0, 1]: error of S over its distance from the scaled identity."""
    length = len(empirical)
    if length == 1:
        return 0.0
    scale = float(np.trace(empirical)) / length
    spread = float(np.sum((empirical - scale * np.eye(length)) ** 2))
    error = (moments.fourth / moments.count - float(np.sum(empirical**2))) / moments.count
    if spread <= 0.0 or error <= 0.0:
        return 0.0
    return min(error / spread, 1.0)


def _with_ridge(covariance: FloatArray, moments: Moments) -> FloatArray:
    variances = np.linalg.eigvalsh(covariance)
    largest_mean = float(np.max(np.abs(moments.mean)))
    floor = max(_THINNEST * float(variances[-1]), (_ROUNDING * largest_mean) ** 2)
    if floor > 0.0 and variances[0] >= floor:
        return covariance
    # Descriptors that are zero everywhere have no scale at all; any small number will do.
    ridge = floor if floor > 0.0 else 1e-12
    _LOG.warning(
        "descriptors of %d normal pixels hardly vary: smallest variance %.3g, largest %.3g; adding %.3g",
        moments.count,
        variances[0],
        variances[-1],
        ridge,
    )
    return covariance + ridge * np.eye(len(covariance))
