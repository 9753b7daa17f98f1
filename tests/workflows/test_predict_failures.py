"""What `asd predict` refuses or warns of, by text, and what a failure leaves behind: finished parts, or nothing."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.env import get_gdal_config, hasenv

from asd_cli.errors import AsdError, InputError, ModelFileError, OutputError, RasterError
from asd_cli.options import PredictOptions
from asd_cli.raster.gdal import open_raster
from asd_cli.raster.writer import MapWriter
from asd_cli.staging import StagedFiles
from asd_cli.vector.polygons import PolygonStream
from asd_cli.workflows import map_files
from asd_cli.workflows import predict as predicting_all
from asd_cli.workflows import predict_scene as predicting
from asd_cli.workflows.mapping import BlockMapper
from asd_cli.workflows.predict import PredictReport, predict

Texture = Callable[[int, int, int, int], NDArray[np.float32]]
Make = Callable[..., Path]


def run_all(scenes: tuple[Path | str, ...], output: Path, model: Path, **options: Any) -> list[PredictReport]:
    given = {"device": "cpu"} | options
    return predict(PredictOptions(scenes=tuple(map(str, scenes)), output=str(output), model=model, **given))


def run(scene: Path | str, output: Path, model: Path, **options: Any) -> PredictReport:
    return run_all((scene,), output, model, **options)[0]


def refusal(kind: type[AsdError], scene: Path | str, output: Path, model: Path, **options: Any) -> str:
    """The text of the error; nothing may be left beside what was there."""
    before = sorted(output.parent.iterdir()) if output.parent.is_dir() else None
    with pytest.raises(kind) as caught:
        run(scene, output, model, **options)
    assert "\n" not in str(caught.value)
    assert before is None or sorted(output.parent.iterdir()) == before
    return str(caught.value)


def read(path: Path) -> NDArray[Any]:
    with open_raster(path) as dataset:
        return np.asarray(dataset.read(1))


@pytest.fixture
def image(make_texture: Texture) -> NDArray[np.uint8]:
    return make_texture(71, 3, 60, 70).clip(1, 255).astype(np.uint8)


@pytest.fixture
def scene(make_scene: Make, image: NDArray[np.uint8], tmp_path: Path) -> Path:
    return make_scene(tmp_path / "in" / "scene.tif", image)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "map.tif"


def test_band_counts(random_model: Path, make_scene: Make, image: NDArray[np.uint8], out: Path, tmp_path: Path) -> None:
    two = make_scene(tmp_path / "two.tif", image[:2])
    text = f"{two}: 2 bands, but the model was trained on 3 (band 1, band 2, band 3); choose 3 with --bands"
    assert refusal(RasterError, two, out, random_model) == text
    one = make_scene(tmp_path / "one.tif", image[:1])
    assert refusal(RasterError, one, out, random_model).startswith(f"{one}: 1 band, but the model")
    assert run(one, out, random_model, bands=(1, 1, 1)).valid_pixels == 4200
    three = make_scene(tmp_path / "three.tif", image)
    assert "2 bands, but" in refusal(RasterError, three, out.with_name("b.tif"), random_model, bands=(1, 2))
    text = f"{three}: no band 4; the raster has 3 bands, numbered from 1"
    assert refusal(RasterError, three, out.with_name("b.tif"), random_model, bands=(1, 2, 4)) == text


def test_the_models_bands_are_picked_where_the_scene_is_like_the_tiles(
    make_model: Make, make_scene: Make, make_texture: Texture, out: Path, tmp_path: Path
) -> None:
    four = make_texture(72, 4, 60, 70).clip(1, 255).astype(np.uint8)
    scene = make_scene(tmp_path / "four.tif", four, photometric="MINISBLACK")
    swapped = make_scene(tmp_path / "swapped.tif", four[[3, 1, 0]])
    model = make_model(3, indexes=(4, 2, 1), of=4)
    expected = read(run(swapped, out.with_name("a.tif"), model).raster)
    picked = run(scene, out.with_name("b.tif"), model)
    np.testing.assert_array_equal(read(picked.raster), expected)
    # The same where only the order differs: three bands of three.
    model = make_model(3, indexes=(3, 2, 1), of=3)
    turned = make_scene(tmp_path / "turned.tif", four[[0, 1, 3]])
    np.testing.assert_array_equal(read(run(turned, out.with_name("c.tif"), model).raster), expected)
    chosen = run(swapped, out.with_name("d.tif"), model, bands=(1, 2, 3))
    np.testing.assert_array_equal(read(chosen.raster), expected)


def test_a_fourth_band_that_counts_as_alpha(
    make_model: Make, make_scene: Make, make_texture: Texture, out: Path, tmp_path: Path
) -> None:
    values = make_texture(73, 4, 60, 70).clip(1, 255).astype(np.uint8)
    scene = make_scene(tmp_path / "rgba.tif", values, photometric="RGB", alpha="YES")
    with open_raster(scene) as dataset:
        assert dataset.colorinterp[3] == ColorInterp.alpha
    model = make_model(4)
    assert refusal(RasterError, scene, out, model) == (
        f"{scene}: 3 bands beside band 4, which is taken as alpha (a mask), but the model was trained on 4; "
        "if it holds data, use it with --bands 1,2,3,4"
    )
    assert run(scene, out, model, bands=(1, 2, 3, 4)).valid_pixels == 4200


def test_models_that_are_not_there(scene: Path, out: Path, tmp_path: Path) -> None:
    assert refusal(ModelFileError, scene, out, tmp_path / "no.safetensors").endswith("no such model file")
    assert refusal(ModelFileError, scene, out, scene).startswith(f"{scene}: not a model file")
    with pytest.raises(InputError, match="no model given"):
        predict(PredictOptions(scenes=(str(scene),), output=str(out)))


def test_scenes_that_cannot_be_read(random_model: Path, make_scene: Make, out: Path, tmp_path: Path) -> None:
    missing = tmp_path / "nope.tif"
    assert refusal(RasterError, missing, out, random_model) == f"{missing}: no such file; check the path"
    text = f"{tmp_path}: is a folder; name a raster, or several with a glob such as '*.tif'"
    assert refusal(RasterError, tmp_path, out, random_model) == text
    radar = make_scene(tmp_path / "slc.tif", np.ones((3, 20, 20), np.complex64))
    assert "slc.tif: band 1 holds complex numbers (complex64); convert" in refusal(
        RasterError, radar, out, random_model
    )
    palette = make_scene(tmp_path / "map.tif", np.ones((1, 20, 20), np.uint8), photometric="palette")
    text = f"{palette}: band 1 is colour-mapped; expand it first: gdal_translate -expand rgb IN OUT"
    assert refusal(RasterError, palette, out, random_model) == text


def test_every_scene_is_checked_before_the_first_is_mapped(
    scene: Path, random_model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting, "map_scene", lambda *_, **__: pytest.fail("work was done"))
    missing = scene.with_name("nope.tif")
    with pytest.raises(RasterError, match="no such file"):
        run_all((scene, missing), out.parent, random_model)
    with pytest.raises(InputError, match="--threshold 3: must be above 0 and below 1"):
        run(scene, out, random_model, threshold=3)
    out.write_text("mine")
    monkeypatch.setattr(predicting_all, "load_model", lambda *_: pytest.fail("work was done"))
    text = f"{out}: exists already; choose another name or add --overwrite"
    assert refusal(OutputError, scene, out, random_model) == text
    assert out.read_text() == "mine"


def test_pixel_sizes_that_differ_are_warned_of(
    random_model: Path, make_scene: Make, image: NDArray[np.uint8], out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from affine import Affine

    for size, warned in ((0.7, False), (1.5, True), (0.2, True)):
        caplog.clear()
        path = make_scene(out.with_name(f"s{size}.tif"), image, transform=Affine(size, 0, 0, 0, -size, 0))
        run(path, out.with_name(f"m{size}.tif"), random_model)
        assert bool(caplog.messages) == warned
    assert caplog.messages == [
        f"{path}: pixels of 0.2 m, but the model was trained at 0.5 m; resample the scene first "
        "(gdalwarp -tr, 2.5 times its pixel size) or train at its size"
    ]


def test_no_crs_is_warned_of(
    random_model: Path, make_scene: Make, image: NDArray[np.uint8], out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_scene(out.with_name("s.tif"), image, crs=None, transform=None)
    run(path, out, random_model, polygons=".geojson")
    assert caplog.messages[0] == f"{path}: has no georeference; the map is written on plain pixel coordinates"
    assert caplog.messages[1].startswith(f"{out.with_suffix('.geojson')}: the scene has no CRS, but readers take")
    assert len(caplog.messages) == 2


def descriptors_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """No thread, no open file, no state of GDAL's is left by the test."""
    cache, files = get_gdal_config("GDAL_CACHEMAX"), descriptors_open()
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("asd-")]
    assert not hasenv()
    assert get_gdal_config("GDAL_CACHEMAX") == cache
    assert descriptors_open() <= files


