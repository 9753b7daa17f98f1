"""Streamed polygons against those of the whole map, and against a naive twin."""

from __future__ import annotations

import math
from typing import Any

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from rasterio.crs import CRS
from scipy import ndimage

from asd_cli.raster.grid import Grid
from asd_cli.raster.windows import Window, write_windows
from asd_cli.vector.polygons import COLUMNS, PolygonStream

UTM = CRS.from_epsg(32632)
NORTH_UP = Affine(10, 0, 500_000, 0, -10, 5_000_000)
ROTATED = Affine(2.5, 1.1, 500_000, 1.6, -1.7, 5_000_000)
SOUTH_UP = Affine(10, 0, 500_000, 0, 10, 5_000_000)


def stream(
    mask: NDArray[np.bool_],
    score: NDArray[np.float32] | None = None,
    *,
    size: int = 10_000,
    transform: Affine = NORTH_UP,
    crs: CRS | None = UTM,
    **options: Any,
) -> gpd.GeoDataFrame:
    if score is None:
        score = np.where(mask, np.float32(0.75), np.float32(np.nan))
    grid = Grid(mask.shape[1], mask.shape[0], transform, crs, "Area")
    polygons = PolygonStream(grid, **options)
    for w in write_windows(mask.shape[0], mask.shape[1], size):
        part = np.s_[w.row : w.row_stop, w.col : w.col_stop]
        polygons.add(w, mask[part], score[part])
    return polygons.finish()


def placed(points: NDArray[np.float64], t: Affine) -> NDArray[np.float64]:
    return np.asarray(points @ np.array([[t.a, t.d], [t.b, t.e]]) + np.array([t.c, t.f]))


def naive(
    mask: NDArray[np.bool_], score: NDArray[np.float32], connectivity: int, transform: Affine
) -> list[dict[str, Any]]:
    labels, number = ndimage.label(mask, np.ones((3, 3)) if connectivity == 8 else None)
    rows = []
    for label in range(1, number + 1):
        y, x = np.nonzero(labels == label)
        # Pixels touching at a corner only stay parts of their own: union of boxes, split by sides.
        union = shapely.union_all(shapely.box(x, y, x + 1, y + 1))
        values = np.sort(score[y, x].astype(np.float64))
        edge = (y == 0) | (y == mask.shape[0] - 1) | (x == 0) | (x == mask.shape[1] - 1)
        rows.append(
            {
                "first": (y[0], x[0]),
                "geometry": shapely.transform(union, lambda p: placed(p, transform)),
                "pixels": len(values),
                "max": values[-1],
                "min": values[0],
                "mean": math.fsum(values) / len(values),
                "p95": values[math.ceil(0.95 * len(values)) - 1],
                "p05": values[len(values) - math.ceil(0.95 * len(values))],
                "edge": bool(edge.any()),
                "parts": ndimage.label(labels == label)[1],
            }
        )
    return sorted(rows, key=lambda row: row["first"])


def assert_identical(one: gpd.GeoDataFrame, other: gpd.GeoDataFrame) -> None:
    assert list(one.columns) == list(other.columns) == list(COLUMNS)
    assert one.crs == other.crs
    for name in COLUMNS[:-1]:
        assert one[name].dtype == other[name].dtype
        assert one[name].to_numpy().tobytes() == other[name].to_numpy().tobytes(), name
    assert one.geometry.to_wkb().tolist() == other.geometry.to_wkb().tolist()


@st.composite
def maps(draw: st.DrawFn) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    density = draw(st.sampled_from([0.1, 0.4, 0.6, 0.8, 0.95]))
    seed = draw(st.integers(0, 2**32 - 1))
    r = np.random.default_rng(seed)
    mask = draw(st.one_of(arrays(np.bool_, shape), st.just(r.random(shape) < density)))
    score = (r.gamma(1.0, draw(st.sampled_from([1e-6, 1.0, 1e6])), shape)).astype(np.float32)
    return mask, np.where(mask, score, np.float32(np.nan))


