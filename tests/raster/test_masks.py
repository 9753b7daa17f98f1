"""Raster masks: which pixels they mark, on the scene's grid or another, and what a masked scene reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.warp import Resampling, reproject

from asd_cli.errors import RasterError
from asd_cli.raster.context import read_with_halo
from asd_cli.raster.masks import MaskedScene, RasterMarks, SceneMasks
from asd_cli.raster.scene import Scene
from asd_cli.raster.windows import Window

Make = Callable[..., Path]
SHAPE = 700, 900


@pytest.fixture
def scene(make_scene: Make, tmp_path: Path) -> Path:
    values = np.random.default_rng(3).integers(1, 200, (2, *SHAPE), dtype=np.uint8)
    return make_scene(tmp_path / "scene.tif", values)


def marks(path: Path, scene: Path) -> RasterMarks:
    with Scene.open(scene) as opened:
        return RasterMarks(str(path), opened.grid, opened.path)


def whole(path: Path, scene: Path) -> NDArray[np.bool_]:
    reader = marks(path, scene)
    found = reader.read(Window(0, 0, *SHAPE))
    reader.close()
    return found


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_same_grid(scene: Path, make_scene: Make, tmp_path: Path, dtype: str) -> None:
    values = np.random.default_rng(1).integers(0, 4, SHAPE).astype(dtype)
    path = make_scene(tmp_path / "mask.tif", values[None], nodata=3)
    np.testing.assert_array_equal(whole(path, scene), (values == 1) | (values == 2))
    if dtype == "float32":
        values[:10] = np.nan
        path = make_scene(tmp_path / "nan.tif", values[None])
        np.testing.assert_array_equal(whole(path, scene), (values != 0) & ~np.isnan(values))


def test_a_mask_without_georeference_of_the_same_size(scene: Path, make_scene: Make, tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 2, SHAPE, dtype=np.uint8)
    path = make_scene(tmp_path / "mask.tif", values[None], crs=None, transform=Affine.identity())
    np.testing.assert_array_equal(whole(path, scene), values == 1)


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # of rasterio's own reprojection
@pytest.mark.parametrize("crs", ["EPSG:25832", "EPSG:4326", "EPSG:3035"])
@pytest.mark.parametrize("nodata", [None, 255])
def test_another_grid_is_warped_and_every_window_gets_the_same(
    scene: Path, make_scene: Make, tmp_path: Path, crs: str, nodata: int | None
) -> None:
    blobs = np.kron(np.random.default_rng(2).integers(0, 2, (20, 25), dtype=np.uint8), np.ones((9, 9), np.uint8))
    coarse = Affine(1.7, 0, 400_031, 0, -1.7, 5_599_980)  # covers a part of the scene
    profile = {"crs": "EPSG:25832", "transform": coarse}
    if crs != "EPSG:25832":
        target, transform = reproject(
            blobs, src_transform=coarse, src_crs="EPSG:25832", dst_crs=crs, resampling=Resampling.nearest
        )
        blobs, profile = target.squeeze(), {"crs": crs, "transform": transform}
    path = make_scene(tmp_path / "mask.tif", blobs[None], nodata=nodata, **profile)
    found = whole(path, scene)
    with rasterio.open(scene) as opened:
        expected = np.zeros(SHAPE, np.uint8)
        reproject(
            blobs,
            expected,
            src_transform=profile["transform"],
            src_crs=profile["crs"],
            dst_transform=opened.transform,
            dst_crs=opened.crs,
            resampling=Resampling.nearest,
        )
    assert 0.1 < found.mean() < 0.6
    assert np.mean(found != (expected != 0)) < 0.01  # another approximation of the same projection
    reader = marks(path, scene)
    for window in (Window(0, 0, 1, 1), Window(500, 510, 30, 5), Window(3, 700, 690, 200), Window(699, 0, 1, 900)):
        rows, cols = slice(window.row, window.row_stop), slice(window.col, window.col_stop)
        np.testing.assert_array_equal(reader.read(window), found[rows, cols])
    reader.close()


def test_what_is_no_mask(scene: Path, make_scene: Make, tmp_path: Path) -> None:
    with pytest.raises(RasterError, match=r"gone\.tif: cannot be opened as a raster mask"):
        marks(tmp_path / "gone.tif", scene)
    with pytest.raises(RasterError, match=r"scene\.tif: has 2 bands of uint8; a mask has one band"):
        marks(scene, scene)
    small = make_scene(tmp_path / "small.tif", np.zeros((1, 5, 7), np.uint8), crs=None, transform=Affine.identity())
    with pytest.raises(RasterError, match=r"small\.tif: is 7 x 5 px, .*scene\.tif 900 x 700 px, and without a georef"):
        marks(small, scene)
    damaged = make_scene(tmp_path / "damaged.tif", np.ones((1, *SHAPE), np.uint8))
    damaged.write_bytes(damaged.read_bytes()[: 300 * 900])
    with pytest.raises(RasterError, match=r"damaged\.tif: cannot be "):
        whole(damaged, scene)


class Marks:
    """Marks from an array."""

    def __init__(self, values: NDArray[np.bool_]) -> None:
        self._values = values

    def read(self, window: Window) -> NDArray[np.bool_]:
        assert window.row >= 0
        assert window.col >= 0
        assert window.row_stop <= len(self._values)
        return self._values[window.row : window.row_stop, window.col : window.col_stop]

    def close(self) -> None: ...


def test_left_out_is_as_nodata_and_outside_the_area_is_context(scene: Path, make_scene: Make, tmp_path: Path) -> None:
    left_out = np.random.default_rng(4).random(SHAPE) < 0.3
    area = np.zeros(SHAPE, bool)
    area[:400, :300] = True
    with rasterio.open(scene) as opened:
        holed = make_scene(tmp_path / "holed.tif", np.where(left_out, 0, opened.read()), nodata=0)
    window, halo = Window(0, 260, 64, 64), 8
    readers: dict[str, Any] = {"left_out": lambda: Marks(left_out), "area": lambda: Marks(area)}
    with MaskedScene(Scene.open(scene), SceneMasks(**readers)) as masked, Scene.open(holed) as expected:
        assert masked.may_have_invalid
        found, whole_scene = (read_with_halo(reader, window, halo) for reader in (masked, expected))
        np.testing.assert_array_equal(found.pixels, whole_scene.pixels)
        inside = np.zeros_like(found.valid)
        inside[:, : 300 - 260 + halo] = True
        np.testing.assert_array_equal(found.valid, whole_scene.valid & inside)
    with MaskedScene(Scene.open(scene), SceneMasks(area=readers["area"])) as masked:
        assert not masked.may_have_invalid
        chip = read_with_halo(masked, window, halo)
        with Scene.open(scene) as plain:
            np.testing.assert_array_equal(chip.pixels, read_with_halo(plain, window, halo).pixels)
        np.testing.assert_array_equal(chip.valid, inside)
        far = read_with_halo(masked, Window(600, 600, 64, 64), halo)
        assert not far.valid.any()
        assert not far.pixels.any()  # nothing was read
