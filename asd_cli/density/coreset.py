"""A few rows that stand for many: greedy k-centre choice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_PROJECTED = 128  # numbers that keep distances within some per cent (Johnson & Lindenstrauss)
_ALIKE = 1e-6  # squared distance, relative to the mean square, below which rows are the same but for rounding


def greedy_coreset(rows: NDArray[np.float32], size: int, seed: int) -> NDArray[np.intp]:
    """Indexes of at most `size` of the rows (n, L): the first, then always the one farthest from those chosen.

    Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022, Algorithm 1 and Eq. 4-5: distances
    are those of a seeded random projection to 128 numbers. Fewer come back where the rest equals what is chosen.
    Memory: n x 128 float32; time: n x 128 x size.
    """
    projected = np.ascontiguousarray(rows - rows.mean(axis=0))
    if rows.shape[1] > _PROJECTED:
        random = np.random.default_rng([seed, 7])
        projected = projected @ random.standard_normal((rows.shape[1], _PROJECTED), dtype=np.float32)
    squares = np.einsum("ij,ij->i", projected, projected)
    alike = _ALIKE * float(squares.mean())
    chosen = [0]
    nearest = np.full(len(rows), np.inf, np.float32)
    while len(chosen) < min(size, len(rows)):
        last = chosen[-1]
        np.minimum(nearest, squares + squares[last] - 2 * (projected @ projected[last]), out=nearest)
        nearest[last] = -np.inf
        farthest = int(nearest.argmax())
        if nearest[farthest] <= alike:
            break
        chosen.append(farthest)
    return np.array(chosen, np.intp)
