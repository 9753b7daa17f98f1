"""Styles, STAC items and quicklooks as `asd predict` writes them."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pystac
import pytest
from affine import Affine
from pystac.extensions.mlm import MLMExtension
from pystac.extensions.projection import ProjectionExtension
from pystac.extensions.raster import RasterExtension
from pystac.validation.stac_validator import JsonSchemaSTACValidator

from asd_cli.errors import AsdError, OutputError
from asd_cli.options import PredictOptions
from asd_cli.raster.gdal import open_raster
from asd_cli.raster.ramp import ScoreRamp
from asd_cli.workflows.models import load_model
from asd_cli.workflows.predict import PredictReport, predict
from asd_cli.workflows.stac import Origin
from asd_cli.workflows.style import qml

Make = Callable[..., Path]


@pytest.fixture
def scene(tmp_path: Path, make_scene: Make, make_texture: Callable[..., Any]) -> Path:
    """60 x 70 px with a corner of no data, taken at a known time."""
    values = make_texture(3, 3, 60, 70).clip(1, 255).astype(np.uint8)
    values[:, :20, :20] = 0
    path = make_scene(tmp_path / "in" / "scene & co.tif", values, nodata=0)
    with open_raster(path, "r+") as dataset:
        dataset.update_tags(TIFFTAG_DATETIME="2023:07:05 10:20:31")
    return path


def run(scene: Path | str, out: Path, model: Path, **options: Any) -> PredictReport:
    out.parent.mkdir(exist_ok=True)
    given = {"stac": True, "quicklook": ".png", "device": "cpu", **options}
    return predict(PredictOptions(scenes=(str(scene),), output=str(out), model=model, **given))[0]


def test_equal_runs_write_equal_side_files(scene: Path, random_model: Path, tmp_path: Path) -> None:
    first = run(scene, tmp_path / "a" / "map.tif", random_model)
    run(scene, tmp_path / "b" / "map.tif", random_model)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["map.gpkg", "map.json", "map.png", "map.qml", "map.tif"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert [path.name for path in first.paths()] == ["map.tif", "map.gpkg", "map.json", "map.png"]
    assert [path.name for path in first.styles] == ["map.qml"]
    assert first.as_json()["stac"].name == "map.json"


def test_no_file_appears_when_a_side_file_cannot_be_written(
    scene: Path, random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.suffix == ".json":
            raise OSError(28, "No space left on device")
        return before(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    out = tmp_path / "out" / "map.tif"
    with pytest.raises(OutputError, match=re.escape(f"{out.with_suffix('.json')}: cannot be written (No space left")):
        run(scene, out, random_model)
    assert list(out.parent.iterdir()) == [out.with_name("map.tif.parts")]  # to be finished with --resume


def test_overwriting_replaces_side_files_too(scene: Path, random_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "map.tif"
    run(scene, out, random_model)
    styled = out.with_suffix(".qml").read_bytes()
    out.with_suffix(".qml").write_text("spoilt")
    with pytest.raises(AsdError, match="exists already"):
        run(scene, out, random_model)
    run(scene, out, random_model, overwrite=True)
    assert out.with_suffix(".qml").read_bytes() == styled


@pytest.mark.parametrize("score", ["unit", "distance", "far"])
def test_the_quicklook_shows_the_map(scene: Path, random_model: Path, tmp_path: Path, score: Any) -> None:
    report = run(scene, tmp_path / "out" / "map.tif", random_model, score=score)
    assert report.quicklook is not None
    with open_raster(report.quicklook) as dataset:
        picture = dataset.read()
    with open_raster(report.raster) as dataset:
        scores = dataset.read(1)
    assert picture.shape == (4, 60, 70)
    np.testing.assert_array_equal(picture[3] == 0, np.isnan(scores))
    ramp = ScoreRamp(report.score, report.threshold)
    grey = np.ptp(picture[:3].astype(int), axis=0) < 10
    np.testing.assert_array_equal(~grey, ramp.anomalous(scores))
    assert np.count_nonzero(~grey) == report.anomalous_pixels > 0


def test_the_quicklook_of_a_large_map_is_small(
    random_model: Path, tmp_path: Path, make_scene: Make, make_texture: Callable[..., Any]
) -> None:
    values = make_texture(1, 3, 40, 1300).clip(1, 255).astype(np.uint8)
    path = make_scene(tmp_path / "wide.tif", values)
    report = run(path, tmp_path / "out" / "map.tif", random_model, stac=False)
    assert report.quicklook is not None
    with open_raster(report.quicklook) as dataset:
        assert dataset.shape == (32, 1024)


def interpolated(items: list[tuple[float, int]], value: float) -> float:
    """Alpha that QGIS gives a value between two points of a ramp."""
    return float(np.interp(value, [v for v, _ in items], [alpha for _, alpha in items]))


KINDS = [("unit", 0.5), ("unit", 0.9), ("distance", 5.87), ("far", 1e-3)]


@pytest.mark.parametrize("ramp", [ScoreRamp(kind, float(np.float32(limit))) for kind, limit in KINDS], ids=str)
def test_styles_are_clear_below_the_threshold_and_draw_every_polygon(ramp: ScoreRamp) -> None:
    root = ElementTree.fromstring(qml(ramp))
    shader = root.find("pipe/rasterrenderer[@type='singlebandpseudocolor']/rastershader/colorrampshader")
    assert shader is not None
    points = [(float(item.attrib["value"]), int(item.attrib["alpha"])) for item in shader.iter("item")]
    assert points == sorted(points)
    limit = np.float32(ramp.threshold)
    step = np.nextafter(limit, np.float32(np.inf if ramp.lower_is_anomalous else 0))
    assert interpolated(points, float(limit)) == pytest.approx(255, abs=1e-3)
    assert interpolated(points, float(step)) == 0
    renderer = root.find("renderer-v2[@type='graduatedSymbol'][@attr='score_max']")
    assert renderer is not None
    bounds = sorted((float(r.attrib["lower"]), float(r.attrib["upper"])) for r in renderer.iter("range"))
    assert all(upper == lower for (_, upper), (lower, _) in pairwise(bounds))
    low, high = bounds[0][0], bounds[-1][1]
    ends = {"unit": (ramp.threshold, 1), "distance": (ramp.threshold, 1e308), "far": (0, ramp.threshold)}
    assert (low, high) == pytest.approx(ends[ramp.kind])
    symbols = {symbol.attrib["name"] for symbol in renderer.iter("symbol") if "name" in symbol.attrib}
    assert {r.attrib["symbol"] for r in renderer.iter("range")} == symbols
    assert root.findtext("layerGeometryType") == "2"


def test_polygons_of_another_name_have_a_style_of_their_own(scene: Path, random_model: Path, tmp_path: Path) -> None:
    polygons = tmp_path / "out" / "other.geojson"
    report = run(scene, tmp_path / "out" / "map.tif", random_model, polygons=str(polygons), score="distance")
    assert [path.name for path in report.styles] == ["map.qml", "other.qml"]
    assert report.styles[0].read_bytes() == report.styles[1].read_bytes()
    limits = [float(r.attrib["lower"]) for r in ElementTree.parse(report.styles[1]).iter("range")]
    assert min(limits) <= gpd.read_file(polygons)["score_max"].min()


def checked(path: Path) -> dict[str, Any]:
    """The item, valid by the schemas of STAC itself, without the network."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    JsonSchemaSTACValidator().validate_core(found, pystac.STACObjectType.ITEM, found["stac_version"])
    return found


