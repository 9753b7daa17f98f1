from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS

from asd_cli.errors import InputError
from asd_cli.raster.grid import Grid
from asd_cli.vector.files import write_polygons
from asd_cli.vector.strongest import in_pixels, read_strongest, svg_path

GRID = Grid(400, 300, Affine(2, 0, 500_000, 0, -2, 5_000_000), CRS.from_epsg(32632))


def frame(number: int, crs: str | None = "EPSG:32632") -> gpd.GeoDataFrame:
    """Squares of 2 x 2 px along the diagonal of `GRID`; the scores of neighbours are far apart."""
    boxes = [
        shapely.box(500_000 + 8 * i, 5_000_000 - 8 * i - 4, 500_004 + 8 * i, 5_000_000 - 8 * i) for i in range(number)
    ]
    scores = [((i * 7) % 11) / 11 for i in range(number)]
    data = {"id": range(1, number + 1), "score_max": scores}
    return gpd.GeoDataFrame(data, geometry=[shapely.MultiPolygon([box]) for box in boxes], crs=crs)


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", ".parquet"])
@pytest.mark.parametrize("lower", [True, False])
def test_the_strongest_come_first_in_every_format(tmp_path: Path, suffix: str, lower: bool) -> None:
    path = tmp_path / f"two words{suffix}"
    write_polygons(frame(11), path)
    found = read_strongest(path, 4, lower_is_anomalous=lower)
    scores = sorted(frame(11)["score_max"], reverse=not lower)
    assert found.total == 11
    assert found.frame["score_max"].tolist() == pytest.approx(scores[:4])
    first = found.frame["id"].iloc[0] - 1
    assert in_pixels(found.frame, GRID)[0].bounds == pytest.approx(
        (4 * first, 4 * first, 4 * first + 2, 4 * first + 2), abs=1e-3
    )
    assert read_strongest(path, 99, lower_is_anomalous=lower).total == len(
        read_strongest(path, 99, lower_is_anomalous=lower).frame
    )


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", ".parquet"])
def test_no_polygons_at_all(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"none{suffix}"
    write_polygons(frame(11).iloc[:0], path)
    found = read_strongest(path, 4, lower_is_anomalous=False)
    assert (found.total, len(found.frame)) == (0, 0)


def test_files_that_are_no_polygons_of_ours(tmp_path: Path) -> None:
    other = tmp_path / "other.gpkg"
    frame(3).drop(columns="score_max").to_file(other)
    broken = tmp_path / "broken.gpkg"
    broken.write_bytes(b"SQLite format 3\0 and no more")
    for path, text in (
        (other, "has no column score_max"),
        (broken, "cannot be read"),
        (tmp_path / "no.fgb", "cannot be"),
        (tmp_path / "a.shp", "is no polygon file that asd predict writes; give .gpkg, "),
    ):
        with pytest.raises(InputError, match=text) as caught:
            read_strongest(path, 3, lower_is_anomalous=False)
        assert "\n" not in str(caught.value)


def test_a_map_without_georeference_has_y_upwards() -> None:
    boxes = frame(1, None).set_geometry([shapely.MultiPolygon([shapely.box(10, -25, 12, -20)])])
    assert in_pixels(boxes, Grid(40, 30, Affine.identity(), None))[0].bounds == (10, 20, 12, 25)


def test_paths() -> None:
    ring = shapely.Polygon([(0, 0), (40, 0), (40, 20), (0, 20)], [[(10, 5), (20, 5), (20, 15), (10, 15)]])
    assert svg_path(ring, 0.5, (10, 0)) == "M-5.0 0.0L15.0 0.0L15.0 10.0L-5.0 10.0ZM0.0 2.5L5.0 2.5L5.0 7.5L0.0 7.5Z"
    tiny = shapely.MultiPolygon([shapely.box(3, 3, 4, 4)])
    assert svg_path(tiny, 0.01).startswith("M0.0 0.0")
