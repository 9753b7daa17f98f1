from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.crs import CRS

from asd_cli.errors import LabelError
from asd_cli.raster.gdal import open_raster
from asd_cli.raster.grid import Grid
from asd_cli.raster.windows import Window, write_windows
from asd_cli.vector.label_polygons import LabelPolygons, PolygonReader, apply_affine
from asd_cli.vector.labels import IGNORED, LabelSource, RasterLabels, colour_name, open_labels, read_truth

UTM = CRS.from_epsg(32633)
NORTH_UP = Affine(10, 0, 500000, 0, -10, 5200000)


def compose(outer: Affine, inner: Affine) -> Affine:
    """`inner`, then `outer`; affine 2 and 3 differ in the operator for it."""
    product = np.array(outer).reshape(3, 3) @ np.array(inner).reshape(3, 3)
    return Affine(*product.ravel()[:6])


def at(transform: Affine, col: float, row: float) -> tuple[float, float]:
    x, y = apply_affine(transform, np.array([(col, row)], dtype=np.float64))
    return float(x[0]), float(y[0])


GRID = Grid(40, 30, NORTH_UP, UTM)


def write(path: Path, pixels: NDArray[Any], **options: Any) -> str:
    """A raster of pixels (H, W) or (C, H, W), on the grid above unless `options` say otherwise."""
    bands = pixels if pixels.ndim == 3 else pixels[None]
    driver = {".png": "PNG", ".dat": "ENVI"}.get(path.suffix, "GTiff")
    palette = options.pop("palette", None)
    georeference = {"crs": UTM, "transform": NORTH_UP} if driver == "GTiff" else {}
    profile = {"driver": driver, "count": len(bands), "dtype": bands.dtype, **georeference, **options}
    with open_raster(path, "w", height=bands.shape[1], width=bands.shape[2], **profile) as dataset:
        dataset.write(bands)
        if palette:
            dataset.write_colormap(1, palette)
    return str(path)


def test_polygons_are_the_same_for_every_image() -> None:
    """What is cut to the surroundings of the first image is there for the next ones."""
    left, bottom, right, top = 500_000, 5_190_000, 510_000, 5_200_000
    polygons = LabelPolygons("x", geopandas.GeoSeries([shapely.box(left, bottom, right, top)], crs=UTM), ["land"])
    for step in range(4):
        grid = Grid(40, 30, Affine(10, 0, left + 3000 * step, 0, -10, top), UTM)
        assert (polygons.on_grid(grid, "image.tif").read(Window(0, 0, 30, 40)) == 1).all()


def whole(grid: Grid) -> Window:
    return Window(0, 0, grid.height, grid.width)


def random_codes(shape: tuple[int, ...] = GRID.shape, top: int = 4) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, top, shape, dtype=np.uint8)


def pixel_box(col: float, row: float, col_stop: float, row_stop: float, transform: Affine = NORTH_UP) -> Any:
    """Polygon of a rectangle given in pixels."""
    corners = [(col, row), (col_stop, row), (col_stop, row_stop), (col, row_stop)]
    return shapely.Polygon([at(transform, *corner) for corner in corners])


def frame(shapes: list[Any], crs: Any = UTM, **columns: Any) -> Any:
    return geopandas.GeoDataFrame(columns, geometry=shapes, crs=crs.to_wkt() if crs else None)


def test_raster_codes_by_window(tmp_path: Path) -> None:
    codes = random_codes()
    path = write(tmp_path / "label.tif", codes)
    with RasterLabels(path, GRID, "image.tif") as labels:
        for window in write_windows(*GRID.shape, 16):
            expected = codes[window.row : window.row_stop, window.col : window.col_stop]
            got = labels.read(window)
            assert got.dtype == np.int32
            assert np.array_equal(got, expected)
    assert np.array_equal(read_truth(path, GRID, whole(GRID)), codes)


def test_raster_nodata_and_masks_are_no_label(tmp_path: Path) -> None:
    codes = random_codes()
    path = write(tmp_path / "label.tif", codes, nodata=3)
    assert np.array_equal(read_truth(path, GRID, whole(GRID)), np.where(codes == 3, IGNORED, codes.astype(np.int32)))
    masked = write(tmp_path / "masked.tif", codes)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), open_raster(masked, "r+") as dataset:
        dataset.write_mask(codes != 2)
    expected = np.where(codes == 2, IGNORED, codes.astype(np.int32))
    assert np.array_equal(read_truth(masked, GRID, whole(GRID)), expected)


