from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio.shutil
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rio_cogeo.cogeo import cog_validate

from asd_cli.errors import OutputError
from asd_cli.raster.gdal import open_raster
from asd_cli.raster.grid import Grid
from asd_cli.raster.windows import Window, write_windows
from asd_cli.raster.writer import BandInfo, BandStatistics, MapWriter

UTM = CRS.from_epsg(32630)
NORTH_UP = Affine(10, 0, 500000, 0, -10, 4_000_000)
BANDS = (BandInfo("distance", "1"), BandInfo("score"))


def make_map(rng: np.random.Generator, height: int, width: int, bands: int = 2) -> NDArray[np.float32]:
    values = rng.normal(5, 2, (bands, height, width)).astype(np.float32)
    values[0, rng.random((height, width)) < 0.2] = np.nan
    return values


def write_map(
    path: Path, values: NDArray[np.float32], *, size: int = 512, grid: Grid | None = None, **options: Any
) -> Path:
    count, height, width = values.shape
    grid = grid or Grid(width, height, NORTH_UP, UTM)
    with MapWriter(path, grid, BANDS[:count], {"ASD_MODEL": "forest"}, **options) as writer:
        for window in write_windows(height, width, size):
            box = np.s_[:, window.row : window.row_stop, window.col : window.col_stop]
            writer.write(window, values[box])
        writer.finish()
    return path


@pytest.mark.parametrize(("height", "width"), [(1, 1), (40, 50), (700, 1100)])
def test_result_is_a_valid_cog_with_everything(
    tmp_path: Path, rng: np.random.Generator, height: int, width: int
) -> None:
    values = make_map(rng, height, width)
    path = write_map(tmp_path / "map.tif", values)
    assert list(tmp_path.iterdir()) == [path]
    assert cog_validate(path, quiet=True) == (True, [], [])
    with open_raster(path) as result:
        np.testing.assert_array_equal(result.read(), values)
        assert np.isnan(result.nodata)
        assert (result.descriptions, result.units) == (("distance", "score"), ("1", None))
        assert result.tags()["ASD_MODEL"] == "forest"
        assert result.overviews(1) == ([2, 4] if width > 1000 else [])
        assert result.block_shapes[0] == (512, 512)
        structure = result.tags(ns="IMAGE_STRUCTURE")
        assert (structure["COMPRESSION"], structure["PREDICTOR"]) == ("DEFLATE", "3")
        for band in (1, 2):
            check_statistics(result.tags(band), values[band - 1])
    assert list(tmp_path.iterdir()) == [path]


def check_statistics(tags: dict[str, str], values: NDArray[np.float32]) -> None:
    seen = values[~np.isnan(values)].astype(np.float64)
    assert float(tags["STATISTICS_VALID_PERCENT"]) == pytest.approx(100 * seen.size / values.size, rel=1e-3)
    if seen.size:
        found = [float(tags[f"STATISTICS_{name}"]) for name in ("MINIMUM", "MAXIMUM", "MEAN", "STDDEV")]
        assert found == pytest.approx([seen.min(), seen.max(), seen.mean(), seen.std()], rel=1e-12)


def test_window_size_and_order_change_nothing(tmp_path: Path, rng: np.random.Generator) -> None:
    values = make_map(rng, 1100, 1300, bands=1)
    small = write_map(tmp_path / "small.tif", values)
    large = write_map(tmp_path / "large.tif", values, size=1024)
    grid = Grid(1300, 1100, NORTH_UP, UTM)
    backwards = tmp_path / "backwards.tif"
    with MapWriter(backwards, grid, BANDS[:1], {"ASD_MODEL": "forest"}) as writer:
        for window in reversed(list(write_windows(1100, 1300, 512))):
            box = np.s_[:, window.row : window.row_stop, window.col : window.col_stop]
            writer.write(window, values[box])
        writer.finish()
    assert small.read_bytes() == large.read_bytes() == backwards.read_bytes()


GRIDS = {
    "north up": Grid(600, 30, NORTH_UP, UTM, "Area"),
    "point": Grid(600, 30, NORTH_UP, UTM, "Point"),
    "rotated": Grid(600, 30, NORTH_UP @ Affine.rotation(20), UTM, "Area"),
    "rotated point": Grid(600, 30, NORTH_UP @ Affine.rotation(-70), UTM, "Point"),
    "south up": Grid(600, 30, Affine(10, 0, 500000, 0, 10, 4_000_000), UTM, "Area"),
    "geographic": Grid(600, 30, Affine(0.1, 0, 7, 0, -0.1, 50), CRS.from_epsg(4326), "Area"),
    "no CRS": Grid(600, 30, NORTH_UP, None),
    "no CRS point": Grid(600, 30, NORTH_UP, None, "Point"),
    "nothing": Grid(600, 30, Affine.identity(), None),
    "local": Grid(
        600,
        30,
        NORTH_UP,
        CRS.from_proj4("+proj=laea +lat_0=10 +lon_0=20 +x_0=1 +y_0=2 +datum=WGS84 +units=m"),
        "Area",
    ),
}


