"""The committed sample data: complete, small, on one grid, and what the generator makes."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

SAMPLE = Path(__file__).parents[2] / "sample_data"
STEMS = [f"tile_{number:02d}" for number in range(1, 9)]
CODES = {
    "forest": "1",
    "clearing": "2",
    "track": "3",
    "water": "4",
    "building": "5",
    "dead tree": "6",
}
MADE = ["scene.tif", "truth.tif", "truth.tif.aux.xml", "classes.csv", "tiles/classes.csv"]


@pytest.fixture(scope="module")
def maker() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SAMPLE))
        return importlib.import_module("make_sample")


def read(path: Path) -> NDArray[np.uint8]:
    with rasterio.open(path) as source:
        return np.asarray(source.read())


def pairs() -> list[tuple[Path, Path]]:
    tiles = [(SAMPLE / f"tiles/images/{stem}.tif", SAMPLE / f"tiles/labels/{stem}.tif") for stem in STEMS]
    return [(SAMPLE / "scene.tif", SAMPLE / "truth.tif"), *tiles]


def test_small_enough_to_commit() -> None:
    files = [SAMPLE / name for name in MADE] + [path for pair in pairs()[1:] for path in pair]
    assert sum(path.stat().st_size for path in files) < 5_000_000


def test_tile_folders_hold_the_same_stems() -> None:
    for folder in ("images", "labels"):
        assert sorted(path.stem for path in (SAMPLE / "tiles" / folder).glob("*.tif")) == STEMS


@pytest.mark.parametrize("table", ["classes.csv", "tiles/classes.csv"])
def test_class_table(table: str) -> None:
    with (SAMPLE / table).open(encoding="utf-8", newline="") as source:
        assert {row["name"]: row["value"] for row in csv.DictReader(source)} == CODES


@pytest.mark.parametrize(("image", "label"), pairs(), ids=lambda path: path.name)
def test_photo_and_codes_share_a_grid(image: Path, label: Path) -> None:
    with rasterio.open(image) as photo, rasterio.open(label) as codes:
        assert (photo.shape, photo.transform, photo.crs) == (codes.shape, codes.transform, codes.crs)
        assert photo.crs.to_epsg() == 25832
        assert photo.res == (0.5, 0.5)
        assert photo.dtypes == ("uint8",) * 3
        assert photo.descriptions == ("red", "green", "blue")
        assert [band.name for band in photo.colorinterp] == ["red", "green", "blue"]
        assert photo.nodata == codes.nodata == 0
        assert photo.block_shapes == [(256, 256)] * 3
        assert codes.dtypes == ("uint8",)
        pixels, values = photo.read(), codes.read(1)
    assert values.max() <= 6
    # A pixel is empty in all bands or in none, and has no code exactly where it is empty.
    np.testing.assert_array_equal((pixels == 0).any(axis=0), (pixels == 0).all(axis=0))
    np.testing.assert_array_equal((pixels == 0).all(axis=0), values == 0)


def test_scene_has_an_empty_corner_and_every_class() -> None:
    codes = read(SAMPLE / "truth.tif")[0]
    assert 0.03 < (codes == 0).mean() < 0.05
    assert (codes[0, -1], codes[0, 0], codes[-1, 0], codes[-1, -1]) == (0, 1, 1, 1)
    assert set(np.unique(codes)) == set(range(7))
    assert 0.08 < (codes > 1).sum() / (codes > 0).sum() < 0.15


def test_tiles_are_mostly_forest_and_look_like_the_scene() -> None:
    scene, truth = read(SAMPLE / "scene.tif"), read(SAMPLE / "truth.tif")[0]
    photos = np.concatenate([read(image).reshape(3, -1) for image, _ in pairs()[1:]], axis=1)
    codes = np.concatenate([read(label).ravel() for _, label in pairs()[1:]])
    assert (codes == 1).mean() > 0.85
    assert set(np.unique(codes)) == set(range(1, 7))
    there, here = scene[:, truth == 1].astype(np.float64), photos[:, codes == 1].astype(np.float64)
    np.testing.assert_allclose(here.mean(axis=1), there.mean(axis=1), atol=5)
    np.testing.assert_allclose(here.std(axis=1), there.std(axis=1), rtol=0.12)


def test_generator_makes_the_committed_files(maker: Any, tmp_path: Path) -> None:
    tile = maker.TILES[6]
    photo, codes = maker.draw(tile)
    maker.write_raster(tmp_path / "photo.tif", photo, tile)
    maker.write_raster(tmp_path / "codes.tif", codes[None], tile)
    maker.write_classes(tmp_path)
    maker.write_categories(tmp_path / "truth.tif")
    for name, committed in (("photo", "images"), ("codes", "labels")):
        old, new = read(SAMPLE / f"tiles/{committed}/tile_07.tif"), read(tmp_path / f"{name}.tif")
        # Another CPU or NumPy may round the last digit of a cosine differently: a few pixels may change.
        assert (old != new).mean() < 0.002
    for name in ("classes.csv", "truth.tif.aux.xml"):
        assert (tmp_path / name).read_bytes() == (SAMPLE / name).read_bytes()


def test_same_seed_same_bytes(maker: Any, tmp_path: Path) -> None:
    for name in ("one.tif", "two.tif"):
        maker.write_raster(tmp_path / name, maker.draw(maker.TILES[3])[0], maker.TILES[3])
    assert (tmp_path / "one.tif").read_bytes() == (tmp_path / "two.tif").read_bytes()


def test_tiles_are_not_parts_of_the_scene(maker: Any) -> None:
    def box(place: Any) -> tuple[float, float, float, float]:
        left, top = place.origin
        return left, top, left + place.cols * maker.PIXEL, top + place.rows * maker.PIXEL

    left, top, right, bottom = box(maker.SCENE)
    for tile in map(box, maker.TILES):
        assert tile[2] <= left or tile[0] >= right or tile[3] <= top or tile[1] >= bottom
