from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from asd_cli.data.classes import scan_classes
from asd_cli.data.discovery import discover_tiles
from asd_cli.data.tiles import TileSet
from asd_cli.errors import LabelError, RasterError
from asd_cli.raster.gdal import open_raster
from asd_cli.raster.windows import Window

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
HEIGHT, WIDTH = 21, 34
WHOLE = Window(0, 0, HEIGHT, WIDTH)


def write(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    bands = pixels if pixels.ndim == 3 else pixels[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    profile: dict[str, Any] = {"driver": "PNG"}
    if path.suffix == ".tif":
        profile = {"driver": "GTiff", "crs": "EPSG:32633", "transform": Affine(10, 0, 0, 0, -10, 0)}
    profile |= {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype}
    with open_raster(path, "w", **(profile | options)) as dataset:
        dataset.write(bands)
    return path


def image(bands: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(1, 255, (bands, HEIGHT, WIDTH), dtype=np.uint8)


def codes(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(1, 5, (HEIGHT, WIDTH), dtype=np.uint8)


def tile_set(*paths: Path, normal: tuple[str, ...] = ("1",), labels: Path | None = None, **options: Any) -> TileSet:
    given_labels = str(labels) if labels else None
    sources = discover_tiles([str(path) for path in paths], labels=given_labels, normal=normal)
    return TileSet(sources, scan_classes(sources), normal=normal, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a", "b")):
        write(tmp_path / "images" / f"{name}.tif", image(seed=seed), nodata=7)
        write(tmp_path / "masks" / f"{name}.png", codes(seed))
    return tmp_path


def test_pixels_and_codes_together(folder: Path) -> None:
    tiles = tile_set(folder, ignore=("3", "99"))
    assert (len(tiles), tiles.band_count, tiles.dtype) == (2, 3, "uint8")
    assert [grid.shape for grid in tiles.grids] == [(HEIGHT, WIDTH)] * 2
    with tiles.open(1) as tile:
        assert tile.path.endswith("b.tif")
        assert tile.may_have_invalid
        got = tile.read(WHOLE)
    pixels, labels = image(seed=1), codes(1).astype(np.int32)
    valid = (pixels != 7).all(axis=0)
    assert np.array_equal(got.chip.pixels, np.where(valid, pixels, 0))
    assert np.array_equal(got.codes, np.where(labels == 3, -1, labels))
    assert np.array_equal(tiles.normal_mask(got.chip, got.codes), valid & (labels == 1))
    expected = np.where((labels == 2) | (labels == 4), labels, -1)
    assert np.array_equal(tiles.anomalous_class(got.codes), expected)
    assert tiles.normal_pixels() == [int((codes(seed) == 1).sum()) for seed in (0, 1)]


@settings(max_examples=25, deadline=None)
@given(row=st.integers(-40, 40), col=st.integers(-50, 50), height=st.integers(1, 30), width=st.integers(1, 30))
def test_windows_over_the_edges(
    tmp_path_factory: pytest.TempPathFactory, row: int, col: int, height: int, width: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "edges"
    if not folder.exists():
        write(folder / "a.tif", image())
        write(folder / "a_label.tif", codes())
    with tile_set(folder).open(0) as tile:
        got = tile.read(Window(row, col, height, width))
    assert got.chip.pixels.shape == (3, height, width)
    padded = np.full((HEIGHT + 200, WIDTH + 200), -1, np.int32)
    padded[100 : 100 + HEIGHT, 100 : 100 + WIDTH] = codes()
    assert np.array_equal(got.codes, padded[100 + row :, 100 + col :][:height, :width])


def test_tiles_without_labels_are_normal_wherever_valid(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", image(), nodata=7)
    tiles = tile_set(tmp_path, normal=("anything",))
    with tiles.open(0) as tile:
        got = tile.read(Window(-2, 0, HEIGHT + 4, WIDTH))
    mask = tiles.normal_mask(got.chip, got.codes)
    assert np.array_equal(mask[2:-2], (image() != 7).all(axis=0))
    assert not mask[:2].any()
    assert not mask[-2:].any()
    assert (tiles.anomalous_class(got.codes) == -1).all()
    assert tiles.normal_pixels() == [HEIGHT * WIDTH]


def test_folders_as_classes(tmp_path: Path) -> None:
    write(tmp_path / "forest" / "a.tif", image())
    write(tmp_path / "water" / "a.tif", image())
    tiles = tile_set(tmp_path, normal=("water",))
    normal, anomalous = [], []
    for index in range(2):
        with tiles.open(index) as tile:
            got = tile.read(WHOLE)
        normal.append(bool(tiles.normal_mask(got.chip, got.codes).all()))
        anomalous.append(np.unique(tiles.anomalous_class(got.codes)).tolist())
    assert normal == [False, True]
    assert anomalous == [[1], [-1]]
    assert tiles.classes.name(1) == "forest"
    assert tiles.normal_pixels() == [0, HEIGHT * WIDTH]


def test_pixels_outside_polygons_are_neither_normal_nor_anomalous(tmp_path: Path) -> None:
    write(tmp_path / "tiles" / "a.tif", image())
    shapes = [shapely.box(0, -100, 100, 0), shapely.box(100, -100, 200, 0)]
    truth = tmp_path / "truth.gpkg"
    geopandas.GeoDataFrame({"kind": ["wood", "mine"]}, geometry=shapes, crs="EPSG:32633").to_file(truth)
    tiles = tile_set(tmp_path / "tiles", normal=("wood",), labels=truth)
    with pickle.loads(pickle.dumps(tiles)).open(0) as tile:
        got = tile.read(WHOLE)
    mine, wood = 1, 2
    expected = np.zeros((HEIGHT, WIDTH), np.int32)
    expected[:10, :10] = wood
    expected[:10, 10:20] = mine
    assert np.array_equal(got.codes, expected)
    assert np.array_equal(tiles.normal_mask(got.chip, got.codes), expected == wood)
    assert np.array_equal(tiles.anomalous_class(got.codes), np.where(expected == mine, mine, -1))
    around = tile_set(tmp_path / "tiles", normal=("unlabelled",), labels=truth)
    assert np.array_equal(around.normal_mask(got.chip, got.codes), expected == 0)
    assert set(np.unique(around.anomalous_class(got.codes))) == {-1, mine, wood}
    with pytest.raises(LabelError, match=r"--normal 1: no such class; found: unlabelled, mine, wood"):
        tile_set(tmp_path / "tiles", normal=("1",), labels=truth)


def test_other_band_count_names_both_files(folder: Path) -> None:
    write(folder / "images" / "b.tif", image(bands=4), photometric="MINISBLACK")
    message = r"b\.tif has 4 bands, but .*a\.tif has 3; choose common ones with --bands"
    with pytest.raises(RasterError, match=message):
        tile_set(folder)
    tiles = tile_set(folder, bands=(3, 1))
    assert tiles.band_count == 2
    with tiles.open(1) as tile:
        assert np.array_equal(tile.read(WHOLE).chip.pixels, image(bands=4)[[2, 0]])


def test_nodata_given(folder: Path) -> None:
    tiles = tile_set(folder, nodata=9)
    with tiles.open(0) as tile:
        assert np.array_equal(tile.read(WHOLE).chip.valid, (image() != 9).all(axis=0))


def test_normal_classes_that_cannot_be_meant(folder: Path) -> None:
    with pytest.raises(LabelError, match=r"say which class is normal with --normal; found: 1, 2, 3, 4"):
        tile_set(folder, normal=())
    with pytest.raises(LabelError, match=r"class 2 is given to both --normal and --ignore-label; choose one"):
        tile_set(folder, normal=("1", "2"), ignore=("2",))
    with pytest.raises(LabelError, match=r"--normal 5: no such class; found: 1, 2, 3, 4"):
        tile_set(folder, normal=("5",))


def test_subsets_keep_codes(folder: Path) -> None:
    tiles = tile_set(folder)
    part = tiles.subset([1])
    assert (len(part), len(tiles)) == (1, 2)
    assert part.sources == tiles.sources[1:]
    assert part.normal_pixels() == tiles.normal_pixels()[1:]
    with part.open(0) as tile:
        assert np.array_equal(tile.read_codes(WHOLE), codes(1))


def test_no_tiles() -> None:
    with pytest.raises(RasterError, match="no tiles; give a folder of rasters"):
        TileSet([], scan_classes([]), normal=("a",))


def test_sizes_that_differ_are_found_by_the_scan(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(folder / "masks" / "a.png", np.ones((HEIGHT, WIDTH + 3), np.uint8))
    tiles = tile_set(folder)
    with tiles.open(0) as tile:
        assert (tile.read_codes(WHOLE) == 1).all()
    assert len(caplog.records) == 1
    assert "the label is cropped at the right or bottom edge" in caplog.text
    write(folder / "masks" / "a.png", np.ones((HEIGHT - 1, WIDTH), np.uint8))
    message = r"a\.png is 34 x 20 px, but its image .*a\.tif is 34 x 21 px; labels must have the size"
    with pytest.raises(LabelError, match=message):
        tile_set(folder)


def real(name: str) -> Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"{SHARED / name} is not there")
    return SHARED / name


def test_real_forest_tiles_with_an_overhanging_mask(caplog: pytest.LogCaptureFixture) -> None:
    tiles = tile_set(real("amazon_forest_s2"), normal=("1",))
    assert len(tiles) == 30
    assert sum(tiles.classes.pixels.values()) == 30 * 512 * 512
    assert tiles.classes.found == (1, 2)
    assert [record.getMessage().partition(",")[0].rpartition("/")[2] for record in caplog.records] == [
        "Amazon_181.tiff_34.png is 515 x 512 px"
    ]


def test_real_landslides_in_colour() -> None:
    tiles = tile_set(real("hokkaido_landslide"), normal=("0,0,0",))
    share = tiles.classes.pixels[255 << 16] / sum(tiles.classes.pixels.values())
    assert len(tiles) == 16
    assert share == pytest.approx(0.086, abs=0.001)


@pytest.mark.parametrize(
    ("name", "normal", "classes", "share"),
    [
        ("amazon_forest_s2", "1", 2, 0.535),
        ("hrsid_sar_ship", "0,0,0", 2, 0.9988),
        ("gsi_solar_panel", "#000000", 2, 0.731),
        ("nepal_landslide_landsat", "0,0,0", 196, 0.992),
        ("l8_biome_cloud", "128", 4, 0.751),
    ],
)
def test_real_folders_as_they_are(name: str, normal: str, classes: int, share: float) -> None:
    tiles = tile_set(real(name), normal=(normal,))
    assert len(tiles.classes.found) == classes
    assert sum(tiles.normal_pixels()) / sum(tiles.classes.pixels.values()) == pytest.approx(share, abs=0.001)


def test_real_floods_need_the_tiles_named(caplog: pytest.LogCaptureFixture) -> None:
    folder = real("sen1floods11_spain")
    with pytest.raises(RasterError, match=r"S1Hand\.tif has 2 bands, but .*LabelHand\.tif has 1; .* tiles of one kind"):
        tile_set(folder, normal=("0",))
    label = folder / "Spain_7370579_LabelHand.tif"
    tiles = tile_set(folder / "Spain_7370579_S2Hand.tif", normal=("0",), labels=label)
    assert tiles.band_count == 13
    assert tiles.classes.found == (0, 1)
    assert tiles.normal_pixels() == [192_010]