@pytest.mark.parametrize(
    ("nodata", "fill"), [(-9999.0, -9999.0), (float("nan"), np.nan), (None, np.nan), (-3.4e38, -3.4e38)]
)
def test_float_labels_hold_whole_numbers(tmp_path: Path, nodata: float | None, fill: float) -> None:
    codes = random_codes().astype(np.float32)
    expected = codes.astype(np.int32)
    codes[3:6, 4:9] = fill
    expected[3:6, 4:9] = IGNORED
    path = write(tmp_path / "label.tif", codes, nodata=nodata)
    assert np.array_equal(read_truth(path, GRID, whole(GRID)), expected)


def test_values_that_are_no_classes(tmp_path: Path) -> None:
    half = write(tmp_path / "half.tif", np.full(GRID.shape, 0.5, np.float32))
    with pytest.raises(LabelError, match=r"half\.tif: 0\.5 is no class number; a label raster holds whole numbers"):
        read_truth(half, GRID, whole(GRID))
    huge = write(tmp_path / "huge.tif", np.full(GRID.shape, 2**31, np.uint32))
    with pytest.raises(LabelError, match=r"huge\.tif: holds class numbers beyond 2147483647"):
        read_truth(huge, GRID, whole(GRID))
    many = write(tmp_path / "many.tif", np.zeros((5, *GRID.shape), np.uint8))
    with pytest.raises(LabelError, match=r"many\.tif: has 5 bands of uint8; a label has one band of class numbers"):
        read_truth(many, GRID, whole(GRID))
    wide = write(tmp_path / "wide.tif", np.zeros((3, *GRID.shape), np.uint16))
    with pytest.raises(LabelError, match=r"wide\.tif: has 3 bands of uint16"):
        read_truth(wide, GRID, whole(GRID))
    waves = write(tmp_path / "waves.tif", np.zeros(GRID.shape, np.complex64))
    with pytest.raises(LabelError, match=r"waves\.tif: holds complex numbers"):
        read_truth(waves, GRID, whole(GRID))
    text = tmp_path / "text.tif"
    text.write_text("no raster")
    with pytest.raises(LabelError, match=r"text\.tif: cannot be opened as a label raster \(.*not recognized"):
        read_truth(str(text), GRID, whole(GRID))


def test_damaged_label_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "label.tif", random_codes((300, 400)))
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: len(data) // 2])
    grid = Grid(400, 300, NORTH_UP, UTM)
    with pytest.raises(LabelError, match=r"label\.tif: cannot be read \(.*\); the label looks damaged"):
        read_truth(path, grid, whole(grid))


def test_colour_labels(tmp_path: Path) -> None:
    table = np.array([(0, 0, 0), (255, 0, 0), (200, 128, 0), (9, 9, 9)], np.uint8)
    index = random_codes()
    path = write(tmp_path / "label.png", np.moveaxis(table[index], -1, 0))
    packed = np.array([0, 255 << 16, 200 << 16 | 128 << 8, 9 << 16 | 9 << 8 | 9])[index]
    with RasterLabels(path, GRID, "image.tif") as labels:
        assert labels.colours
        assert np.array_equal(labels.read(whole(GRID)), packed)
    assert colour_name(200 << 16 | 128 << 8) == "200,128,0"


def test_transparent_pixels_are_no_label(tmp_path: Path) -> None:
    pixels = np.zeros((4, *GRID.shape), np.uint8)
    pixels[0] = 255
    pixels[3, 5:, :] = 255
    codes = read_truth(write(tmp_path / "label.png", pixels), GRID, whole(GRID))
    assert (codes[:5] == IGNORED).all()
    assert (codes[5:] == 255 << 16).all()


def test_grey_colours_and_nodata_of_single_bands(tmp_path: Path) -> None:
    pixels = np.zeros((3, *GRID.shape), np.uint8)
    pixels[0, :, 20:] = 255
    codes = read_truth(write(tmp_path / "label.tif", pixels, nodata=0), GRID, whole(GRID))
    assert (codes[:, :20] == IGNORED).all()  # black is nodata in every band, red is not
    assert (codes[:, 20:] == 255 << 16).all()


