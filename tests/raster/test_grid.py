from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from pyproj import Geod
from rasterio.crs import CRS

from asd_cli.raster.gdal import open_raster
from asd_cli.raster.grid import Grid
from asd_cli.raster.windows import Window

UTM = CRS.from_epsg(32630)
NORTH_UP = Affine(10, 0, 500000, 0, -20, 4_000_000)


def grid(transform: Affine = NORTH_UP, crs: CRS | None = UTM, width: int = 90, height: int = 70) -> Grid:
    return Grid(width, height, transform, crs)


@pytest.mark.parametrize("angle", [0, 30, 90, 200])
@pytest.mark.parametrize("flip", [1, -1])
def test_pixel_size_is_positive_whatever_the_rotation(angle: float, flip: int) -> None:
    turned = grid(Affine.translation(5, 6) @ Affine.rotation(angle) @ Affine.scale(10, 20 * flip))
    assert turned.pixel_size == pytest.approx((10, 20))
    assert turned.pixel_area_m2 == pytest.approx(200)
    assert turned.pixel_size_m == pytest.approx(math.sqrt(200))


def test_linear_unit_is_applied() -> None:
    feet = CRS.from_epsg(2263)  # US survey feet
    assert grid(crs=feet).pixel_area_m2 == pytest.approx(200 * (1200 / 3937) ** 2)


@pytest.mark.parametrize("latitude", [0.0, -35.0, 52.0, 80.0])
def test_geographic_area_is_the_ellipsoids(latitude: float) -> None:
    step = 0.001
    place = Affine(step, 0, 7.0, 0, -step, latitude + step * 35)
    found = grid(place, CRS.from_epsg(4326))
    lons, lats = [7.0, 7.0 + step, 7.0 + step, 7.0], [latitude - step / 2] * 2 + [latitude + step / 2] * 2
    area, _ = Geod(ellps="WGS84").polygon_area_perimeter(lons, lats)
    assert found.is_geographic
    assert found.pixel_area_m2 == pytest.approx(abs(area), rel=1e-4)


def test_no_metres_without_crs_or_transform() -> None:
    assert grid(crs=None).pixel_size_m is None
    assert grid(Affine.identity()).pixel_area_m2 is None
    assert grid(Affine(1, 0, 0, 0, -1, 400), CRS.from_epsg(4326)).pixel_size_m is None  # latitude beyond the pole
    assert not grid(crs=None).is_geographic


def test_same_as() -> None:
    here = grid()
    assert here.same_as(grid())
    assert here.same_as(grid(NORTH_UP @ Affine.translation(0.005, 0)))
    assert not here.same_as(grid(NORTH_UP @ Affine.translation(0.5, 0)))
    assert here.same_as(grid(NORTH_UP @ Affine.translation(0.5, 0)), tolerance=0.6)
    assert not here.same_as(grid(NORTH_UP @ Affine.scale(1.001)))  # drifts apart at the far corner
    assert not here.same_as(grid(crs=None))
    assert not here.same_as(grid(width=91))
    assert here.same_as(replace(here, area_or_point="Point"))


def test_window_transform() -> None:
    turned = grid(NORTH_UP @ Affine.rotation(20))
    assert turned.window_transform(Window(7, 5, 1, 1)).almost_equals(turned.transform @ Affine.translation(5, 7))


def test_from_dataset(make_raster: Callable[..., Path]) -> None:
    path = make_raster(np.zeros((1, 3, 4), np.uint8), edit=lambda dataset: dataset.update_tags(AREA_OR_POINT="Point"))
    with open_raster(path) as dataset:
        found = Grid.from_dataset(dataset)
    assert found.shape == (3, 4)
    assert found.area_or_point == "Point"
    assert (found.crs, found.gcps, found.rpc_tags) == (UTM, None, ())
    assert found.transform == Affine(10, 0, 500000, 0, -10, 4_000_000)
