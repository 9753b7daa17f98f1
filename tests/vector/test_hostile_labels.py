"""Label polygons from many hands: burnt as drawn, pixel by pixel, or refused in one line."""

from __future__ import annotations

import itertools
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.crs import CRS

from asd_cli.errors import LabelError
from asd_cli.raster.grid import Grid
from asd_cli.raster.windows import Window
from asd_cli.vector.areas import PolygonMarks
from asd_cli.vector.label_polygons import LabelPolygons

ENDINGS: Counter[str] = Counter()
UTM = CRS.from_epsg(32633)
GRID = Grid(24, 18, Affine(10, 0, 500_000, 0, -10, 5_200_000), UTM)
WHOLE = Window(0, 0, 18, 24)
Ring = list[tuple[float, float]]


@pytest.fixture(scope="module", autouse=True)
def tally() -> Iterator[None]:
    """How the label files ended, where ASD_TALLY names a file to add it to."""
    yield
    if "ASD_TALLY" in os.environ:
        with Path(os.environ["ASD_TALLY"]).open("a") as file:
            file.writelines(f"label\t{count}\t{ending}\n" for ending, count in ENDINGS.most_common())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("labels")


def on_map(points: Ring) -> Ring:
    """Columns and rows -> coordinates of the grid."""
    t = GRID.transform
    return [(t.a * x + t.c, t.e * y + t.f) for x, y in points]


@st.composite
def shapes(draw: Callable[..., Any]) -> tuple[Any, list[Ring]]:
    """A geometry and the rings whose insides it covers: a pixel is in it if in one of them."""
    odd = st.integers(-30, 250).map(lambda n: n / 10 + 0.037)  # no edge runs through the centre of a pixel
    x, y, w, h = draw(odd), draw(odd), draw(st.integers(1, 140)) / 10, draw(st.integers(1, 140)) / 10
    box = [(x, y), (x + w, y), (x + w, y + h), (x, y + h), (x, y)]
    kind = draw(st.sampled_from(KINDS))
    if kind == "triangle":
        box = [box[0], box[1], (x + w / 3, y + h), box[0]]
    if kind == "bow-tie":
        box = [box[0], box[2], box[1], box[3], box[0]]
    ring = on_map(box)
    hole = on_map([(x + a * w, y + b * h) for a, b in ((0.2, 0.3), (0.2, 0.7), (0.8, 0.7), (0.8, 0.3), (0.2, 0.3))])
    other = on_map([(a + w / 2, b + h / 3) for a, b in box])
    line = shapely.LineString(ring[:2])
    made: dict[str, tuple[Any, list[Ring]]] = {
        "hole": (shapely.Polygon(ring, [hole]), [ring + hole + ring[:1]]),
        "repeated points": (shapely.Polygon([p for p in ring for _ in range(3)]), [ring]),
        "z": (shapely.Polygon([(*p, 300.0) for p in ring]), [ring]),
        "overlapping parts": (shapely.MultiPolygon([shapely.Polygon(ring), shapely.Polygon(other)]), [ring, other]),
        "collection": (shapely.GeometryCollection([line, shapely.Polygon(ring), shapely.Point(ring[0])]), [ring]),
        "nested collection": (
            shapely.GeometryCollection([shapely.GeometryCollection([shapely.Polygon(ring)])]),
            [ring],
        ),
        "spike": (shapely.Polygon([*ring[:2], (ring[1][0] + 500, ring[1][1]), *ring[1:]]), [ring]),
        "line": (line, []),
        "point": (shapely.Point(ring[0]), []),
        "null": (None, []),
        "empty": (shapely.Polygon(), []),
        "no area": (shapely.Polygon([ring[0], ring[1], ring[0]]), []),
    }
    return made.get(kind, (shapely.Polygon(ring), [ring]))


KINDS = [
    "box", "triangle", "bow-tie", "hole", "repeated points", "z", "overlapping parts", "collection",
    "nested collection", "spike", "line", "point", "null", "empty", "no area",
]  # fmt: skip
CLASSES = [
    ["forest", "water"],
    ["forest", None, "lake ü"],
    [" forest", "forest "],
    [1, 2, 30],
    [1.0, np.nan, 2.0],
    ["1", "a,b", ""],
]


