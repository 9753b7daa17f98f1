"""`asd predict` with its own scorer or with one that does nothing; run by scenes.py."""

from __future__ import annotations

import sys

import numpy as np

from asd_cli.cli import main
from asd_cli.methods.asd.method import AsdMethod


class Nothing:
    """Distance 0 for every pixel."""

    batch, callers = 1, None

    def __init__(self, side: int) -> None:
        self.side = side
        self._zeros = np.zeros((1, 1, side, side), np.float32)

    def __call__(self, blocks: np.ndarray) -> np.ndarray:
        return self._zeros


if __name__ == "__main__":
    if sys.argv[1] == "nothing":
        AsdMethod.distance_engine = lambda self, device, side: Nothing(side)  # type: ignore[method-assign,assignment]
    sys.argv = ["asd", "predict", *sys.argv[2:]]
    main()
