from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp

from asd_cli.errors import RasterError
from asd_cli.raster.scene import Chip, Scene
from asd_cli.raster.windows import Window

Make = Callable[..., Path]
RGBA = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
DTYPES = ["uint8", "int16", "uint16", "int32", "float32", "float64"]


def read_all(path: Path | str, **options: Any) -> Chip:
    with Scene.open(path, **options) as scene:
        return scene.read(Window(0, 0, *scene.grid.shape))


def bytes_image(rng: np.random.Generator, bands: int = 3) -> np.ndarray:
    return rng.integers(1, 250, (bands, 20, 30), dtype=np.uint8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_reads_every_type(make_raster: Make, rng: np.random.Generator, dtype: str) -> None:
    values = rng.integers(0, 120, (2, 20, 30)).astype(dtype)
    path = make_raster(values)
    chip = read_all(path)
    assert chip.pixels.dtype == np.float32
    np.testing.assert_array_equal(chip.pixels, values.astype(np.float32))
    assert chip.valid.all()
    with Scene.open(path) as scene:
        assert scene.dtype == dtype
        assert scene.may_have_invalid == dtype.startswith("float")


@pytest.mark.parametrize("dtype", DTYPES)
def test_nodata_of_every_type(make_raster: Make, rng: np.random.Generator, dtype: str) -> None:
    values = rng.integers(1, 120, (2, 20, 30)).astype(dtype)
    values[0, 2, 3] = values[1, 5:7, 8] = 0
    path = make_raster(values, nodata=0)
    chip = read_all(path)
    np.testing.assert_array_equal(chip.valid, (values != 0).all(axis=0))
    assert not chip.pixels[:, ~chip.valid].any()
    with Scene.open(path) as scene:
        assert scene.may_have_invalid


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [
        ("float32", -3.4028234663852886e38),
        ("float32", -9999.9),
        ("float64", -1.7976931348623157e308),
        ("float64", -3.4028234663852886e38),
        ("float32", float("nan")),
        ("int32", -2147483648),
        ("uint16", 65535),
    ],
)
def test_extreme_nodata(make_raster: Make, dtype: str, nodata: float) -> None:
    values = np.ones((1, 4, 5), dtype)
    values[0, 1, 2] = nodata
    valid = np.ones((4, 5), bool)
    valid[1, 2] = False
    np.testing.assert_array_equal(read_all(make_raster(values, nodata=nodata)).valid, valid)


def test_nodata_is_compared_before_the_cast(make_raster: Make) -> None:
    values = np.array([[[16777216, 16777217, 16777218]]], np.int32)  # the first two are one float32
    np.testing.assert_array_equal(read_all(make_raster(values, nodata=16777217)).valid, [[True, False, True]])


def test_nodata_can_be_replaced(make_raster: Make) -> None:
    path = make_raster(np.array([[[0, 7, 8]]], np.uint8), nodata=0)
    np.testing.assert_array_equal(read_all(path, nodata=7).valid, [[True, False, True]])
    for impossible in (-9999, 7.5, float("nan")):
        assert read_all(path, nodata=impossible).valid.all()
        with Scene.open(path, nodata=impossible) as scene:
            assert not scene.may_have_invalid


def test_not_finite_and_beyond_float32(make_raster: Make) -> None:
    values = np.array([[[1, np.nan, np.inf, -np.inf, 1e300, -1e39, 2]]])
    chip = read_all(make_raster(values))
    np.testing.assert_array_equal(chip.valid, [[True, False, False, False, False, False, True]])
    np.testing.assert_array_equal(chip.pixels, [[[1, 0, 0, 0, 0, 0, 2]]])


@pytest.mark.parametrize("internal", [True, False])
@pytest.mark.parametrize("nodata", [None, 0])
def test_stored_mask_with_nodata(
    make_raster: Make, rng: np.random.Generator, internal: bool, nodata: int | None
) -> None:
    values = bytes_image(rng)
    values[1, 4, 4] = 0
    mask = rng.random((20, 30)) > 0.3
    path = make_raster(
        values,
        nodata=nodata,
        env={"GDAL_TIFF_INTERNAL_MASK": internal},
        edit=lambda dataset: dataset.write_mask(mask),
    )
    assert Path(f"{path}.msk").exists() != internal
    expected = mask & (nodata is None or (values != 0).all(axis=0))
    np.testing.assert_array_equal(read_all(path).valid, expected)
    np.testing.assert_array_equal(read_all(path, bands=[1]).valid, mask)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("nodata", [None, 9])
