"""Pictures of a comparison: a tile, its label, and the score map of every row side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asd_cli.data.tiles import TileSet
from asd_cli.raster.windows import Window
from asd_cli.vector.labels import IGNORED
from asd_cli.workflows.compare_scores import thinned

_ACROSS = 5
_STRETCH = (2.0, 98.0)  # percentiles that become black and white
_NORMAL, _ANOMALOUS, _NEITHER = (0.78, 0.86, 0.78), (0.70, 0.09, 0.17), (1.0, 1.0, 1.0)


def picture(tiles: TileSet, place: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Input and label of a tile, thinned, as (h, w, 3) in [0, 1]: bands 1 to 3 or the first alone; red = anomalous."""
    grid = tiles.grids[place]
    with tiles.open(place) as tile:
        data = tile.read(Window(0, 0, grid.height, grid.width))
    normal = thinned(tiles.normal_mask(data.chip, data.codes))
    valid = thinned(data.chip.valid)
    anomalous = valid & (thinned(tiles.anomalous_class(data.codes)) != IGNORED)
    label = np.full((*valid.shape, 3), _NEITHER)
    label[normal], label[anomalous] = _NORMAL, _ANOMALOUS
    bands = data.chip.pixels[:3] if len(data.chip.pixels) >= 3 else data.chip.pixels[[0, 0, 0]]
    return _stretched(thinned(bands), valid), label


def _stretched(bands: NDArray[Any], valid: NDArray[Any]) -> NDArray[Any]:
    shown = np.ones((*valid.shape, 3))
    for index, band in enumerate(bands):
        if valid.any():
            low, high = np.percentile(band[valid], _STRETCH)
            shown[..., index] = np.where(valid, ((band - low) / max(high - low, 1e-12)).clip(0, 1), 1.0)
    return shown


def draw(path: Path, image: NDArray[Any], label: NDArray[Any], scores: Mapping[str, NDArray[Any]]) -> None:
    """Write a PNG: `image` and `label` (h, w, 3), then every map (h, w) of scores 0 to 1, 0.5 = threshold."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(_ACROSS, 2 + len(scores))
    down = -(-(2 + len(scores)) // across)
    shape = image.shape[0] / image.shape[1]
    figure = Figure(figsize=(3 * across, (3 * shape + 0.35) * down), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(down, across, index + 1) for index in range(across * down)]
    for one in axes:
        one.set_axis_off()
    for one, (title, shown) in zip(axes, {"input": image, "label": label, **scores}.items(), strict=False):
        drawn = one.imshow(shown, vmin=0, vmax=1, cmap="inferno", interpolation="nearest")
        one.set_title(title, fontsize=9)
    if scores:
        figure.colorbar(drawn, ax=axes, shrink=0.6, label="score, 0.5 = calibrated threshold")
    figure.savefig(path, dpi=120, format="png")