def inside(rings: list[Ring]) -> NDArray[np.bool_]:
    """(H, W): pixels whose centre is inside an odd number of turns of any ring, by counting edges to the right."""
    found = np.zeros(GRID.shape, bool)
    cols, rows = np.meshgrid(np.arange(GRID.width) + 0.5, np.arange(GRID.height) + 0.5)
    t = GRID.transform
    x, y = t.a * cols + t.c, t.e * rows + t.f
    for ring in rings:
        odd = np.zeros(GRID.shape, bool)
        for (x0, y0), (x1, y1) in itertools.pairwise(ring):
            if y0 != y1:
                odd ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
        found |= odd
    return found


def on_an_edge(rings: list[Ring]) -> NDArray[np.bool_]:
    """(H, W): pixels whose centre is hardly a millimetre from an edge; either answer is right there."""
    cols, rows = np.meshgrid(np.arange(GRID.width) + 0.5, np.arange(GRID.height) + 0.5)
    t = GRID.transform
    centres = shapely.points(t.a * cols + t.c, t.e * rows + t.f)
    return np.asarray(shapely.distance(shapely.MultiLineString(rings), centres) < 2e-3)


def names_of(values: list[Any]) -> list[str]:
    return ["" if pandas.isna(v) else str(int(v)) if isinstance(v, float) else str(v).strip() for v in values]


@settings(max_examples=settings.default.max_examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), suffix=st.sampled_from([".gpkg", ".geojson", ".parquet"]), other=st.booleans())
def test_polygons_are_burnt_as_drawn(folder: Path, data: st.DataObject, suffix: str, other: bool) -> None:
    drawn = data.draw(st.lists(shapes(), min_size=1, max_size=6))
    values = data.draw(st.sampled_from(CLASSES))
    column = [data.draw(st.sampled_from(values)) for _ in drawn]
    frame = geopandas.GeoDataFrame({"kind": column}, geometry=[shape for shape, _ in drawn], crs=UTM.to_wkt())
    path = folder / f"labels{suffix}"
    path.unlink(missing_ok=True)
    if other or suffix == ".geojson":
        frame = frame.to_crs("EPSG:4326")
    frame.to_parquet(path) if suffix == ".parquet" else frame.to_file(path)
    names = names_of(column)
    expected = np.full(GRID.shape, "", dtype=object)
    for name, (_, rings) in zip(names, drawn, strict=True):
        if name:
            expected[inside(rings)] = name
    try:
        polygons = LabelPolygons.load(str(path), "kind")
    except LabelError as error:
        assert str(error).isprintable()  # noqa: PT017
        assert not any(name and rings for name, (_, rings) in zip(names, drawn, strict=True))
        ENDINGS["refused: no polygon with a class"] += 1
        return
    reader = polygons.on_grid(GRID, "image.tif")
    found = np.array([*map(reader.names.__getitem__, reader.read(WHOLE).ravel())], dtype=object).reshape(GRID.shape)
    found[found == "unlabelled"] = ""
    clear = ~on_an_edge([ring for _, rings in drawn for ring in rings])
    np.testing.assert_array_equal(found[clear], expected[clear])
    ENDINGS["burnt as drawn"] += 1


def burnt(path: Path, grid: Grid) -> NDArray[np.int32]:
    return LabelPolygons.load(str(path)).on_grid(grid, "image.tif").read(whole(grid))


def whole(grid: Grid) -> Window:
    return Window(0, 0, *grid.shape)


def lonlat(grid: Grid) -> tuple[NDArray[Any], NDArray[Any]]:
    """Longitude and latitude of the centres of pixels."""
    cols, rows = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    t = grid.transform
    assert grid.crs is not None
    transformer = pyproj.Transformer.from_crs(grid.crs.to_wkt(), "EPSG:4326", always_xy=True)
    return transformer.transform(t.a * cols + t.c, t.e * rows + t.f)