def test_the_item_describes_the_map(scene: Path, random_model: Path, tmp_path: Path) -> None:
    report = run(scene, tmp_path / "out" / "map.tif", random_model)
    assert report.stac is not None
    facts = checked(report.stac)
    item = pystac.Item.from_dict(facts)
    assert item.id == "map"
    assert facts["properties"]["datetime"] == "2023-07-05T10:20:31Z"
    assert facts["properties"]["asd:datetime_source"] == "TIFFTAG_DATETIME"
    for name, asset in item.assets.items():
        assert (report.stac.parent / re.sub("%20", " ", asset.href)).resolve().is_file(), name
    assert set(item.assets) == {"raster", "polygons", "quicklook", "style", "model"}
    projection = ProjectionExtension.ext(item)
    with open_raster(report.raster) as dataset:
        assert projection.code == "EPSG:25832"
        assert projection.shape == list(dataset.shape)
        assert Affine(*projection.transform) == dataset.transform
        assert projection.bbox == list(dataset.bounds)
        scores = dataset.read(1)
    bands = RasterExtension.ext(item.assets["raster"]).bands
    assert bands is not None
    assert (bands[0].data_type, bands[0].nodata, bands[0].spatial_resolution) == ("float32", "nan", 0.5)
    assert bands[0].statistics is not None
    assert bands[0].statistics.maximum == pytest.approx(np.nanmax(scores))
    model = MLMExtension.ext(item)
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]", model.mlm_name)
    assert model.input[0].bands == ["band 1", "band 2", "band 3"]
    assert item.assets["model"].roles == ["mlm:model"]
    assert facts["properties"]["processing:software"]["asd"]
    assert facts["properties"]["asd:threshold"] == pytest.approx(0.5)


@pytest.mark.parametrize("options", [{"crs": None}, {"crs": None, "transform": Affine.identity()}])
def test_an_item_without_a_place(
    random_model: Path, tmp_path: Path, make_scene: Make, make_texture: Callable[..., Any], options: dict[str, Any]
) -> None:
    path = make_scene(tmp_path / "a.tif", make_texture(1, 3, 30, 30).clip(1, 255).astype(np.uint8), **options)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    report = run(path, tmp_path / "out" / "map.tif", random_model, quicklook=None, style=False, write_polygons=False)
    assert report.stac is not None
    facts = checked(report.stac)
    assert facts["geometry"] is None
    assert "bbox" not in facts
    assert facts["properties"]["datetime"] == "2023-11-14T22:13:20Z"
    assert facts["properties"]["asd:datetime_source"] == "file modification time"
    assert facts["properties"]["proj:code"] is None
    assert set(facts["assets"]) == {"raster", "model"}


def test_an_item_across_the_antimeridian_of_a_scene_in_an_archive(
    random_model: Path, tmp_path: Path, make_scene: Make, make_texture: Callable[..., Any]
) -> None:
    place = {"crs": "EPSG:4326", "transform": Affine(1e-3, 0, 179.99, 0, -1e-3, -17)}
    path = make_scene(tmp_path / "a.tif", make_texture(1, 3, 30, 30).clip(1, 255).astype(np.uint8), **place)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "a.tif")
    inside = f"/vsizip/{tmp_path}/a.zip/a.tif"
    report = run(inside, tmp_path / "out" / "map.tif", random_model, quicklook=None)
    assert report.stac is not None
    facts = checked(report.stac)
    assert facts["geometry"]["type"] == "MultiPolygon"
    assert facts["bbox"] == pytest.approx([179.99, -17.03, -179.98, -17])
    assert facts["properties"]["datetime"] is None  # nobody knows: any time
    assert facts["properties"]["start_datetime"] < facts["properties"]["end_datetime"]


def test_the_origin_of_a_map_can_be_kept(scene: Path, random_model: Path) -> None:
    origin = Origin.of(str(scene), load_model(random_model), scene.parent)
    assert origin.acquired is not None
    assert Origin.from_json(json.loads(json.dumps(origin.to_json()))) == origin