@settings(max_examples=250, deadline=None)
@given(
    maps(),
    st.integers(1, 7),
    st.sampled_from([4, 8]),
    st.booleans(),
    st.sampled_from([NORTH_UP, ROTATED, SOUTH_UP]),
)
def test_streamed_polygons_equal_those_of_the_whole_map_and_the_naive_twin(
    scene: tuple[NDArray[np.bool_], NDArray[np.float32]],
    size: int,
    connectivity: int,
    lower: bool,
    transform: Affine,
) -> None:
    mask, score = scene
    options: dict[str, Any] = {
        "transform": transform,
        "connectivity": connectivity,
        "lower_is_anomalous": lower,
    }
    whole = stream(mask, score, **options)
    assert_identical(stream(mask, score, size=size, **options), whole)
    expected = naive(mask, score, connectivity, transform)
    assert whole["id"].tolist() == list(range(1, len(expected) + 1))
    for row, twin in zip(whole.itertuples(), expected, strict=True):
        assert row.geometry.geom_type == "MultiPolygon"
        assert row.geometry.is_valid, shapely.is_valid_reason(row.geometry)
        assert len(row.geometry.geoms) == twin["parts"]
        assert all(part.exterior.is_ccw for part in row.geometry.geoms)
        assert row.geometry.symmetric_difference(twin["geometry"]).area < 1e-6
        assert row.pixels == twin["pixels"]
        assert row.area_m2 == pytest.approx(row.pixels * abs(transform.determinant), rel=1e-12)
        assert row.geometry.area == pytest.approx(row.area_m2, rel=1e-6)
        assert row.score_max == (twin["min"] if lower else twin["max"])
        assert row.score_mean == pytest.approx(twin["mean"], rel=1e-14)
        assert row.score_p95 == pytest.approx(twin["p05" if lower else "p95"], rel=2**-11)
        assert row.touches_edge == twin["edge"]


@settings(max_examples=60, deadline=None)
@given(maps(), st.integers(1, 7), st.sampled_from([4, 8]))
def test_rows_of_narrow_windows_and_vertices(
    scene: tuple[NDArray[np.bool_], NDArray[np.float32]], width: int, connectivity: int
) -> None:
    mask, score = scene
    grid = Grid(mask.shape[1], mask.shape[0], Affine.identity(), None)
    polygons = PolygonStream(grid, connectivity=4 if connectivity == 4 else 8)
    row, heights = 0, [3, 1, 2, 4, 1, 1]
    for wanted in heights:
        height = min(wanted, mask.shape[0] - row)
        for col in range(0, mask.shape[1] if height else 0, width):
            w = Window(row, col, height, min(width, mask.shape[1] - col))
            part = np.s_[row : w.row_stop, col : w.col_stop]
            polygons.add(w, mask[part], score[part])
        row += height
    frame = polygons.finish()
    assert_identical(frame, stream(mask, score, transform=Affine.identity(), crs=None, connectivity=connectivity))
    for ring in shapely.get_rings(shapely.get_parts(frame.geometry.to_numpy())):
        steps = np.diff(shapely.get_coordinates(ring), axis=0)
        assert (np.count_nonzero(steps, axis=1) == 1).all()
        sideways = steps[:, 0] != 0
        assert (sideways != np.roll(sideways, 1)).all()  # the boundary turns at each vertex


def test_holes_that_touch_the_shell_and_each_other_at_corners() -> None:
    mask = np.array(
        [
            [1, 1, 1, 1, 1],
            [1, 0, 1, 0, 1],
            [1, 1, 0, 1, 1],
            [1, 1, 1, 1, 1],
            [1, 1, 1, 1, 0],
            [1, 1, 1, 0, 1],
        ],
        bool,
    )
    frame = stream(mask, size=2, transform=Affine.identity(), crs=None)
    (geometry,) = frame.geometry
    assert geometry.is_valid
    assert [len(part.interiors) for part in geometry.geoms] == [3, 0]
    assert geometry.area == mask.sum()
    assert len(stream(mask, size=2, connectivity=4)) == 2


