"""Contract 4: the surroundings of nodata holes are not painted anomalous because of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from asd_cli.raster.gdal import open_raster
from asd_cli.raster.scene import Scene
from asd_cli.raster.windows import Window, write_windows
from asd_cli.workflows.mapping import map_scene
from asd_cli.workflows.models import Model, load_model

SAMPLE = Path(__file__).parents[2] / "sample_data"
NEAR = 16  # px
MOST = 1.5
Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

SHAPES: list[Callable[[Array, Array], Mask]] = [
    lambda y, x: np.hypot(y, x) < 2,
    lambda y, x: np.hypot(y, x) < 20,
    lambda y, x: (abs(y) <= 10) & (abs(x) <= 10),
    lambda y, x: (abs(y) <= 26) & (abs(x) <= 26),
    lambda y, x: abs(y) + abs(x) <= 20,
    lambda y, x: ((abs(y) < 2) & (abs(x) < 25)) | ((abs(x) < 2) & (abs(y) < 25)),
    lambda y, x: abs(np.hypot(y, x) - 18) < 2,
    lambda y, x: ((abs(y - 10) < 5) & (abs(x) < 15)) | ((abs(x + 10) < 5) & (abs(y) < 15)),
    lambda y, x: (abs(y - x) < 2) & (abs(y) < 25),
    lambda y, x: (abs(y) < 1) & (abs(x) < 25),
    lambda y, x: (np.hypot(y, x) < 15) & ((y.astype(int) * 7 + x.astype(int) * 13) % 5 == 0),  # specks
    lambda y, x: (y > 3 * np.sin(x / 2)) & (np.hypot(y, x) < 22),
]


def planted(shape: tuple[int, int], step: int = 96) -> Mask:
    """One hole every `step` px, its shape and place drawn by chance, so that shapes do not go with places."""
    random = np.random.default_rng(1)
    rows, cols = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    hole = np.zeros(shape, bool)
    for row in range(step // 2, shape[0], step):
        for col in range(step // 2, shape[1], step):
            down, right = random.integers(-12, 13, 2)
            hole |= SHAPES[random.integers(len(SHAPES))](rows - row - down, cols - col - right)
    return hole


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(SAMPLE / "forest.safetensors")


@pytest.fixture(scope="module")
def normal() -> Mask:
    """Forest that is more than 16 px from anything else."""
    with open_raster(SAMPLE / "truth.tif") as dataset:
        truth = dataset.read(1)
    forest = ndimage.binary_erosion((truth == 1) | (truth == 0), np.ones((3, 3)), iterations=16)
    return np.asarray(forest & (truth == 1))


def distances(scene: Path, model: Model) -> Array:
    with Scene.open(scene) as opened:
        out = np.empty(opened.grid.shape, np.float32)

        def sink(window: Window, values: Array) -> None:
            out[window.row : window.row_stop, window.col : window.col_stop] = values[0]

        windows = write_windows(*opened.grid.shape, 1024)
        map_scene(lambda: Scene.open(scene), model.mapper(torch.device("cpu")), windows, sink)
    return out


@pytest.fixture(scope="module")
def maps(model: Model, normal: Mask, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Array, Array, Mask]]:
    """Distances of part of the sample with and without planted holes, the holes, where it is normal."""
    import rasterio

    rows = slice(0, 512)
    with open_raster(SAMPLE / "scene.tif") as dataset:
        pixels, profile = dataset.read()[:, rows], dataset.profile
    hole = planted(pixels.shape[1:])
    folder = tmp_path_factory.mktemp("holes")
    found = []
    for name, values in (("clean", pixels), ("holed", np.where(hole, 0, pixels))):
        with rasterio.open(folder / f"{name}.tif", "w", **profile | {"height": 512}) as dataset:
            dataset.write(values)
        found.append(distances(folder / f"{name}.tif", model))
    return found[0], found[1], hole


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.05])
def test_holes_do_not_light_up_their_surroundings(
    maps: tuple[Array, Array, Mask], normal: Mask, model: Model, rate: float
) -> None:
    clean, holed, hole = maps
    where = normal[:512] & ~np.isnan(holed)
    near = ndimage.distance_transform_cdt(~hole, "chessboard") <= NEAR
    around, interior = where & near, where & ~near
    threshold = model.calibration.distance(rate)
    assert around.sum() > 50_000
    assert interior.sum() > 50_000

    def share(values: Array, pixels: Mask) -> float:
        return float(np.mean(values[pixels] >= threshold))

    assert share(holed, around) <= MOST * share(clean, around)
    assert share(holed, around) <= MOST * share(holed, interior)
    assert share(holed, interior) == pytest.approx(share(clean, interior), rel=0.01)  # far off nothing changes