@pytest.mark.usefixtures("nothing_left")
def test_a_truncated_scene_leaves_nothing(
    random_model: Path, make_scene: Make, make_texture: Texture, out: Path, tmp_path: Path
) -> None:
    values = make_texture(74, 3, 900, 300).clip(1, 255).astype(np.uint8)
    values[:, 60:] = 0  # no data: the work is small
    values[:, -40:] = 9
    layout = {"tiled": True, "blockxsize": 256, "blockysize": 256, "interleave": "pixel"}
    path = make_scene(tmp_path / "cut.tif", values, nodata=0, **layout)
    path.write_bytes(path.read_bytes()[:-30_000])  # in its last block, in the second row of windows
    text = refusal(RasterError, path, out, random_model)
    assert text.startswith(f"{path}: bands 1, 2, 3 cannot be read at cols 256-299, rows 512-767 (")
    assert text.endswith("; the file looks damaged, get it again")


STAGES: dict[str, tuple[object, str]] = {
    "compute": (BlockMapper, "_compute"),
    "write": (MapWriter, "write"),
    "finish": (MapWriter, "finish"),
    "polygons": (PolygonStream, "add"),
    "last polygons": (PolygonStream, "batches"),
    "polygon file": (map_files, "write_polygons"),
    "commit": (StagedFiles, "commit"),
}
BEFORE_PARTS = ("compute", "write")


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("error", [OutputError("disk full"), KeyboardInterrupt()])
def test_a_failure_at_any_stage_leaves_parts_or_nothing(
    scene: Path,
    random_model: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    stage: str,
    old: bool,
    error: BaseException,
) -> None:
    owner, name = STAGES[stage]

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(owner, name, fail)
    if old:
        out.write_text("old")
        out.with_suffix(".gpkg").write_text("old")
    before = sorted(out.parent.iterdir())
    with pytest.raises(type(error)) as caught:
        run(scene, out, random_model, overwrite=old)
    assert caught.value is error
    left = set(out.parent.iterdir()) - set(before)
    assert left == (set() if stage in BEFORE_PARTS else {out.with_name("map.tif.parts")})
    assert all(path.read_text() == "old" for path in before)
    if left:
        monkeypatch.undo()
        run(scene, out, random_model, overwrite=old, resume=True)
        assert sorted(path.name for path in out.parent.iterdir()) == ["map.gpkg", "map.qml", "map.tif"]