def test_across_the_date_line(tmp_path: Path) -> None:
    grid = Grid(40, 20, Affine(1000, 0, 146_000, 0, -1000, 100_000), CRS.from_epsg(32601))
    east, west = shapely.box(179.9, 0.3, 180, 0.8), shapely.box(-180, 0.2, -179.95, 0.85)
    frame = geopandas.GeoDataFrame({"kind": ["a", "b"]}, geometry=[east, west], crs="EPSG:4326")
    frame.to_file(tmp_path / "labels.gpkg")
    lon, lat = lonlat(grid)
    expected = np.where(shapely.contains_xy(east, lon, lat), 1, np.where(shapely.contains_xy(west, lon, lat), 2, 0))
    assert {1, 2} <= set(expected.ravel())
    np.testing.assert_array_equal(burnt(tmp_path / "labels.gpkg", grid), expected)


BEYOND = Affine(0.05, 0, 179, 0, -0.05, 1)  # 179 to 181


@pytest.mark.parametrize(
    ("transform", "width"),
    [
        (BEYOND, 40),
        (Affine(0.05, 0, -181, 0, -0.05, 1), 40),
        (Affine(0.05, 0, -180, 0, -0.05, 1), 20),
        (Affine(2, 0, 0, 0, -0.05, 1), 180),
        (Affine(2, 0, -180, 0, -0.05, 1), 180),
        (Affine(2, 0, 100, 0, -0.05, 1), 80),
    ],
)
@pytest.mark.filterwarnings("ignore:.crs. was not provided")
@pytest.mark.parametrize("source", ["EPSG:4326", "EPSG:4258", None])
def test_longitudes_of_another_turn(tmp_path: Path, transform: Affine, width: int, source: str | None) -> None:
    """A place is labelled however file and grid write its longitude; the later polygon wins whatever its turn."""
    grid = Grid(width, 20, transform, CRS.from_epsg(4326))
    boxes = [
        *((-180, 0.11, -179.57, 0.9), (180.22, 0.52, 180.68, 0.97), (-180.81, 0, -180.33, 0.7)),
        *((179.13, 0.33, 180.41, 0.6), (178, -0.1, 180, 0.03), (350.7, 0.2, 371.3, 0.8)),
    ]
    shapes = [shapely.box(*box) for box in boxes]
    kinds = ["a", "b", "c", "d", "e", "f"]
    geopandas.GeoDataFrame({"kind": kinds}, geometry=shapes, crs=source).to_parquet(tmp_path / "labels.parquet")
    lon, lat = grid.transform.c + grid.transform.a * (np.arange(width) + 0.5), 1 - 0.05 * (np.arange(20) + 0.5)
    expected = np.zeros(grid.shape, np.int32)
    for code, shape in enumerate(shapes, start=1):
        for turn in (-360, 0, 360):
            expected[shapely.contains_xy(shape, *np.meshgrid(lon + turn, lat))] = code
    assert expected.any()
    np.testing.assert_array_equal(burnt(tmp_path / "labels.parquet", grid), expected)
    np.testing.assert_array_equal(
        PolygonMarks(str(tmp_path / "labels.parquet"), grid, "i").read(whole(grid)), expected > 0
    )
    frame = geopandas.read_parquet(tmp_path / "labels.parquet")
    for suffix in (".gpkg", ".fgb"):  # these are read box by box
        frame.to_file(tmp_path / f"labels{suffix}")
        marks = PolygonMarks(str(tmp_path / f"labels{suffix}"), grid, "i")
        np.testing.assert_array_equal(marks.read(whole(grid)), expected > 0)


@pytest.mark.parametrize("transform", [BEYOND, Affine(0.05, 0, -181, 0, -0.05, 1)])
def test_projected_polygons_across_the_date_line(tmp_path: Path, transform: Affine) -> None:
    grid = Grid(40, 20, transform, CRS.from_epsg(4326))
    box = shapely.box(120_000, 30_000, 220_000, 70_000)  # from 179.6 to 180.5
    geopandas.GeoDataFrame({"kind": ["a"]}, geometry=[box], crs="EPSG:32601").to_file(tmp_path / "labels.gpkg")
    to_map = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32601", always_xy=True)
    x, y = to_map.transform(*lonlat(grid))
    sure = shapely.distance(shapely.LineString(box.exterior), shapely.points(x, y)) > 50  # edges are bent
    expected = shapely.contains_xy(box, x, y)
    assert expected[:, 19:21].any(axis=0).all()
    np.testing.assert_array_equal(burnt(tmp_path / "labels.gpkg", grid)[sure], expected[sure])


