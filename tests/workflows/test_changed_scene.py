"""A scene that changes while it is mapped: no map is made of two states of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio.shutil
from numpy.typing import NDArray

from asd_cli.errors import BatchError, InputError
from asd_cli.options import PredictOptions
from asd_cli.workflows.merge import MergeOptions, merge
from asd_cli.workflows.predict import predict

Make = Callable[..., Path]
Change = Callable[[Path], object]


@pytest.fixture
def scene(tmp_path: Path, make_scene: Make, make_texture: Callable[..., NDArray[np.float32]]) -> Path:
    """Two parts of 512 px."""
    (tmp_path / "maps").mkdir()
    return make_scene(tmp_path / "in" / "scene.tif", make_texture(7, 3, 560, 30).clip(1, 255).astype(np.uint8))


@pytest.fixture
def run(scene: Path, random_model: Path, tmp_path: Path) -> Callable[..., None]:
    """Maps the scene, and changes a file as soon as the first part is finished."""

    def make(change: Change, **options: Any) -> None:
        changed: list[object] = []

        def progress(done: int, total: int) -> None:
            if done and not changed:
                changed.append(change(scene))

        given = {"device": "cpu", "window": 512, "workers": 1, "scenes": (str(scene),)} | options
        predict(PredictOptions(output=str(tmp_path / "maps"), model=random_model, **given), progress=progress)
        assert changed

    return make


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def replace(path: Path) -> None:
    other = path.with_name("new")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [append, replace, remove])
def test_it_is_refused_and_nothing_is_left(
    run: Callable[..., None], scene: Path, tmp_path: Path, change: Change
) -> None:
    with pytest.raises(InputError) as caught:
        run(change)
    text = str(caught.value)
    assert text.startswith(f"{scene}: was changed while it was mapped (its file scene.tif: was ")
    assert text.endswith("), so nothing is kept; run again when no other program writes to it")
    assert "\n" not in text
    assert list((tmp_path / "maps").iterdir()) == []


def test_sources_and_masks_count_what_viewers_write_does_not(
    run: Callable[..., None], scene: Path, make_scene: Make, tmp_path: Path
) -> None:
    vrt, mask, statistics = (tmp_path / "in" / name for name in ("all.vrt", "mask.tif", "scene.tif.aux.xml"))
    rasterio.shutil.copy(scene, vrt, driver="VRT")
    with pytest.raises(InputError, match=r"all.vrt: was changed while it was mapped \(its file scene.tif: was "):
        run(append, scenes=(str(vrt),))
    make_scene(mask, np.eye(560, 30, dtype=np.uint8)[None])
    with pytest.raises(InputError, match=r"scene.tif: was changed while it was mapped \(the mask mask.tif: was "):
        run(lambda _: os.utime(mask, (1, 1)), mask=str(mask))
    assert list((tmp_path / "maps").iterdir()) == []
    statistics.write_text("<PAMDataset></PAMDataset>")
    run(lambda _: statistics.write_text("<PAMDataset><Metadata></Metadata></PAMDataset>"))
    assert (tmp_path / "maps" / "scene_anomaly.tif").exists()


def test_a_viewer_between_two_runs_changes_nothing_but_nodata_would(
    run: Callable[..., None], scene: Path, tmp_path: Path
) -> None:
    aside = scene.with_name("scene.tif.aux.xml")
    band = '<PAMDataset><PAMRasterBand band="{}">{}</PAMRasterBand></PAMDataset>'
    run(lambda _: None, shard=(1, 2))
    aside.write_text(band.format(1, "<NoDataValue>77</NoDataValue>"))
    with pytest.raises(InputError, match=r"never mixed \(its nodata: was none, .*, is 77.0, none"):
        run(lambda _: None, shard=(2, 2))
    aside.write_text(band.format(1, '<Metadata><MDI key="STATISTICS_MEAN">3</MDI></Metadata>'))
    run(lambda _: None, shard=(2, 2))
    merge(MergeOptions((tmp_path / "maps" / "scene_anomaly.tif",)))
    assert (tmp_path / "maps" / "scene_anomaly.tif").exists()


def test_of_a_batch_the_others_are_made(run: Callable[..., None], scene: Path, tmp_path: Path) -> None:
    other = shutil.copy(scene, scene.with_name("other.tif"))
    with pytest.raises(BatchError, match="1 of 2 scenes failed"):
        run(append, scenes=(str(scene), str(other)), on_error="skip", style=False, write_polygons=False)
    assert [path.name for path in (tmp_path / "maps").iterdir()] == ["other_anomaly.tif"]


def test_the_parts_of_a_shard_count_no_more(run: Callable[..., None], scene: Path, tmp_path: Path) -> None:
    raster = tmp_path / "maps" / "scene_anomaly.tif"
    state = scene.stat()
    run(lambda _: None, shard=(1, 2))
    with pytest.raises(InputError, match="was changed while it was mapped"):
        run(lambda path: os.utime(path, (1, 1)), shard=(2, 2))
    with pytest.raises(InputError, match=r"1 of 2 parts .* are missing"):
        merge(MergeOptions((raster,)))
    with pytest.raises(InputError, match="holds parts of another map"):
        run(lambda _: None, shard=(2, 2))
    os.utime(scene, ns=(state.st_atime_ns, state.st_mtime_ns))
    run(lambda _: None, shard=(2, 2))
    merge(MergeOptions((raster,)))
    assert raster.exists()
