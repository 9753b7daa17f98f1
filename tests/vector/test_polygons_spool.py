"""Polygons that lie on disk until they are written come back whole, sorted, batch by batch."""

import errno
import os
import tempfile
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS

from asd_cli.errors import OutputError
from asd_cli.raster.grid import Grid
from asd_cli.raster.windows import write_windows
from asd_cli.vector.files import write_polygons
from asd_cli.vector.polygons import PolygonStream
from asd_cli.vector.spool import PolygonSpool


def filled(size: int) -> PolygonStream:
    grid = Grid(61, 53, Affine(2, 0, 500_000, 0, -2, 5_000_000), CRS.from_epsg(32632))
    random = np.random.default_rng(4)
    mask, score = random.random(grid.shape) > 0.8, random.random(grid.shape).astype(np.float32)
    stream = PolygonStream(grid, connectivity=4)
    for window in write_windows(*grid.shape, size):
        part = slice(window.row, window.row_stop), slice(window.col, window.col_stop)
        stream.add(window, mask[part], score[part])
    return stream


def test_batches_are_the_whole_cut_up() -> None:
    whole = filled(16).finish()
    batches = list(filled(64).batches(7))
    assert {len(batch) for batch in batches[:-1]} == {7}
    together = pd.concat(batches, ignore_index=True)
    assert together["id"].tolist() == list(range(1, len(whole) + 1))
    pd.testing.assert_frame_equal(pd.DataFrame(together.drop(columns="geometry")), whole.drop(columns="geometry"))
    assert shapely.equals_exact(together.geometry.to_numpy(), whole.geometry.to_numpy()).all()


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", ".parquet"])
def test_files_do_not_show_the_batches(suffix: str, tmp_path: Path) -> None:
    one, many = tmp_path / f"one{suffix}", tmp_path / f"many{suffix}"
    assert write_polygons(filled(16).finish(), one) == write_polygons(filled(16).batches(50), many)
    frames = [gpd.read_parquet(p) if suffix == ".parquet" else gpd.read_file(p) for p in (one, many)]
    first, second = (frame.sort_values("id").reset_index(drop=True) for frame in frames)
    pd.testing.assert_frame_equal(first.drop(columns="geometry"), second.drop(columns="geometry"))
    assert shapely.equals_exact(first.geometry.to_numpy(), second.geometry.to_numpy()).all()
    assert first.crs == second.crs


def test_an_empty_spool_gives_one_empty_batch() -> None:
    with PolygonSpool() as spool:
        ((columns, shapes),) = spool.batches({"pixels": np.zeros(0, np.int64)}, 10)
    assert list(columns) == ["pixels"]
    assert len(shapes) == 0


class FullDisk:
    """A file on a disk with no room left."""

    def __getattr__(self, name: str) -> object:
        if name in ("write", "flush"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return lambda *_: None


def test_a_full_folder_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: FullDisk())
    spool = PolygonSpool(tmp_path)
    with pytest.raises(OutputError, match=rf"^{tmp_path}: finished polygons cannot be kept there .*No space left"):
        spool.add(np.zeros(1, np.int64), {}, np.array([shapely.box(0, 0, 1, 1)]))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file or directory"):
        PolygonSpool(tmp_path / "no")