def test_longitudes_beyond_180_on_a_projected_grid(tmp_path: Path) -> None:
    grid = Grid(40, 20, Affine(1000, 0, 146_000, 0, -1000, 100_000), CRS.from_epsg(32601))
    shape = shapely.box(179.9, 0.2, 180.05, 0.8)
    lon, lat = lonlat(grid)
    expected = shapely.contains_xy(shape, lon % 360, lat)
    assert (expected & (lon < 0)).any()
    for turn in (-360, 0):
        frame = geopandas.GeoDataFrame(geometry=[shapely.affinity.translate(shape, turn)], crs="EPSG:4326")
        frame.to_file(tmp_path / "labels.gpkg")
        np.testing.assert_array_equal(burnt(tmp_path / "labels.gpkg", grid), expected)
        np.testing.assert_array_equal(
            PolygonMarks(str(tmp_path / "labels.gpkg"), grid, "i").read(whole(grid)), expected
        )


@pytest.mark.parametrize("epsg", [32633, 3857, 3413, 3035])
def test_polygons_that_reach_beyond_the_projection(tmp_path: Path, epsg: int) -> None:
    to_map = pyproj.Transformer.from_crs("EPSG:4326", epsg, always_xy=True)
    x, y = to_map.transform(15.0, 62.0)
    grid = Grid(20, 20, Affine(100, 0, x, 0, -100, y), CRS.from_epsg(epsg))
    lon = lonlat(grid)[0]
    middle = float(lon.mean())
    world = shapely.Polygon([(-180, -90), (middle, -90), (middle, 90), (-180, 90)])
    geopandas.GeoDataFrame({"kind": ["land"]}, geometry=[world], crs="EPSG:4326").to_file(tmp_path / "labels.gpkg")
    found = burnt(tmp_path / "labels.gpkg", grid)
    sure = abs(lon - middle) > 1e-5
    np.testing.assert_array_equal(found[sure], (lon < middle)[sure])


@pytest.mark.parametrize("far", [1e9, 1e30, 1e150])
def test_coordinates_far_away(tmp_path: Path, far: float, caplog: pytest.LogCaptureFixture) -> None:
    shapes = [shapely.box(-far, -far, far, far), shapely.Polygon(on_map([(1, 1), (5, 1), (5, 5), (1, 5)]))]
    frame = geopandas.GeoDataFrame({"kind": ["all", "some"]}, geometry=shapes, crs=UTM.to_wkt())
    frame.to_parquet(tmp_path / "labels.parquet")
    with caplog.at_level(logging.WARNING):
        found = burnt(tmp_path / "labels.parquet", GRID)
    expected = np.ones(GRID.shape, np.int32)
    expected[1:5, 1:5] = 2
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"type": "FeatureCollection", "features": []}', "\0" * 50, '{"type": ']
)
@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".shp", ".fgb", ".parquet", ".json"])
def test_files_that_hold_no_labels(tmp_path: Path, content: str, suffix: str) -> None:
    path = tmp_path / f"labels{suffix}"
    path.write_text(content)
    with pytest.raises(LabelError) as caught:
        LabelPolygons.load(str(path))
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).isprintable()
    ENDINGS["refused: no labels"] += 1


def test_an_empty_layer_and_mixed_classes(tmp_path: Path) -> None:
    frame = geopandas.GeoDataFrame({"kind": pandas.Series([], dtype=str)}, geometry=[], crs=UTM.to_wkt())
    frame.to_file(tmp_path / "empty.gpkg")
    with pytest.raises(LabelError, match="holds no polygons with a class"):
        LabelPolygons.load(str(tmp_path / "empty.gpkg"))
    box = '{"type": "Polygon", "coordinates": [[[14, 46], [16, 46], [16, 48], [14, 48], [14, 46]]]}'
    values = ['"forest"', "3", "null", "1.5", "true", '["a"]', '{"b": 1}']
    parts = [f'{{"type": "Feature", "properties": {{"kind": {value}}}, "geometry": {box}}}' for value in values]
    path = tmp_path / "mixed.geojson"
    path.write_text(f'{{"type": "FeatureCollection", "features": [{", ".join(parts)}]}}')
    polygons = LabelPolygons.load(str(path), "kind")
    assert len(polygons.names) == 1 + 6