def test_palette_names_values_or_turns_into_colours(tmp_path: Path) -> None:
    index = random_codes(top=3)
    palette = {0: (0, 0, 0, 255), 1: (255, 0, 0, 255), 2: (0, 128, 0, 255)}
    path = write(tmp_path / "label.png", index, palette=palette)
    with RasterLabels(path, GRID, "image.tif") as labels:
        assert not labels.colours
        assert np.array_equal(labels.read(whole(GRID)), index)
        assert [labels.names[code] for code in range(3)] == ["#000000", "#ff0000", "#008000"]
    with RasterLabels(path, GRID, "image.tif", expand_palette=True) as labels:
        assert labels.colours
        assert np.array_equal(labels.read(whole(GRID)), np.array([0, 255 << 16, 128 << 8])[index])


def test_category_names(tmp_path: Path) -> None:
    path = write(tmp_path / "label.tif", random_codes(top=3), palette={1: (255, 0, 0, 255)})
    names = "".join(f"<Category>{name}</Category>" for name in ("", "forêt &amp; bois", "water"))
    band = f'<PAMRasterBand band="1"><CategoryNames>{names}</CategoryNames></PAMRasterBand>'
    Path(f"{path}.aux.xml").write_text(f"<PAMDataset>{band}</PAMDataset>", encoding="utf-8")
    with RasterLabels(path, GRID, "image.tif") as labels:
        assert labels.names == {1: "forêt & bois", 2: "water"}
    envi = write(tmp_path / "envi.dat", random_codes(top=3))
    with (tmp_path / "envi.hdr").open("a") as header:
        header.write("file type = ENVI Classification\nclasses = 3\nclass names = {\nnone, forest, lake}\n")
    with RasterLabels(envi, GRID, "image.tif") as labels:
        assert labels.names == {0: "none", 1: "forest", 2: "lake"}


@pytest.mark.parametrize(("height", "width"), [(30, 43), (35, 40), (46, 56)])
def test_overhang_is_cropped_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, height: int, width: int
) -> None:
    codes = random_codes((height, width))
    path = write(tmp_path / "label.tif", codes)
    assert np.array_equal(read_truth(path, GRID, whole(GRID), image="image.tif"), codes[:30, :40])
    message = f"{path} is {width} x {height} px, its image image.tif is 40 x 30 px: the label is cropped"
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith(message)
    caplog.clear()
    with RasterLabels(path, GRID, "image.tif", quiet=True):
        assert not caplog.records


@pytest.mark.parametrize(("height", "width"), [(30, 39), (29, 44), (30, 57), (60, 40)])
def test_other_sizes_are_errors_that_name_both(tmp_path: Path, height: int, width: int) -> None:
    path = write(tmp_path / "label.tif", random_codes((height, width)))
    message = rf"label\.tif is {width} x {height} px, but its image image\.tif is 40 x 30 px; labels must have the size"
    with pytest.raises(LabelError, match=message):
        read_truth(path, GRID, whole(GRID), image="image.tif")


