from __future__ import annotations

from typing import Any

import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS
from shapely.geometry import shape

from asd_cli.raster.grid import Grid
from asd_cli.vector.footprint import Footprint, footprint


def of(transform: Affine, crs: str | None, width: int = 100, height: int = 100) -> Footprint | None:
    return footprint(Grid(width, height, transform, None if crs is None else CRS.from_string(crs)))


def test_a_scene_in_utm() -> None:
    found = of(Affine(10, 0, 400_000, 0, -10, 5_600_000), "EPSG:32632")
    assert found is not None
    assert found.geometry["type"] == "Polygon"
    assert found.bbox == pytest.approx((7.58866, 50.53439, 7.60304, 50.54355), abs=1e-5)
    outline = shape(found.geometry)
    assert outline.is_valid
    assert outline.exterior.is_ccw
    assert outline.bounds == pytest.approx(found.bbox, abs=1e-6)


def test_rotated_and_south_up_scenes() -> None:
    rotated = of(Affine(7, 7, 400_000, 7, -7, 5_600_000), "EPSG:32632")
    upright = of(Affine(10, 0, 400_000, 0, -10, 5_600_000), "EPSG:32632")
    south_up = of(Affine(10, 0, 400_000, 0, 10, 5_599_000), "EPSG:32632")
    assert rotated is not None
    assert upright is not None
    assert south_up is not None
    box = shapely.box(*rotated.bbox)
    assert shape(rotated.geometry).area == pytest.approx(box.area / 2, rel=0.02)
    assert south_up.bbox == pytest.approx(upright.bbox, abs=1e-7)
    assert shape(south_up.geometry).exterior.is_ccw


@pytest.mark.parametrize(
    ("transform", "crs", "west", "east"),
    [
        (Affine(0.01, 0, 179.5, 0, -0.01, 10), "EPSG:4326", 179.5, -179.5),
        (Affine(1000, 0, 700_000, 0, -1000, 5_600_000), "EPSG:32660", 179.76906, -178.77144),
    ],
)
def test_across_the_antimeridian_it_is_cut(transform: Affine, crs: str, west: float, east: float) -> None:
    found = of(transform, crs)
    assert found is not None
    assert found.geometry["type"] == "MultiPolygon"
    assert (found.bbox[0], found.bbox[2]) == pytest.approx((west, east), abs=1e-5)
    parts = shapely.get_parts(shape(found.geometry))
    assert sorted(part.bounds[0] for part in parts) == pytest.approx([-180, west], abs=1e-5)
    assert all(part.is_valid and part.exterior.is_ccw for part in parts)


@pytest.mark.parametrize(
    ("transform", "crs", "bbox"),
    [
        (Affine(0.01, 0, 200, 0, -0.01, 10), "EPSG:4326", (-160, 9, -159, 10)),
        (Affine(0.01, 0, 179, 0, -0.01, 10), "EPSG:4326", (179, 9, 180, 10)),
        (Affine(3.6, 0, 0, 0, -1.8, 90), "EPSG:4326", (-180, -90, 180, 90)),
        (Affine(20_000, 0, -1e6, 0, -20_000, 1e6), "EPSG:3031", (-180, -90, 180, -77.0374)),
        (Affine(20_000, 0, -1e6, 0, -20_000, 1e6), "EPSG:3413", (-180, 76.9988, 180, 90)),
    ],
)
def test_longitudes_beyond_180_the_globe_and_the_poles(
    transform: Affine, crs: str, bbox: tuple[float, float, float, float]
) -> None:
    found = of(transform, crs)
    assert found is not None
    assert found.bbox == pytest.approx(bbox, abs=1e-3)
    assert shape(found.geometry).is_valid
    assert found.geometry["type"] == "Polygon"


@pytest.mark.parametrize(
    ("transform", "crs"),
    [
        (Affine(10, 0, 400_000, 0, -10, 5_600_000), None),
        (Affine.identity(), "EPSG:32632"),
        (Affine(1e9, 0, 0, 0, -1e9, 0), "EPSG:32632"),
        (Affine(1, 0, 0, 0, -1, 100), 'LOCAL_CS["here",UNIT["metre",1]]'),
    ],
)
def test_without_a_place_on_earth(transform: Affine, crs: Any) -> None:
    assert of(transform, crs) is None
