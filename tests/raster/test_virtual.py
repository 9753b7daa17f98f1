from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from asd_cli.errors import RasterError
from asd_cli.raster.gdal import open_raster
from asd_cli.raster.scene import Scene
from asd_cli.raster.virtual import Band, Source, array_shape, virtual_raster
from asd_cli.raster.windows import Window

SIDE = 6
RANDOM = np.random.default_rng(3)


def write(path: Path, *bands: np.ndarray) -> str:
    values = np.stack(bands)
    with open_raster(
        path, "w", driver="GTiff", count=len(bands), height=SIDE, width=SIDE, dtype=values.dtype
    ) as dataset:
        dataset.write(values)
    return str(path)


def drawn(high: int = 256) -> np.ndarray:
    return RANDOM.integers(0, high, (SIDE, SIDE)).astype(np.uint8)


def test_bands_of_several_files_and_a_mask(tmp_path: Path) -> None:
    red, nir, first, second = drawn(), drawn(), 255 * drawn(2), drawn(2)
    one, two = write(tmp_path / "a & <b>.tif", nir, red), write(tmp_path / "m.tif", first, second)
    mask = Band("Byte", (Source(two, 1), Source(two, 2)), product=True)
    virtual = virtual_raster(
        SIDE, SIDE, [Band("Byte", (Source(one, 2),), name="red"), Band("Byte", (Source(one, 1, ratio=0.5),))], mask=mask
    )
    with Scene.open("named.tif", virtual=virtual) as scene:
        chip = scene.read(Window(0, 0, SIDE, SIDE))
        assert (scene.path, scene.band_names, set(scene.files)) == ("named.tif", ("red", "band 2"), {one, two})
    valid = (first > 0) & (second > 0)
    np.testing.assert_array_equal(chip.valid, valid)
    np.testing.assert_array_equal(chip.pixels[0], np.where(valid, red, 0))
    np.testing.assert_allclose(chip.pixels[1], np.where(valid, nir / 2, 0), atol=0.5)


def test_later_sources_lie_over_earlier_ones_where_they_are_not_skipped(tmp_path: Path) -> None:
    below, above = 255 * drawn(2), 255 * drawn(2)
    files = write(tmp_path / "below.tif", below), write(tmp_path / "above.tif", above)
    sources = tuple(Source(path, lut=((0, 0), (1, code), (255, code)), skip=0) for code, path in enumerate(files, 1))
    virtual = virtual_raster(SIDE, SIDE, [Band("Byte", sources, categories=("none", "below", "above"), nodata=9)])
    with open_raster(virtual.text) as dataset:
        np.testing.assert_array_equal(dataset.read(1), np.where(above > 0, 2, np.where(below > 0, 1, 9)))
    plain = virtual_raster(SIDE, SIDE, [Band("Byte", sources)])
    with open_raster(plain.text) as dataset:
        np.testing.assert_array_equal(dataset.read(1), np.where(above > 0, 2, np.where(below > 0, 1, 0)))


def test_messages_name_the_file_and_not_the_text(tmp_path: Path) -> None:
    virtual = virtual_raster(SIDE, SIDE, [Band("Byte", (Source(str(tmp_path / "gone.tif")),))])
    with pytest.raises(RasterError) as error, Scene.open("named.tif", virtual=virtual) as scene:
        scene.read(Window(0, 0, SIDE, SIDE))
    assert str(error.value).startswith("named.tif: ")
    assert "VRTDataset" not in str(error.value)


def test_arrays_need_a_gdal_that_knows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RasterError, match=r"a\.h5: has no array 'img' that can be read"):
        array_shape(str(tmp_path / "a.h5"), "img")
    monkeypatch.setattr(rasterio, "__gdal_version__", "3.7.2")
    with pytest.raises(RasterError, match=r"a\.h5: this GDAL \(3\.7\.2\) reads no HDF5 arrays; use rasterio as PyPI"):
        array_shape(str(tmp_path / "a.h5"), "img")