def test_label_elsewhere_is_an_error(tmp_path: Path) -> None:
    codes = random_codes()
    near = write(tmp_path / "near.tif", codes, transform=compose(NORTH_UP, Affine.translation(0.4, -0.4)))
    assert np.array_equal(read_truth(near, GRID, whole(GRID)), codes)
    off = write(tmp_path / "off.tif", codes, transform=compose(NORTH_UP, Affine.translation(0, 2)))
    with pytest.raises(LabelError, match=r"off\.tif lies 2 px off the grid of its image image\.tif; resample it"):
        read_truth(off, GRID, whole(GRID), image="image.tif")
    finer = write(tmp_path / "finer.tif", codes, transform=compose(NORTH_UP, Affine.scale(0.5)))
    with pytest.raises(LabelError, match=r"finer\.tif lies 40 px off the grid"):
        read_truth(finer, GRID, whole(GRID))
    other = write(tmp_path / "other.tif", codes, crs=CRS.from_epsg(32634))
    with pytest.raises(LabelError, match=r"other\.tif has another CRS than its image image\.tif; reproject it"):
        read_truth(other, GRID, whole(GRID), image="image.tif")
    plain = write(tmp_path / "plain.png", codes)  # nothing to compare with
    assert np.array_equal(read_truth(plain, GRID, whole(GRID)), codes)


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp", ".fgb", ".parquet"])
def test_polygons_of_every_format_in_another_crs(tmp_path: Path, suffix: str) -> None:
    shapes = [pixel_box(2, 3, 12, 13), pixel_box(20, 10, 33, 22)]
    path = tmp_path / f"truth{suffix}"
    table = frame(shapes, kind=["water", "forest"]).to_crs(4326)
    table.to_parquet(path) if suffix == ".parquet" else table.to_file(path)
    expected = np.zeros(GRID.shape, np.int32)
    expected[3:13, 2:12] = 2  # codes go by name: forest 1, water 2
    expected[10:22, 20:33] = 1
    with_field = read_truth(str(path), GRID, whole(GRID), field="KIND")
    assert np.array_equal(with_field, expected)
    polygons = LabelPolygons.load(str(path))
    assert polygons.names == {0: "unlabelled", 1: "forest", 2: "water"}
    reader = open_labels(LabelSource(str(path)), GRID, "image.tif", polygons)
    pieces = [(window, reader.read(window)) for window in write_windows(*GRID.shape, 7)]
    for window, codes in pieces:
        inside = expected[window.row : window.row_stop, window.col : window.col_stop]
        assert np.array_equal(codes, inside)


def test_later_polygons_win(tmp_path: Path) -> None:
    path = tmp_path / "truth.gpkg"
    shapes = [pixel_box(0, 0, 20, 20), pixel_box(10, 10, 30, 30), pixel_box(12, 12, 14, 14)]
    frame(shapes, kind=["b", "a", "b"]).to_file(path)
    codes = read_truth(str(path), GRID, whole(GRID))
    assert (codes[5, 5], codes[15, 15], codes[13, 13], codes[5, 35]) == (2, 1, 2, 0)