@pytest.mark.parametrize("name", GRIDS)
def test_grid_is_kept(tmp_path: Path, rng: np.random.Generator, name: str) -> None:
    grid = GRIDS[name]
    path = write_map(tmp_path / "map.tif", make_map(rng, 30, 600), grid=grid)
    with open_raster(path) as result:
        found = Grid.from_dataset(result)
    assert found.same_as(grid, tolerance=1e-6)
    assert found.area_or_point == (grid.area_or_point if grid.crs else None)
    assert list(tmp_path.iterdir()) == [path]


def test_ground_control_points_and_rpcs_are_kept(tmp_path: Path, rng: np.random.Generator) -> None:
    places = [(0, 0, 7.0, 50.0), (0, 600, 7.6, 50.1), (30, 0, 7.1, 49.7), (30, 600, 7.7, 49.8)]
    points = tuple(GroundControlPoint(*place, z=1.5, id=str(i)) for i, place in enumerate(places))
    grid = Grid(600, 30, Affine.identity(), None, "Area", (points, CRS.from_epsg(4326)))
    with open_raster(write_map(tmp_path / "gcps.tif", make_map(rng, 30, 600), grid=grid)) as result:
        found = Grid.from_dataset(result)
    assert found.same_as(grid)
    assert found.gcps is not None
    assert found.gcps[1] == CRS.from_epsg(4326)

    numbers = " ".join(f"{i}" for i in range(20))
    names = ["LINE_OFF", "SAMP_OFF", "LAT_OFF", "LONG_OFF", "HEIGHT_OFF"]
    names += ["LINE_SCALE", "SAMP_SCALE", "LAT_SCALE", "LONG_SCALE", "HEIGHT_SCALE"]
    rpcs = dict.fromkeys(names, "1")
    rpcs |= dict.fromkeys(("LINE_NUM_COEFF", "LINE_DEN_COEFF", "SAMP_NUM_COEFF", "SAMP_DEN_COEFF"), numbers)
    grid = replace(GRIDS["nothing"], rpc_tags=tuple(rpcs.items()))
    with open_raster(write_map(tmp_path / "rpcs.tif", make_map(rng, 30, 600), grid=grid)) as result:
        kept = dict(Grid.from_dataset(result).rpc_tags)
    assert kept["LINE_NUM_COEFF"].split() == numbers.split()
    assert names[0] in kept


def test_overviews_resampling(tmp_path: Path, rng: np.random.Generator) -> None:
    values = make_map(rng, 600, 600, bands=1)
    for name, expected in (("nearest", values[0, 0, 0]), ("average", np.nanmean(values[0, :2, :2]))):
        path = write_map(tmp_path / f"{name}.tif", values, overviews=name)
        with open_raster(path, overview_level=0) as result:
            assert result.read(1)[0, 0] == pytest.approx(expected, nan_ok=True)
    with pytest.raises(ValueError, match="overviews='best' is not one of"):
        write_map(tmp_path / "map.tif", values, overviews="best")