@pytest.mark.parametrize("stored", [False, True])
def test_alpha_with_nodata_and_mask(
    make_raster: Make, rng: np.random.Generator, dtype: str, nodata: int | None, stored: bool
) -> None:
    values = bytes_image(rng, 4).astype(dtype)
    values[3] = rng.integers(0, 3, (20, 30))
    values[0, 7, 7] = 9
    mask = rng.random((20, 30)) > 0.2

    def edit(dataset: Any) -> None:
        dataset.colorinterp = RGBA
        if stored:
            dataset.write_mask(mask)

    env = {"GDAL_TIFF_INTERNAL_MASK": False}
    path = make_raster(values, nodata=nodata, env=env, edit=edit, photometric="RGB", ALPHA="YES")
    expected = values[3] > 0
    if stored:
        expected &= mask
    for bands in (None, [1, 2, 3], [1]):
        seen = values[:3] if bands is None else values[np.array(bands) - 1]
        clear = (seen != 9).all(axis=0) if nodata is not None else True
        chip = read_all(path, bands=bands)
        np.testing.assert_array_equal(chip.valid, expected & clear)
        assert chip.pixels.shape[0] == len(seen)


def test_alpha_selected_by_number_is_data(make_raster: Make, rng: np.random.Generator) -> None:
    values = bytes_image(rng, 4)
    values[3, :5] = 0
    path = make_raster(values, edit=lambda dataset: setattr(dataset, "colorinterp", RGBA))
    chip = read_all(path, bands=[1, 2, 3, 4])
    assert chip.valid.all()
    np.testing.assert_array_equal(chip.pixels, values)


def test_vrt_with_nodata_per_band_and_types_per_band(make_raster: Make, tmp_path: Path) -> None:
    make_raster(np.array([[[1, 2, 3, 4]], [[1, 2, 3, 4]], [[1, 1, 1, 0]]], np.uint8))

    def band(number: int, dtype: str, nodata: str, more: str = "") -> str:
        source = '<SourceFilename relativeToVRT="1">scene.tif</SourceFilename>'
        return (
            f'<VRTRasterBand dataType="{dtype}" band="{number}">{nodata}{more}'
            f"<SimpleSource>{source}<SourceBand>{number}</SourceBand></SimpleSource></VRTRasterBand>"
        )

    bands = (
        band(1, "Byte", "<NoDataValue>1</NoDataValue>")
        + band(2, "Float32", "<NoDataValue>2</NoDataValue>")
        + band(3, "UInt16", "", "<ColorInterp>Alpha</ColorInterp>")
    )
    vrt = tmp_path / "scene.vrt"
    vrt.write_text(f'<VRTDataset rasterXSize="4" rasterYSize="1">{bands}</VRTDataset>')
    np.testing.assert_array_equal(read_all(vrt).valid, [[False, False, True, False]])
    np.testing.assert_array_equal(read_all(vrt, bands=[2]).valid, [[True, False, True, False]])
    with Scene.open(vrt) as scene:
        assert (scene.bands, scene.dtype) == ((1, 2), "float32")


def test_png_with_alpha_and_jpeg(make_raster: Make, rng: np.random.Generator) -> None:
    values = bytes_image(rng, 4)
    values[3] = rng.integers(0, 2, (20, 30)) * 255
    plain = {"crs": None, "transform": None, "photometric": None}
    png = read_all(make_raster(values, "a.png", driver="PNG", **plain))
    np.testing.assert_array_equal(png.valid, values[3] > 0)
    np.testing.assert_array_equal(png.pixels[:, png.valid], values[:3, png.valid])
    path = make_raster(values[:3], "a.jpg", driver="JPEG", **plain)
    assert read_all(path).valid.all()
    with Scene.open(path) as scene:
        assert not scene.may_have_invalid
        assert scene.grid.crs is None


def test_reads_inside_a_zip(make_raster: Make, rng: np.random.Generator, tmp_path: Path) -> None:
    values = bytes_image(rng)
    path = make_raster(values)
    with ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "scene.tif")
    np.testing.assert_array_equal(read_all(f"/vsizip/{tmp_path}/a.zip/scene.tif").pixels, values)


def test_bands_in_the_order_asked_with_repeats(make_raster: Make, rng: np.random.Generator) -> None:
    values = bytes_image(rng)
    path = make_raster(values, edit=lambda dataset: dataset.set_band_description(3, "NIR"))
    np.testing.assert_array_equal(read_all(path, bands=[3, 1, 3]).pixels, values[[2, 0, 2]])
    with Scene.open(path, bands=[3, 1, 3]) as scene:
        assert scene.band_names == ("NIR", "band 1", "NIR")
        assert (scene.bands, scene.band_count, scene.path) == ((3, 1, 3), 3, str(path))


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    height=st.sampled_from([1, 2, 7]),
    width=st.sampled_from([1, 3, 9]),
    row=st.integers(-20, 20),
    col=st.integers(-20, 20),
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
)
def test_windows_beyond_the_edges_are_mirrored(
    make_raster: Make, height: int, width: int, row: int, col: int, size: tuple[int, int]
) -> None:
    values = np.arange(2 * height * width, dtype=np.uint8).reshape(2, height, width)
    pad = ((50, 50), (50, 50))
    box = np.s_[row + 50 : row + 50 + size[0], col + 50 : col + 50 + size[1]]
    with Scene.open(make_raster(values, nodata=1)) as scene:
        chip = scene.read(Window(row, col, *size))
    valid = (values != 1).all(axis=0)
    np.testing.assert_array_equal(chip.valid, np.pad(valid, pad, mode="reflect")[box])
    expected = np.pad(values * valid, ((0, 0), *pad), mode="reflect")[:, *box]
    np.testing.assert_array_equal(chip.pixels, expected)