@pytest.mark.parametrize(
    "transform",
    [
        NORTH_UP,
        Affine(10, 0, 500000, 0, 10, 5200000),
        compose(NORTH_UP, Affine.rotation(30)),
        compose(NORTH_UP, Affine.shear(10, 20)),
    ],
)
def test_polygons_on_turned_grids_equal_the_naive_twin(transform: Affine) -> None:
    grid = Grid(23, 17, transform, UTM)
    rng = np.random.default_rng(3)
    in_pixels = [shapely.Point(*rng.uniform(0, 20, 2)).buffer(rng.uniform(1, 6)) for _ in range(6)]
    shapes = shapely.transform(np.array(in_pixels), lambda points: np.array([at(transform, x, y) for x, y in points]))
    classes = ["a", "b", "c", "a", "b", "c"]
    series = geopandas.GeoSeries(shapes, crs=UTM.to_wkt())
    codes = LabelPolygons("truth", series, classes).on_grid(grid, "image").read(whole(grid))
    expected = np.zeros(grid.shape, np.int32)
    for row in range(grid.height):
        for col in range(grid.width):
            centre = shapely.Point(at(transform, col + 0.5, row + 0.5))
            for shape, name in zip(shapes, classes, strict=True):
                if shape.contains(centre):
                    expected[row, col] = "abc".index(name) + 1
    assert np.array_equal(codes, expected)


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 15), seed=st.integers(0, 10**6))
def test_polygons_are_the_same_for_every_window(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # halves and quarters put edges and corners on pixel centres, where rounding would show
    points = rng.integers(-8, 100, (5, 3, 2)) / 4
    shapes = np.array([shapely.Polygon(triangle) for triangle in points])
    grid = Grid(24, 20, Affine.identity(), None)
    reader = PolygonReader(shapes, np.arange(1, 6, dtype=np.int32), grid, {})
    expected = reader.read(whole(grid))
    for window in write_windows(*grid.shape, size):
        inside = expected[window.row : window.row_stop, window.col : window.col_stop]
        assert np.array_equal(reader.read(window), inside)


def test_fields_of_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shapes = [pixel_box(0, 0, 5, 5), pixel_box(10, 10, 15, 15)]
    path = str(tmp_path / "truth.gpkg")
    frame(shapes, kind=["a", "b"], remark=["x", "y"], area=[1.5, 2.0]).to_file(path)
    with pytest.raises(LabelError, match=r"truth\.gpkg: several fields may name the class; add --label-field with one"):
        LabelPolygons.load(path)
    with pytest.raises(LabelError, match=r"--label-field king: .*truth\.gpkg has no such field; fields: kind, remark"):
        LabelPolygons.load(path, "king")
    assert LabelPolygons.load(path, "area").names == {0: "unlabelled", 1: "1.5", 2: "2"}
    caplog.clear()
    numbers = str(tmp_path / "numbers.gpkg")
    frame(shapes, code=[7, 3]).to_file(numbers)
    assert LabelPolygons.load(numbers).names == {0: "unlabelled", 1: "labelled"}
    assert "no text field, so every polygon is of class 'labelled'; --label-field names another of: code" in caplog.text
    assert LabelPolygons.load(numbers, "code").names == {0: "unlabelled", 1: "3", 2: "7"}


def test_layers(tmp_path: Path) -> None:
    path = tmp_path / "truth.gpkg"
    frame([pixel_box(0, 0, 5, 5)], kind=["a"]).to_file(path, layer="one")
    frame([pixel_box(0, 0, 5, 5)], kind=["b"]).to_file(path, layer="two")
    with pytest.raises(LabelError, match=r"truth\.gpkg: has 2 layers \(one, two\); name one: .*gpkg\|layername=one"):
        LabelPolygons.load(str(path))
    source = LabelSource(f"{path}|layername=two")
    assert source.is_vector
    assert LabelPolygons.load(source.path).names == {0: "unlabelled", 1: "b"}


def test_odd_geometries_are_repaired_or_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bow = [(0, 0), (10, 10), (10, 0), (0, 10)]
    shapes = [
        shapely.Polygon([(*at(NORTH_UP, *point), 7.0) for point in bow]),
        None,
        shapely.Polygon(),
        shapely.LineString([at(NORTH_UP, 0, 20), at(NORTH_UP, 30, 20)]),
        pixel_box(20, 20, 30, 30),
        pixel_box(30, 20, 40, 30),
    ]
    path = tmp_path / "truth.parquet"
    frame(shapes, kind=["bow", "bow", "bow", "bow", "box", None]).to_parquet(path)
    with caplog.at_level(logging.WARNING):
        codes = read_truth(str(path), GRID, whole(GRID))
    assert np.unique(codes).tolist() == [0, 1, 2]
    assert (codes[20:30, 20:30] == 2).all()
    assert (codes[20, :20] == 0).all()
    assert codes[1, 5] == 0  # the bow tie's open sides
    assert codes[5, 1] == 1
    messages = [record.getMessage().removeprefix(f"{path}: ") for record in caplog.records]
    assert messages == [
        "1 invalid polygons were repaired",
        "1 features with no class were skipped",
        "1 features with no area were skipped",
    ]


def test_polygons_that_cannot_be_used(tmp_path: Path) -> None:
    lines = str(tmp_path / "lines.gpkg")
    frame([shapely.LineString([(0, 0), (1, 1)])], kind=["a"]).to_file(lines)
    with pytest.raises(LabelError, match=r"lines\.gpkg: holds no polygons with a class; label polygons are needed"):
        LabelPolygons.load(lines)
    with pytest.raises(LabelError, match=r"none\.gpkg: cannot be read as a vector file \("):
        LabelPolygons.load(str(tmp_path / "none.gpkg"))
    path = str(tmp_path / "truth.gpkg")
    frame([pixel_box(0, 0, 5, 5)], kind=["a"]).to_file(path)
    with pytest.raises(LabelError, match=r"plain\.png: has no CRS, so the polygons of .*truth\.gpkg cannot be placed"):
        read_truth(path, Grid(40, 30, NORTH_UP, None), Window(0, 0, 30, 40), image="plain.png")


def test_polygons_without_a_crs_lie_in_that_of_the_image(tmp_path: Path) -> None:
    path = tmp_path / "truth.parquet"
    frame([pixel_box(2, 3, 12, 13)], crs=None, kind=["a"]).to_parquet(path)
    for grid in (GRID, Grid(40, 30, NORTH_UP, None)):
        codes = read_truth(str(path), grid, whole(grid))
        assert codes[3:13, 2:12].all()
        assert codes.sum() == 100
