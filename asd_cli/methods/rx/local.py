"""Local RX: each pixel against mean and covariance of the ring between two windows around it.

Reed & Yu, "Adaptive multiple-band CFAR detection of an optical pattern with unknown spectral distribution", IEEE
Trans. ASSP 38 (1990); the two windows as Kwon & Nasrabadi, "Kernel RX-algorithm", IEEE TGRS 43 (2005), have them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_FARTHEST = 1e4
_NARROW = 48  # bands up to which planes of products are faster than one matrix product a pixel; measured
_PART, _SMALL_PART, _FEW = 128, 32, 8  # sides of parts that the cache holds, up to a few bands and beyond
_ROOM = 1 << 22  # float64 values of rings in memory at once


@dataclass(frozen=True)
class Ring:
    """The pixels between two centred square windows.

    inner, outer: odd sides in pixels, 1 <= inner < outer. share: weight in (0, 1] of the covariance of all normal
    pixels in that of a ring, so that a flat ring does not make everything an anomaly.
    """

    inner: int
    outer: int
    share: float

    @property
    def halo(self) -> int:
        """Pixels that the outer window reaches on each side."""
        return self.outer // 2

    @property
    def count(self) -> int:
        """Pixels of the ring."""
        return self.outer**2 - self.inner**2

    def squared_distances(self, white: Tensor) -> Tensor:
        """Squared RX distance (B, H, W) of pixels (B, C, H + 2 halo, W + 2 halo) from their rings, float64 both.

        `white`: pixels whitened by the covariance of all normal ones. A Mahalanobis distance does not change by that,
        but the share is one of the identity now: no ring is singular, and float64 is enough for sums of squares.
        Values beyond +-10,000 standard deviations count as that.
        """
        white = white.clamp(-_FARTHEST, _FARTHEST)
        return self._by_planes(white) if white.shape[1] <= _NARROW else self._by_pixels(white)

    def _by_planes(self, white: Tensor) -> Tensor:
        """`_part` by part."""
        around, part = 2 * self.halo, _PART if white.shape[1] <= _FEW else _SMALL_PART
        height, width = white.shape[-2] - around, white.shape[-1] - around
        strips = []
        for row in range(0, height, part):
            strip = white[..., row : row + part + around, :]
            parts = [self._part(strip[..., col : col + part + around]) for col in range(0, width, part)]
            strips.append(torch.cat(parts, dim=-1))
        return torch.cat(strips, dim=-2)

    def _part(self, white: Tensor) -> Tensor:
        """Box sums of the bands and of their products, then one elimination for all pixels together."""
        bands = white.transpose(0, 1)
        count, halo = len(bands), self.halo
        planes = torch.cat([bands, *(bands[i : i + 1] * bands[i:] for i in range(count))])
        means = ring_sums(planes, self.inner, self.outer).div_(self.count)
        mean, products = means[:count], means[count:]
        residual = bands[..., halo : bands.shape[-2] - halo, halo : bands.shape[-1] - halo] - mean
        rows = []
        for i in range(count):
            row, products = products[: count - i], products[count - i :]
            row.addcmul_(mean[i : i + 1], mean[i:], value=-1).mul_(1 - self.share)
            row[0] += self.share
            rows.append(row)
        return eliminated(rows, residual)

    def _by_pixels(self, white: Tensor) -> Tensor:
        """Each pixel's ring gathered, its covariance a matrix product; strips of rows bound the memory."""
        around = white.unfold(2, self.outer, 1).unfold(3, self.outer, 1)
        middle = torch.zeros(self.outer, self.outer, dtype=torch.bool, device=white.device)
        thick = (self.outer - self.inner) // 2
        middle[thick : thick + self.inner, thick : thick + self.inner] = True
        batch, bands, height, width = around.shape[:4]
        step = max(1, _ROOM // (batch * width * bands * max(self.count, bands)))
        strips = [
            self._strip(around[:, :, row : row + step], ~middle, white[:, :, self.halo + row :, self.halo :])
            for row in range(0, height, step)
        ]
        return torch.cat(strips, dim=1)

    def _strip(self, around: Tensor, ring: Tensor, centre: Tensor) -> Tensor:
        """Squared distances (B, h, W) from windows (B, C, h, W, outer, outer) and the pixels from their first on."""
        pixels = around[..., ring].movedim(1, -1)
        mean = pixels.mean(dim=-2, keepdim=True)
        pixels = pixels - mean
        covariance = pixels.mT @ pixels * ((1 - self.share) / self.count)
        covariance.diagonal(dim1=-2, dim2=-1).add_(self.share)
        height, width = around.shape[2:4]
        residual = centre[:, :, :height, :width].movedim(1, -1) - mean.squeeze(-2)
        factor = torch.linalg.cholesky(covariance)
        solved = torch.linalg.solve_triangular(factor, residual.unsqueeze(-1), upper=False)
        squares: Tensor = solved.square().sum(dim=(-2, -1))
        return squares


def box_sum(x: Tensor, size: int, dim: int) -> Tensor:
    """Sums of `size` neighbours along a dimension, which loses size - 1.

    Sums of 1, 2, 4 ... neighbours are put together by the binary digits of the size. Nothing is subtracted, as a
    running sum would, so that a far value touches no sum but those that it belongs to.
    """
    length = x.shape[dim] - size + 1
    total, offset, width = None, 0, 1
    while True:
        if size & width:
            part = x.narrow(dim, offset, length)
            total = part if total is None else total + part
            offset += width
        if 2 * width > size:
            assert total is not None
            return total
        rest = x.shape[dim] - width
        x = x.narrow(dim, 0, rest) + x.narrow(dim, width, rest)
        width *= 2


def ring_sums(x: Tensor, inner: int, outer: int) -> Tensor:
    """Sums over the ring of each pixel: (..., H + outer - 1, W + outer - 1) -> (..., H, W).

    The ring is put together from bars above, below and beside the inner window: outer minus inner sum would lose the
    digits of the ring when an anomaly lies within.
    """
    thick, height, width = (outer - inner) // 2, x.shape[-2] - outer + 1, x.shape[-1] - outer + 1
    far = thick + inner
    bars = box_sum(box_sum(x, outer, -1), thick, -2)
    beside = box_sum(x.narrow(-2, thick, height + inner - 1), thick, -1)
    sides = box_sum(beside.narrow(-1, 0, width) + beside.narrow(-1, far, width), inner, -2)
    return sides.add_(bars.narrow(-2, 0, height)).add_(bars.narrow(-2, far, height))


def eliminated(rows: list[Tensor], residual: Tensor) -> Tensor:
    """r^T A^-1 r for many small positive definite A at once, by Gaussian elimination (LDL^T).

    Args:
        rows: the upper triangles: the i-th, (C - i, ...), holds A[i, i:]. Overwritten.
        residual: r, (C, ...). Overwritten.
    """
    total = torch.zeros_like(residual[0])
    for j, row in enumerate(rows):
        pivot, ratios = row[0], row[1:] / row[0]
        total.addcdiv_(residual[j].square(), pivot)
        residual[j + 1 :].addcmul_(ratios, residual[j], value=-1)
        for k in range(len(ratios)):
            rows[j + 1 + k].addcmul_(ratios[k], row[1 + k :], value=-1)
    return total