@pytest.mark.usefixtures("nothing_left")
def test_polygons_that_fail_take_the_raster_with_them(
    scene: Path, random_model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyogrio

    def fail(*_: object, **__: object) -> None:
        raise pyogrio.errors.DataSourceError(f"Failed: {_[1]} is full")

    monkeypatch.setattr(pyogrio, "write_dataframe", fail)
    target = out.with_suffix(".gpkg")
    text = f"{target}: the polygons cannot be written (Failed: {target} is full); check the folder and the disk"
    with pytest.raises(OutputError, match=re.escape(text)):
        run(scene, out, random_model)
    assert [path.name for path in out.parent.iterdir()] == ["map.tif.parts"]


@pytest.mark.usefixtures("nothing_left")
def test_overwrite_replaces_all(scene: Path, random_model: Path, out: Path) -> None:
    run(scene, out, random_model)
    first = out.read_bytes(), out.with_suffix(".gpkg").read_bytes()
    out.write_text("spoilt")
    out.with_suffix(".gpkg").write_text("spoilt")
    out.with_name("map.tif.aux.xml").write_text("statistics of the old one")
    run(scene, out, random_model, overwrite=True)
    assert (out.read_bytes(), out.with_suffix(".gpkg").read_bytes()) == first
    assert sorted(path.name for path in out.parent.iterdir()) == ["map.gpkg", "map.qml", "map.tif"]


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", ".parquet"])
@pytest.mark.parametrize("name", ["two words", "a[1]*?", "ä漢字 'q\"", "-dash", "50%#!;", "x" * 240])
def test_odd_names(scene: Path, random_model: Path, out: Path, name: str, suffix: str) -> None:
    odd = scene.with_name(f"{name}.tif")
    shutil.copy(scene, odd)
    report = run(odd, out.with_name(f"{name}.tif"), random_model, polygons=suffix)
    assert sorted(p.name for p in out.parent.iterdir()) == sorted(
        f"{name}{ending}" for ending in (suffix, ".qml", ".tif")
    )
    with open_raster(report.raster) as dataset:
        assert dataset.tags()["ASD_SCENE"] == odd.name


def test_a_leading_dash_and_brackets_in_the_current_folder(
    scene: Path, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scene.parent)
    shutil.copy("scene.tif", "-s [1].tif")
    report = run("-s [1].tif", Path("-m [1].tif"), random_model)
    assert report.valid_pixels == 4200
    assert sorted(os.listdir()) == ["-m [1].gpkg", "-m [1].qml", "-m [1].tif", "-s [1].tif", "scene.tif"]  # noqa: PTH208


def test_sources_of_a_scene_are_never_written_over(scene: Path, random_model: Path, tmp_path: Path) -> None:
    vrt = tmp_path / "scene.vrt"
    rasterio.shutil.copy(scene, vrt, driver="VRT")
    text = f"{scene}: is among the files that are read; choose another output name"
    before = scene.read_bytes()
    assert refusal(InputError, vrt, scene, random_model, overwrite=True) == text
    assert scene.read_bytes() == before


@pytest.mark.usefixtures("nothing_left")
def test_paths_of_gdals_own_and_vrts(
    scene: Path, image: NDArray[np.uint8], random_model: Path, make_scene: Make, out: Path, tmp_path: Path
) -> None:
    expected = read(run(scene, out, random_model).raster)
    with zipfile.ZipFile(tmp_path / "scene.zip", "w") as archive:
        archive.write(scene, "in side/scene.tif")
    (tmp_path / "scene.tif.gz").write_bytes(gzip.compress(scene.read_bytes()))
    bands = [make_scene(tmp_path / f"b{i}.tif", image[i : i + 1]) for i in range(3)]
    with rasterio.MemoryFile(scene.read_bytes()) as memory:
        vrt = tmp_path / "bands.vrt"
        vrt.write_text(vrt_of(bands))
        names = [f"/vsizip/{tmp_path}/scene.zip/in side/scene.tif", f"/vsigzip/{tmp_path}/scene.tif.gz"]
        for index, name in enumerate([*names, memory.name, str(vrt)]):
            report = run(name, out.with_name(f"{index}.tif"), random_model)
            np.testing.assert_array_equal(read(report.raster), expected)


def vrt_of(bands: list[Path]) -> str:
    """As gdalbuildvrt -separate writes it."""
    with open_raster(bands[0]) as first:
        head = (
            f'<VRTDataset rasterXSize="{first.width}" rasterYSize="{first.height}"><SRS>{first.crs.to_string()}</SRS>'
        )
        transform = ", ".join(map(str, first.transform.to_gdal()))
    parts = [
        f'<VRTRasterBand dataType="Byte" band="{i}"><SimpleSource><SourceFilename relativeToVRT="1">{path.name}'
        "</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        for i, path in enumerate(bands, start=1)
    ]
    return f"{head}<GeoTransform>{transform}</GeoTransform>{''.join(parts)}</VRTDataset>"


def test_nodata_of_a_vrt_counts_band_by_band(
    image: NDArray[np.uint8], random_model: Path, make_scene: Make, out: Path, tmp_path: Path
) -> None:
    image[0, 5, 5], image[1, 5, 6], image[2, 5, 7] = 255, 254, 0
    image[0, 9, 9], image[1, 9, 9] = 254, 255  # the value of another band is no nodata here
    values = (255, 254, 0)
    bands = [make_scene(tmp_path / f"b{i}.tif", image[i : i + 1]) for i in range(3)]
    hole = np.any([image[i] == value for i, value in enumerate(values)], axis=0)
    text = vrt_of(bands)
    for i, value in enumerate(values, start=1):
        text = text.replace(f'band="{i}">', f'band="{i}"><NoDataValue>{value}</NoDataValue>')
    (tmp_path / "bands.vrt").write_text(text)
    scores = read(run(tmp_path / "bands.vrt", out, random_model).raster)
    assert hole[5, 5:8].all()
    assert not hole[9, 9]
    np.testing.assert_array_equal(np.isnan(scores), hole)


def test_batches(scene: Path, random_model: Path, out: Path) -> None:
    for name in ("b", "c"):
        shutil.copy(scene, scene.with_name(f"{name}.tif"))
    seen: list[tuple[int, int]] = []
    done: list[str] = []
    options = PredictOptions(
        scenes=(str(scene.parent / "*.tif"),), output=str(out.parent), model=random_model, polygons=".fgb"
    )
    reports = predict(options, progress=lambda *s: seen.append(s), finished=lambda r: done.append(r.scene))
    assert [r.scene for r in reports] == done == [str(scene.with_name(f"{n}.tif")) for n in ("b", "c", "scene")]
    assert sorted(p.name for p in out.parent.iterdir()) == sorted(
        f"{n}_anomaly{s}" for n in ("b", "c", "scene") for s in (".tif", ".fgb", ".qml")
    )
    assert seen[-1] == (3 * 4200, 3 * 4200)
    assert {total for _, total in seen} == {3 * 4200}


def test_a_long_command_is_cut_in_the_tags(scene: Path, random_model: Path, out: Path) -> None:
    run(scene, out, random_model, command="asd predict " + "s.tif " * 100_000)
    with open_raster(out) as dataset:
        command = dataset.tags()["ASD_COMMAND"]
    assert command.startswith("asd predict s.tif ")
    assert command.endswith(" ...")
    assert len(command) < 2100
