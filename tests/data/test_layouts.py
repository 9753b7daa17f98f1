"""Data sets as they are published, in miniature: pixels, validity, classes, what is missing; and training on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from asd_cli.data.layouts import find_tiles, layout_called
from asd_cli.data.layouts.agriculture_vision import CLASSES
from asd_cli.data.layouts.landslide4sense import DIVISORS
from asd_cli.data.tiles import TileSet
from asd_cli.errors import AsdError, InputError, LabelError, RasterError
from asd_cli.options import LAYOUTS, CompareOptions, EvaluateOptions, FitGaussianOptions, TileOptions, TrainOptions
from asd_cli.raster.gdal import open_raster
from asd_cli.raster.windows import Window
from asd_cli.workflows.compare import compare
from asd_cli.workflows.evaluate import evaluate
from asd_cli.workflows.fit_gaussian import fit_gaussian
from asd_cli.workflows.models import load_model
from asd_cli.workflows.tilesets import open_tiles
from asd_cli.workflows.train import train

SIDE = 48
Array = NDArray[Any]


def write(path: Path, values: Array, driver: str, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = values if values.ndim == 3 else values[None]
    shape = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype}
    with open_raster(path, "w", driver=driver, **shape, **options) as dataset:
        dataset.write(bands)
    path.with_name(f"{path.name}.aux.xml").unlink(missing_ok=True)


def jpeg(path: Path, values: Array) -> Array:
    """Write it, and return what the lossy file holds."""
    write(path, values, "JPEG", quality=95)
    with open_raster(path) as dataset:
        return dataset.read()


def smooth(seed: int, bands: int) -> Array:
    random = np.random.default_rng(seed)
    return (random.integers(60, 140, (bands, SIDE // 8, SIDE // 8)).repeat(8, 1).repeat(8, 2)).astype(np.uint8)


def deepglobe(folder: Path) -> list[Array]:
    """Four tiles; the masks are not quite pure, as published: forest, then water, urban, unknown."""
    images = []
    for place in range(4):
        images.append(jpeg(folder / f"{place}_sat.jpg", smooth(place, 3)))
        mask = np.zeros((3, SIDE, SIDE), np.uint8)
        mask[1, :32] = 254
        mask[:, :32, 40:] = [[[3]], [[1]], [[200]]]
        mask[:, 32:, :16] = [[[0]], [[255]], [[129]]]
        write(folder / f"{place}_mask.png", mask, "PNG")
    return images


def agriculture_vision(folder: Path) -> list[Array]:
    """Two tiles with a boundary, a hole in the mask, and overlapping classes."""
    images = []
    for place in range(2):
        rgb = jpeg(folder / "images" / "rgb" / f"{place}.jpg", smooth(place, 3))
        nir = jpeg(folder / "images" / "nir" / f"{place}.jpg", smooth(place + 10, 1))
        images.append(np.concatenate([rgb, nir]))
        for name in CLASSES:
            label = np.zeros((SIDE, SIDE), np.uint8)
            if name == "drydown":
                label[36:, :20] = 255
            if name == "water":
                label[40:, 10:30] = 255
            write(folder / "labels" / name / f"{place}.png", label, "PNG")
        boundary, mask = np.full((2, SIDE, SIDE), 255, np.uint8)
        boundary[:, :4], mask[8:12, 8:12] = 0, 0
        write(folder / "boundaries" / f"{place}.png", boundary, "PNG")
        write(folder / "masks" / f"{place}.png", mask, "PNG")
    return images


def landslide4sense(folder: Path) -> list[Array]:
    """Three patches (48 x 40 here, so that mixed-up axes show) of 14 bands, with a landslide."""
    images = []
    for number in (1, 2, 10):
        image = np.random.default_rng(number).normal(1, 0.2, (SIDE, 40, 14))
        mask = np.zeros((SIDE, 40), np.uint8)
        mask[40:, :12] = 1
        for kind, name, values in (("img", "image", image), ("mask", "mask", mask)):
            path = folder / kind / f"{name}_{number}.h5"
            path.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(path, "w") as file:
                file.create_dataset(kind, data=values, compression="gzip")
        images.append(image.transpose(2, 0, 1).astype(np.float32))
    return [images[0], images[2], images[1]]  # in the order of their names


def fas(folder: Path) -> list[Array]:
    """Two ENVI cubes of 112 bands without a suffix, and labels."""
    images = []
    for place in range(2):
        cube = np.random.default_rng(place).integers(100, 200, (112, SIDE, SIDE)).astype(np.int16)
        label = np.zeros((SIDE, SIDE), np.uint8)
        label[40:, 40:] = 1
        write(folder / f"scene{place}", cube, "ENVI")
        write(folder / f"scene{place}_gt", label, "ENVI")
        images.append(cube[[109, 69, 32]].astype(np.float32))
    return images


MAKERS: dict[str, tuple[Callable[[Path], list[Array]], str, str]] = {
    "deepglobe": (deepglobe, "train", "forest"),
    "agriculture-vision": (agriculture_vision, "train", "normal"),
    "landslide4sense": (landslide4sense, "TrainData", "background"),
    "fas": (fas, "train", "0"),
}
"""What writes it, the folder of its training part, and its normal class."""


def opened(root: Path, layout: str, **options: Any) -> TileSet:
    given = {"normal": (MAKERS[layout][2],), "tiles": (str(root),), **options}
    return open_tiles(TileOptions(layout=layout, **given))


def read(tiles: TileSet, place: int = 0) -> tuple[Array, Array, Array]:
    """Pixels, validity and class names of a whole tile."""
    with tiles.open(place) as tile:
        data = tile.read(Window(0, 0, tile.grid.height, tile.grid.width))
    names = np.vectorize(lambda code: tiles.classes.name(int(code)) if code >= 0 else "-", otypes=[object])
    return data.chip.pixels, data.chip.valid, names(data.codes)


@pytest.mark.parametrize("layout", MAKERS)
@pytest.mark.parametrize("above", [False, True])
def test_pixels_are_those_of_the_files(layout: str, above: bool, tmp_path: Path) -> None:
    make, part, _ = MAKERS[layout]
    images = make(tmp_path / part)
    tiles = opened(tmp_path if above else tmp_path / part, layout)
    assert len(tiles) == len(images)
    for place, image in enumerate(images):
        pixels, valid, _ = read(tiles, place)
        np.testing.assert_array_equal(pixels, np.where(valid, image, 0))
        assert valid.mean() > 0.8


def test_deepglobe_has_names_for_its_colours_and_no_label_where_it_is_unknown(tmp_path: Path) -> None:
    deepglobe(tmp_path)
    tiles = opened(tmp_path, "deepglobe")
    names = read(tiles)[2]
    assert set(names[:32, :40].flat) == {"forest"}
    assert set(names[:32, 40:].flat) == {"water"}
    assert set(names[32:, :16].flat) == {"urban"}
    assert set(names[32:, 16:].flat) == {"-"}
    assert tiles.classes.listed() == "water, forest, urban"
    with pytest.raises(LabelError, match="--normal barren: no pixel is of this class; found: water, forest, urban"):
        opened(tmp_path, "deepglobe", normal=("barren",))


def test_agriculture_vision_stacks_bands_masks_and_classes(tmp_path: Path) -> None:
    agriculture_vision(tmp_path)
    tiles = opened(tmp_path, "agriculture-vision")
    _, valid, names = read(tiles)
    expected = np.ones((SIDE, SIDE), bool)
    expected[:, :4], expected[8:12, 8:12] = False, False
    np.testing.assert_array_equal(valid, expected)
    assert tiles.band_names == ("red", "green", "blue", "nir")
    truth = np.full((SIDE, SIDE), "normal", object)
    truth[40:, 10:30] = "water"
    truth[36:, :20] = "drydown"
    np.testing.assert_array_equal(names, truth)
    files = {Path(name).relative_to(tmp_path).as_posix() for name in tiles.files}
    assert {"images/rgb/0.jpg", "images/nir/0.jpg", "masks/1.png", "boundaries/0.png", "labels/water/1.png"} <= files


def test_landslide4sense_has_named_bands_and_classes(tmp_path: Path) -> None:
    images = landslide4sense(tmp_path / "TrainData")
    tiles = opened(tmp_path, "landslide4sense")
    assert (tiles.band_names[0], *tiles.band_names[11:]) == ("B1", "B12", "slope", "DEM")
    assert [Path(source.path).name for source in tiles.sources] == ["image_1.h5", "image_10.h5", "image_2.h5"]
    _, _, names = read(tiles)
    assert set(names[40:, :12].flat) == {"landslide"}
    assert tiles.classes.pixels == {0: 3 * (SIDE * 40 - 96), 1: 3 * 96}
    whole = open_tiles(TileOptions((str(tmp_path),), normal=("0",), layout="landslide4sense-undivided"))
    np.testing.assert_allclose(read(whole)[0], images[0] * np.array(DIVISORS)[:, None, None], rtol=1e-6)
    assert str(tmp_path / "TrainData" / "img" / "image_2.h5") in whole.files


def test_fas_takes_three_bands_unless_told_otherwise(tmp_path: Path) -> None:
    fas(tmp_path)
    assert opened(tmp_path, "fas").bands == (110, 70, 33)
    assert opened(tmp_path, "fas", bands=(1, 2)).bands == (1, 2)


@pytest.mark.parametrize("layout", MAKERS)
def test_training_comparing_and_evaluating_work_as_on_any_tiles(layout: str, tmp_path: Path) -> None:
    make, part, normal = MAKERS[layout]
    make(tmp_path / part)
    tiles = TileOptions((str(tmp_path),), normal=(normal,), layout=layout)
    model = tmp_path / "model.safetensors"
    report = train(TrainOptions(tiles=tiles, output=model, steps=2, device="cpu"))
    assert report.normal_pixels > 500
    figures = evaluate(EvaluateOptions(tiles=tiles, model=model, device="cpu")).pooled
    assert 0 <= figures.auc <= 1
    assert figures.anomalous > 50
    if layout in ("fas", "agriculture-vision"):
        refitted = tmp_path / "refitted.safetensors"
        fit_gaussian(FitGaussianOptions(tiles=tiles, model=model, output=refitted, device="cpu"))
        assert load_model(refitted).band_indexes == load_model(model).band_indexes
    if layout == "deepglobe":
        options = CompareOptions(tiles=tiles, output=tmp_path / "report", methods=("asd",), steps=2, maps=1)
        assert not compare(options).failed


def test_every_layout_of_the_options_is_there() -> None:
    assert [layout_called(name) is not None for name in LAYOUTS] == [True] * len(LAYOUTS)
    with pytest.raises(InputError, match="--layout vaihingen: not known; layouts: auto, deepglobe, agriculture-vision"):
        layout_called("vaihingen")


@pytest.mark.parametrize(
    ("layout", "removed", "kind", "text"),
    [
        ("deepglobe", "1_mask.png", LabelError, r"1_sat\.jpg: there is no .*1_mask\.png; add it, or leave the tile"),
        ("agriculture-vision", "images/nir/1.jpg", LabelError, r"rgb/1\.jpg: there is no .*nir/1\.jpg"),
        ("agriculture-vision", "labels/endrow/0.png", LabelError, r"rgb/0\.jpg: there is no .*endrow/0\.png"),
        ("landslide4sense", "mask/mask_2.h5", LabelError, r"image_2\.h5: there is no .*mask_2\.h5"),
        ("fas", "scene1_gt", LabelError, r"scene1: there is no .*scene1_gt"),
    ],
)
def test_a_missing_file_is_named(layout: str, removed: str, kind: type[AsdError], text: str, tmp_path: Path) -> None:
    MAKERS[layout][0](tmp_path)
    (tmp_path / removed).unlink()
    (tmp_path / f"{removed}.hdr").unlink(missing_ok=True)
    with pytest.raises(kind, match=text):
        opened(tmp_path, layout)


@pytest.mark.parametrize("layout", MAKERS)
def test_folders_of_another_kind_are_refused(layout: str, tmp_path: Path) -> None:
    with pytest.raises(RasterError, match=f"holds no .*, as --layout {layout} has them"):
        opened(tmp_path, layout)
    (tmp_path / "a.tif").touch()
    with pytest.raises(RasterError, match=rf"a\.tif: is no folder; --layout {layout} takes folders as they are"):
        opened(tmp_path / "a.tif", layout)
    with pytest.raises(LabelError, match=f"--labels: is not for --layout {layout}, which says where the labels are"):
        opened(tmp_path, layout, labels="x.gpkg")


def test_files_that_do_not_fit_each_other(tmp_path: Path) -> None:
    agriculture_vision(tmp_path / "a")
    write(tmp_path / "a" / "masks" / "1.png", np.ones((SIDE, SIDE + 1), np.uint8), "PNG")
    with pytest.raises(RasterError, match=r"masks/1\.png is 49 x 48 px, but .*rgb/1\.jpg is 48 x 48 px; they must be"):
        opened(tmp_path / "a", "agriculture-vision")
    landslide4sense(tmp_path / "l")
    with h5py.File(tmp_path / "l" / "img" / "image_1.h5", "w") as file:
        file["image"] = np.zeros((4, 4, 14))
    with pytest.raises(RasterError, match=r"image_1\.h5: has no array 'img' that can be read"):
        opened(tmp_path / "l", "landslide4sense")
    with h5py.File(tmp_path / "l" / "img" / "image_1.h5", "w") as file:
        file["img"] = np.zeros((4, 4, 13))
    with pytest.raises(RasterError, match=r"image_1\.h5: its array 'img' is 4 x 4 x 13, not 128 x 128 x 14"):
        find_tiles(TileOptions((str(tmp_path / "l"),), normal=("0",), layout="landslide4sense-undivided"))


def test_a_score_raster_has_no_layout(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--layout fas: is for images; give a model"):
        evaluate(EvaluateOptions(tiles=TileOptions((str(tmp_path),), layout="fas")))