def test_blocks_never_written_are_nan(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    with MapWriter(path, Grid(600, 520, NORTH_UP, UTM), BANDS[:1], {}) as writer:
        writer.write(Window(0, 512, 512, 88), np.ones((1, 512, 88), np.float32))
        writer.finish()
    with open_raster(path) as result:
        values = result.read(1)
        assert result.tags(1)["STATISTICS_VALID_PERCENT"] == f"{100 * 512 * 88 / 600 / 520:.4g}"
    assert np.isnan(values[:, :512]).all()
    assert np.isnan(values[512:]).all()
    assert (values[:512, 512:] == 1).all()


def test_all_invalid_has_no_statistics(tmp_path: Path) -> None:
    path = write_map(tmp_path / "map.tif", np.full((1, 20, 20), np.nan, np.float32))
    with open_raster(path) as result:
        assert result.tags(1) == {"STATISTICS_VALID_PERCENT": "0"}


@pytest.mark.parametrize(
    "window",
    [
        Window(0, 256, 512, 512),
        Window(16, 0, 512, 512),
        Window(0, 0, 256, 512),
        Window(0, 512, 600, 512),
        Window(512, 0, 512, 512),
        Window(-512, 0, 512, 512),
    ],
)
def test_windows_that_are_not_whole_blocks(tmp_path: Path, window: Window) -> None:
    writer = MapWriter(tmp_path / "map.tif", Grid(1000, 600, NORTH_UP, UTM), BANDS[:1], {})
    with writer, pytest.raises(ValueError, match="is not made of whole 512 px blocks"):
        writer.write(window, np.zeros((1, *window.shape), np.float32))
    assert not list(tmp_path.iterdir())


def test_other_misuse(tmp_path: Path) -> None:
    window = Window(0, 0, 20, 30)
    with MapWriter(tmp_path / "map.tif", Grid(30, 20, NORTH_UP, UTM), BANDS, {}) as writer:
        with pytest.raises(ValueError, match="do not fit 2 bands"):
            writer.write(window, np.zeros((1, 20, 30), np.float32))
        writer.write(window, np.zeros((2, 20, 30), np.float32))
        with pytest.raises(ValueError, match="written before"):
            writer.write(window, np.zeros((2, 20, 30), np.float32))


def test_leaving_without_finish_leaves_nothing(tmp_path: Path, rng: np.random.Generator) -> None:
    def interrupted() -> None:
        with MapWriter(tmp_path / "map.tif", Grid(30, 20, NORTH_UP, UTM), BANDS, {}) as writer:
            writer.write(Window(0, 0, 20, 30), make_map(rng, 20, 30))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_missing_folder_is_an_output_error(tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(OutputError, match=r"map.tif: cannot be written \(.*\); check the free space and the"):
        write_map(tmp_path / "nowhere" / "map.tif", make_map(rng, 20, 30))


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 20_000)


def blank(path: Path) -> None:
    """A block of zeros in the middle, as a full disk may leave."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(200_000))


@pytest.mark.parametrize("damage", [cut_short, blank])
def test_damage_that_gdal_hides_is_found(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    copy = rasterio.shutil.copy

    def damaged_copy(source: str, target: str, **options: Any) -> None:
        copy(source, target, **options)
        if options["driver"] == "COG":
            damage(Path(target))

    monkeypatch.setattr(rasterio.shutil, "copy", damaged_copy)
    staged, target = tmp_path / ".map.part.tif", tmp_path / "map.tif"
    with pytest.raises(OutputError) as caught:
        write_map(staged, make_map(rng, 700, 900), target=target)
    text = str(caught.value)
    assert text.startswith(f"{target}: cannot be written (")
    assert text.endswith(f"check the free space and the permissions of {tmp_path}")
    assert "\n" not in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("filled", [0, 1100, 1300, 2044])
def test_full_disk_is_an_output_error(
    tiny_disk: Path, rng: np.random.Generator, capfd: pytest.CaptureFixture[str], filled: int
) -> None:
    """Full while writing, while finishing, or from the start; libtiff says nothing beside it."""
    (tiny_disk / "other").write_bytes(bytes(filled * 1024))
    side = 1000 if filled == 0 else 450
    with pytest.raises(OutputError, match=r"map.tif: cannot be written \(.*check the free space"):
        write_map(tiny_disk / "map.tif", make_map(rng, side, side, bands=1))
    assert [path.name for path in tiny_disk.iterdir()] == ["other"]
    assert capfd.readouterr() == ("", "")


def test_statistics_merge_and_order(rng: np.random.Generator) -> None:
    values = (rng.normal(0, 1, (6, 40, 50)) + 1e4).astype(np.float32)
    values[2] = np.nan
    one, halves = BandStatistics(), (BandStatistics(), BandStatistics())
    for index, block in enumerate(values):
        one.add(block)
        halves[index % 2].add(block)
    halves[1].merge(halves[0])
    assert one.tags(12000) == halves[1].tags(12000)
    seen = values[~np.isnan(values)].astype(np.float64)
    assert (one.count, one.minimum, one.maximum) == (10000, seen.min(), seen.max())
    assert (one.mean, one.stddev) == pytest.approx((seen.mean(), seen.std()), rel=1e-12)
    assert np.isnan([BandStatistics().mean, BandStatistics().stddev]).all()


_AWKWARD = [(1025, 1025), (2049, 600), (600, 2049), (1, 700), (700, 1), (1500, 1), (2, 5000), (5000, 2), (9000, 3)]


@pytest.mark.parametrize("shape", _AWKWARD, ids=lambda shape: "x".join(map(str, shape)))
def test_every_size_can_be_finished(tmp_path: Path, shape: tuple[int, int]) -> None:
    """GDAL rounds the sizes of reduced levels now up, now down, and takes odd factors for long thin maps."""
    finish_empty(tmp_path / "map.tif", shape)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(factor=st.sampled_from([2, 4]), more=st.integers(-2, 5), other=st.integers(1, 1100), turned=st.booleans())
def test_sizes_around_multiples_of_a_block_can_be_finished(
    tmp_path: Path, factor: int, more: int, other: int, turned: bool
) -> None:
    shape = (512 * factor + more, other)
    finish_empty(tmp_path / "map.tif", shape[::-1] if turned else shape)


def finish_empty(path: Path, shape: tuple[int, int]) -> None:
    path.unlink(missing_ok=True)
    write_map(path, np.ones((1, *shape), np.float32), size=512 * 20)
    with open_raster(path) as found:
        assert found.shape == shape