def refusal(path: Path | str, **options: Any) -> str:
    with pytest.raises(RasterError) as caught:
        Scene.open(path, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_not_a_raster(tmp_path: Path) -> None:
    missing = tmp_path / "nope.tif"
    assert refusal(missing) == f"{missing}: no such file; check the path"
    assert "no such file" in refusal(f"/vsizip/{tmp_path}/nope.zip/a.tif")
    assert "no such file" in refusal("")
    text = tmp_path / "notes.txt"
    text.write_text("not a raster")
    assert refusal(text).startswith(f"{text}: cannot be opened as a raster (not recognized")
    assert refusal(tmp_path) == f"{tmp_path}: is a folder; name a raster, or several with a glob such as '*.tif'"


def test_bands_that_do_not_exist(make_raster: Make, rng: np.random.Generator) -> None:
    path = make_raster(bytes_image(rng))
    assert refusal(path, bands=[1, 4]) == f"{path}: no band 4; the raster has 3 bands, numbered from 1"
    assert "no band 0" in refusal(path, bands=[0])
    assert "no band selected; choose from 1 to 3" in refusal(path, bands=[])
    one = make_raster(bytes_image(rng, 1), "one.tif")
    assert "the raster has 1 band," in refusal(one, bands=[2])
    alpha = make_raster(bytes_image(rng, 1), "x.tif", edit=lambda d: setattr(d, "colorinterp", [ColorInterp.alpha]))
    assert "an alpha band only" in refusal(alpha)


def test_kinds_that_are_refused(make_raster: Make) -> None:
    path = make_raster(np.ones((1, 3, 3), np.complex64), "c.tif")
    assert refusal(path).startswith(f"{path}: band 1 holds complex numbers (complex64); convert it")
    path = make_raster(np.ones((1, 3, 3), np.uint8), edit=lambda d: d.write_colormap(1, {1: (9, 9, 9, 255)}))
    assert refusal(path) == (f"{path}: band 1 is colour-mapped; expand it first: gdal_translate -expand rgb IN OUT")


def test_subdatasets_are_listed(make_raster: Make, tmp_path: Path) -> None:
    path = tmp_path / "parts.gpkg"
    options = {"driver": "GPKG", "crs": "EPSG:4326", "width": 8, "height": 8, "count": 1, "dtype": "uint8"}
    options["transform"] = rasterio.Affine(1, 0, 0, 0, -1, 8)
    for number in range(5):
        more = {"APPEND_SUBDATASET": "YES"} if number else {}
        with rasterio.open(path, "w", RASTER_TABLE=f"t{number}", **options, **more) as dataset:
            dataset.write(np.ones((1, 8, 8), np.uint8))
    text = refusal(path)
    assert f"{path}: holds 5 subdatasets; name one of them instead: GPKG:{path}:t0, " in text
    assert text.endswith(", ...")
    assert read_all(f"GPKG:{path}:t1", bands=[1]).valid.all()


def test_damaged_blocks_are_named_quietly(
    make_raster: Make,
    rng: np.random.Generator,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    values = rng.integers(0, 60000, (3, 600, 600), dtype=np.uint16)
    path = make_raster(values, tiled=True, blockxsize=256, blockysize=256, compress="deflate")
    path.write_bytes(path.read_bytes()[:-200_000])
    with caplog.at_level(logging.DEBUG), Scene.open(path, bands=[1, 3]) as scene:
        with pytest.raises(RasterError) as caught:
            scene.read(Window(500, 490, 120, 40))
        assert scene.read(Window(0, 0, 16, 16)).valid.all()
    text = str(caught.value)
    assert text.startswith(f"{path}: bands 1, 3 cannot be read at cols 256-511, rows 512-599 (")
    assert text.endswith("; the file looks damaged, get it again")
    assert "\n" not in text
    assert not [record for record in caplog.records if record.name == "rasterio._env"]
    assert capfd.readouterr() == ("", "")


def test_no_warning_without_a_georeference(make_raster: Make, rng: np.random.Generator) -> None:
    path = make_raster(bytes_image(rng), crs=None, transform=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_all(path).valid.all()