def test_spiral_over_many_strips_is_one_polygon() -> None:
    n = 61
    mask = np.zeros((n, n), bool)
    for ring in range(0, n // 2, 2):
        mask[ring : n - ring, ring] = mask[ring : n - ring, n - 1 - ring] = True
        mask[ring, ring : n - ring] = mask[n - 1 - ring, ring : n - ring] = True
        mask[ring + 1, ring] = False  # cut the ring, join it to the next
        if ring + 2 <= n // 2:
            mask[ring + 2, ring + 1] = True
    for connectivity in (4, 8):
        whole = stream(mask, connectivity=connectivity)
        assert ndimage.label(mask)[1] == 1
        assert len(whole) == 1
        assert len(whole.geometry[0].geoms) == 1
        assert whole.geometry[0].is_valid
        for size in (1, 2, 7, 16):
            assert_identical(stream(mask, size=size, connectivity=connectivity), whole)


@pytest.mark.parametrize("size", [1, 3, 512])
def test_everything_anomalous_is_one_rectangle(size: int) -> None:
    frame = stream(np.ones((7, 5), bool), size=size)
    (row,) = frame.itertuples()
    assert row.geometry.equals(shapely.box(500_000, 4_999_930, 500_050, 5_000_000))
    assert len(row.geometry.geoms[0].exterior.coords) == 5
    assert (row.id, row.pixels, row.area_m2, row.touches_edge) == (1, 35, 3500.0, True)
    lon, lat = pyproj.Transformer.from_crs(32632, 4326, always_xy=True).transform(500_025, 4_999_965)
    assert (row.lon, row.lat) == pytest.approx((lon, lat), abs=1e-9)


@pytest.mark.parametrize("crs", [UTM, None, CRS.from_epsg(4326)])
def test_nothing_anomalous(crs: CRS | None) -> None:
    frame = stream(np.zeros((5, 4), bool), size=2, crs=crs)
    assert len(frame) == 0
    assert list(frame.columns) == list(COLUMNS)
    assert frame.crs == (None if crs is None else crs.to_wkt())
    filled = stream(np.ones((5, 4), bool), crs=crs, transform=NORTH_UP)
    assert frame.dtypes.to_dict() == filled.dtypes.to_dict()


def test_one_column_and_one_pixel() -> None:
    column = np.array([[1], [1], [0], [1], [0]], bool)
    assert stream(column, size=2)["pixels"].tolist() == [2, 1]
    frame = stream(np.ones((1, 1), bool), np.full((1, 1), 0.3, np.float32))
    assert frame.loc[0, ["score_max", "score_mean", "score_p95"]].tolist() == [float(np.float32(0.3))] * 3


def test_touches_edge_is_about_the_scene_not_the_window() -> None:
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = mask[2, 8] = mask[8, 2] = mask[0, 5] = mask[5, 0] = True
    assert stream(mask, size=4)["touches_edge"].tolist() == [True, True, False, True, True]


@pytest.mark.parametrize("step", [1e-4, 2.0])
def test_geographic_area_is_ellipsoidal(step: float) -> None:
    mask = np.zeros((12, 9), bool)
    mask[1:9, 2:7] = True
    mask[3:5, 3:5] = False
    transform = Affine(step, 0, 11.0, 0, -step, 60.0)
    frame = stream(mask, size=4, crs=CRS.from_epsg(4326), transform=transform)
    dense = shapely.segmentize(frame.geometry[0], step / 20 if step > 1 else step)  # geodesics along parallels
    area, _ = pyproj.Geod(ellps="WGS84").geometry_area_perimeter(dense)
    assert frame.loc[0, "area_m2"] == pytest.approx(abs(area), rel=1e-6 if step < 1 else 1e-4)
    centre = shapely.centroid(frame.geometry[0])
    assert (frame.loc[0, "lon"], frame.loc[0, "lat"]) == pytest.approx((centre.x, centre.y))


def test_geographic_areas_of_pixels_add_up_to_the_sphere() -> None:
    frame = stream(np.ones((180, 360), bool), size=50, crs=CRS.from_epsg(4326), transform=Affine(1, 0, -180, 0, -1, 90))
    assert frame.loc[0, "area_m2"] == pytest.approx(5.10065621724e14, rel=1e-9)  # surface of WGS 84


def test_feet_are_turned_into_metres() -> None:
    frame = stream(np.ones((2, 2), bool), crs=CRS.from_epsg(2263), transform=Affine(100, 0, 9e5, 0, -100, 2e5))
    assert frame.loc[0, "area_m2"] == pytest.approx(4 * (100 * 1200 / 3937) ** 2)


def test_without_crs_area_and_place_are_null() -> None:
    for crs in (None, UTM):  # a CRS without a transform places nothing
        frame = stream(np.ones((2, 2), bool), crs=crs, transform=Affine.identity())
        assert frame.crs is None
        assert frame[["area_m2", "lon", "lat"]].isna().all(axis=None)
        assert frame.geometry[0].area == 4


@pytest.mark.parametrize(
    ("crs", "transform", "min_area", "kept"),
    [
        (UTM, NORTH_UP, 300.0, [6, 3]),
        (UTM, NORTH_UP, 300.1, [6]),
        (None, Affine.identity(), 3, [6, 3]),
        (CRS.from_epsg(4326), Affine(1e-4, 0, 10, 0, -1e-4, 0), 300, [6, 3]),
    ],
)
def test_min_area_drops_and_renumbers(crs: CRS | None, transform: Affine, min_area: float, kept: list[int]) -> None:
    mask = np.zeros((8, 8), bool)
    mask[0, 0] = mask[1:3, 2:5] = mask[5, 0:2] = mask[5:8, 7] = True
    for size in (2, 3, 8):
        frame = stream(mask, size=size, crs=crs, transform=transform, min_area=min_area)
        assert frame["pixels"].tolist() == kept
        assert frame["id"].tolist() == list(range(1, len(kept) + 1))


def test_simplify_keeps_attributes_type_and_validity() -> None:
    y, x = np.mgrid[:60, :60]
    mask = np.abs(np.hypot(y - 30, x - 30) - 20) < 6
    exact, simple = stream(mask), stream(mask, size=8, simplify=15.0)
    assert_identical(simple.set_geometry(exact.geometry), exact)
    assert simple.geometry[0].is_valid
    assert simple.geometry[0].geom_type == "MultiPolygon"
    assert shapely.get_num_coordinates(simple.geometry[0]) < shapely.get_num_coordinates(exact.geometry[0]) / 2
    assert exact.geometry[0].hausdorff_distance(simple.geometry[0]) <= 15.0


def test_many_single_pixels() -> None:
    r = np.random.default_rng(1)
    mask = np.zeros((1000, 1000), bool)
    mask[::4, ::4] = True
    score = r.random(mask.shape, dtype=np.float32)
    frame = stream(mask, score, size=256)
    assert len(frame) == 62_500
    np.testing.assert_array_equal(frame["score_max"], score[mask].astype(float))
    np.testing.assert_array_equal(frame["score_p95"], frame["score_max"])
    assert_identical(frame, stream(mask, score, size=999))


def test_infinite_scores_become_the_largest_number() -> None:
    frame = stream(np.ones((1, 2), bool), np.array([[1, np.inf]], np.float32))
    assert frame.loc[0, "score_max"] == np.finfo(np.float32).max
    assert np.isfinite(frame.loc[0, "score_mean"])


def test_windows_out_of_order_are_refused() -> None:
    def add(polygons: PolygonStream, w: Window) -> None:
        polygons.add(w, np.ones(w.shape, bool), np.ones(w.shape, np.float32))

    grid = Grid(4, 4, Affine.identity(), None)
    with pytest.raises(ValueError, match="expected row 0, column 0, height 2"):
        add(PolygonStream(grid), Window(2, 0, 2, 2))
    polygons = PolygonStream(grid)
    add(polygons, Window(0, 0, 2, 2))
    with pytest.raises(ValueError, match="expected row 0, column 2, height 2"):
        add(polygons, Window(0, 2, 1, 2))
    with pytest.raises(ValueError, match="does not fit"):
        add(polygons, Window(0, 2, 2, 3))
    with pytest.raises(ValueError, match="windows are missing from row 0, column 2"):
        polygons.finish()
    add(polygons, Window(0, 2, 2, 2))
    with pytest.raises(ValueError, match="below the scene"):
        add(polygons, Window(2, 0, 4, 4))


@pytest.mark.parametrize("value", [-1.0, np.nan])
def test_an_anomalous_pixel_needs_a_score(value: float) -> None:
    with pytest.raises(ValueError, match="has a negative score or none"):
        stream(np.ones((2, 2), bool), np.full((2, 2), value, np.float32))


def test_wrong_options_are_refused() -> None:
    grid = Grid(4, 4, Affine.identity(), None)
    with pytest.raises(ValueError, match="connectivity is 4 or 8"):
        PolygonStream(grid, connectivity=6)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 0"):
        PolygonStream(grid, min_area=-1)
