from __future__ import annotations

import html
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
from rasterio.enums import Resampling

from asd_cli.errors import AsdError
from asd_cli.options import PredictOptions, ReportOptions
from asd_cli.raster.gdal import open_raster
from asd_cli.workflows import report_scan
from asd_cli.workflows.predict import predict
from asd_cli.workflows.report import ReportSummary, make_report
from asd_cli.workflows.report_pictures import chip_window
from asd_cli.workflows.report_scan import scan_map

Make = Callable[..., Path]
EVIL = "<script>alert(1)<'\"&.tif"


@pytest.fixture(scope="module")
def mapped(
    tmp_path_factory: pytest.TempPathFactory,
    make_scene: Make,
    make_texture: Callable[..., Any],
    random_model: Path,
) -> Path:
    """A folder with a scene of 300 x 200 px, its map and polygons; the lower left is without data."""
    folder = tmp_path_factory.mktemp("mapped")
    values = make_texture(8, 3, 200, 300).clip(1, 255).astype(np.uint8)
    values[:, 150:, :60] = 0
    make_scene(folder / "scene.tif", values, nodata=0)
    for score in ("unit", "far", "distance"):
        out = str(folder / f"{score}.tif")
        predict(PredictOptions(scenes=(str(folder / "scene.tif"),), output=out, model=random_model, score=score))
    return folder


def report(raster: Path, tmp_path: Path, **options: Any) -> tuple[ReportSummary, str]:
    """The summary and the page."""
    summary = make_report(ReportOptions(raster=raster, output=tmp_path / "r.html", **options))
    return summary, summary.report.read_text(encoding="utf-8")


def refusal(**options: Any) -> str:
    with pytest.raises(AsdError) as caught:
        make_report(ReportOptions(**options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Balance(HTMLParser):
    """Counts elements, and checks that each is closed."""

    EMPTY = frozenset({"meta", "link", "img", "input", "path", "line", "rect"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def count(self, tag: str, kind: str | None = None) -> int:
        return sum(name == tag and (kind is None or kind in (at.get("class") or "").split()) for name, at in self.seen)


@pytest.mark.parametrize("score", ["unit", "far", "distance"])
def test_figures_are_those_of_the_map(mapped: Path, tmp_path: Path, score: str) -> None:
    summary, text = report(mapped / f"{score}.tif", tmp_path)
    with open_raster(mapped / f"{score}.tif") as dataset:
        scores, tags = dataset.read(1), dataset.tags()
    polygons = gpd.read_file(mapped / f"{score}.gpkg")
    limit = np.float32(tags["ASD_THRESHOLD"])
    anomalous = scores <= limit if score == "far" else scores >= limit
    assert (summary.valid_pixels, summary.anomalous_pixels) == (57_000, np.count_nonzero(anomalous))
    assert summary.expected_false_alarms == pytest.approx(57_000 * float(tags["ASD_FALSE_ALARM_RATE"]))
    assert (summary.polygon_count, summary.shown) == (len(polygons), 12)
    page = Balance(text)
    assert (page.count("button", "chip"), page.count("button", "pin")) == (12, 12)
    assert page.count("path", "outline") == 12 + 12 * 2 + 1  # on the map, on two pictures each, and all others
    assert all(at.get("alt") for tag, at in page.seen if tag == "img")
    best = polygons.sort_values("score_max", ascending=score == "far")["score_max"].iloc[0]
    assert f'data-words="Anomaly 1: score {best:.4g}, ' in text
    for value in (tags["ASD_MODEL_SHA256"], "57,000 of 60,000", f"{len(polygons):,}"):
        assert value in text
    assert scan_map(mapped / f"{score}.tif").counts.sum() == 57_000


def test_the_page_needs_nothing_else_and_is_reproducible(mapped: Path, tmp_path: Path) -> None:
    _, text = report(mapped / "unit.tif", tmp_path)
    sources = [at[name] or "" for _, at in Balance(text).seen for name in ("src", "href") if name in at]
    assert len(sources) > 20
    assert all(source.startswith("data:") for source in sources)
    assert re.findall(r"url\(|@import|https?://", text) == []
    assert report(mapped / "unit.tif", tmp_path, overwrite=True)[1] == text


def test_chips_lie_on_their_anomalies(mapped: Path, tmp_path: Path) -> None:
    """The place that the page names has the score that it names."""
    _, text = report(mapped / "unit.tif", tmp_path, top=5)
    places = re.findall(r'<span class="line small quiet">([\d.]+), ([\d.]+) \(EPSG:25832\)', text)
    scores = re.findall(r"Anomaly \d+: score ([\d.]+), ", text)
    polygons = gpd.read_file(mapped / "unit.gpkg").set_index("id")
    assert len(places) == len(scores) == 5
    points = gpd.GeoSeries.from_xy(*zip(*[(float(x), float(y)) for x, y in places], strict=True), crs=polygons.crs)
    for point, score in zip(points, scores, strict=True):
        inside = polygons[polygons.contains(point)]
        assert inside["score_max"].round(4).tolist() == pytest.approx([float(score)], abs=1e-4)


def test_markup_in_names_stays_text(mapped: Path, tmp_path: Path) -> None:
    name = EVIL.replace("/", "")
    scene = tmp_path / name
    shutil.copy(mapped / "scene.tif", scene)
    raster = tmp_path / f"map {name}"
    shutil.copy(mapped / "unit.tif", raster)
    shutil.copy(mapped / "unit.gpkg", raster.with_suffix(".gpkg"))
    with open_raster(raster, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
        tags = dict.fromkeys(
            ("ASD_MODEL", "ASD_NORMAL", "ASD_COMMAND", "ASD_METHOD"), "</table><img src=x onerror=alert(1)>"
        )
        dataset.update_tags(ASD_SCENE=name, **tags)
    summary, text = report(raster, tmp_path)
    assert summary.scene == str(scene)
    page = Balance(text)
    assert page.count("script") == 1
    assert not any("onerror" in at or at.get("src") == "x" for _, at in page.seen)
    assert html.escape(name, quote=False).split("'")[0] in text
    assert "alert(1)" in html.unescape(text)


def test_without_scene_and_polygons_the_page_says_so(mapped: Path, tmp_path: Path) -> None:
    raster = tmp_path / "alone.tif"
    shutil.copy(mapped / "unit.tif", raster)
    summary, text = report(raster, tmp_path)
    assert (summary.scene, summary.polygons, summary.polygon_count, summary.shown) == (None, None, None, 0)
    assert "There are no polygons beside the map" in text
    assert "The scene was not found beside the map" in text
    assert Balance(text).count("button", "chip") == 0
    given = {"scene": str(mapped / "scene.tif"), "polygons": mapped / "far.gpkg", "overwrite": True}
    summary, text = report(raster, tmp_path, bands=(2,), top=3, **given)
    assert (summary.scene, summary.polygons, summary.shown) == (given["scene"], given["polygons"], 3)


def test_a_scene_that_has_changed_is_left_out_with_a_warning(
    mapped: Path, tmp_path: Path, make_scene: Make, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(mapped / "unit.tif", tmp_path / "unit.tif")
    scene = make_scene(tmp_path / "scene.tif", np.ones((3, 20, 20), np.uint8))
    summary, _ = report(tmp_path / "unit.tif", tmp_path)
    assert summary.scene is None
    text = f"{scene}: does not lie on the map's pixels; give the scene that the map was made from"
    assert text in caplog.text
    found = refusal(raster=tmp_path / "unit.tif", output=tmp_path / "s.html", scene=str(scene))
    assert found == text
    assert not (tmp_path / "s.html").exists()


def test_anomalies_where_the_scene_is_damaged_are_shown_without_it(
    mapped: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The overview is read from the reduced levels, which are whole."""
    monkeypatch.setattr(report_scan, "MAP_SIDE", 150)
    scene = tmp_path / "damaged.tif"
    with open_raster(mapped / "scene.tif") as dataset:
        profile, pixels = dataset.profile, dataset.read()
    profile |= {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate", "interleave": "pixel"}
    with open_raster(scene, "w", **profile) as dataset:
        dataset.write(pixels)
        dataset.build_overviews([2], Resampling.average)
    with open_raster(scene) as dataset:
        place, size = (int(dataset.get_tag_item(f"BLOCK_{what}_1_1", "TIFF", bidx=1)) for what in ("OFFSET", "SIZE"))
    with scene.open("r+b") as file:
        file.seek(place)
        file.write(b"\xff" * size)
    summary, text = report(mapped / "unit.tif", tmp_path, scene=str(scene), top=50)
    chips = re.findall(r'alt="Scene around anomaly', text)
    assert 0 < len(chips) < summary.shown
    assert len(caplog.messages) == summary.shown - len(chips)
    assert caplog.messages[0].startswith(f"{scene}: cannot be read (")


def test_nothing_anomalous_and_nothing_valid(
    tmp_path: Path, make_scene: Make, make_texture: Callable[..., Any], random_model: Path
) -> None:
    values = make_texture(1, 3, 30, 40).clip(1, 255).astype(np.uint8)
    for name, nodata, pixels in (("none", None, values), ("empty", 0, values * 0)):
        scene = make_scene(tmp_path / f"{name}_scene.tif", pixels, nodata=nodata)
        out = tmp_path / f"{name}.tif"
        predict(PredictOptions(scenes=(str(scene),), output=str(out), model=random_model, threshold=0.9999))
        summary, text = report(out, tmp_path, overwrite=True)
        assert (summary.anomalous_pixels, summary.polygon_count, summary.shown) == (0, 0, 0)
        assert summary.valid_pixels == (0 if name == "empty" else 1200)
        assert "No polygon: nothing lies above the threshold." in text
        Balance(text)


def test_what_cannot_be_reported(mapped: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    assert refusal(raster=tmp_path / "no.tif", output=out) == f"{tmp_path / 'no.tif'}: no such file; check the path"
    scene = mapped / "scene.tif"
    assert refusal(raster=scene, output=out).startswith(f"{scene}: is no score map of asd (tags ASD_SCORE")
    assert refusal(raster=mapped / "unit.tif", output=tmp_path / "r.pdf").endswith(
        "a report is a web page; name it .html"
    )
    out.touch()
    assert "exists already" in refusal(raster=mapped / "unit.tif", output=out)
    missing = tmp_path / "no.gpkg"
    text = refusal(raster=mapped / "unit.tif", output=out, overwrite=True, polygons=missing)
    assert text.startswith(f"{missing}: the polygons cannot be read")
    text = refusal(raster=mapped / "unit.tif", output=out, overwrite=True, bands=(1, 2))
    assert text == "--bands: 2 bands make no picture; give one or three"
    text = refusal(raster=mapped / "unit.tif", output=out, overwrite=True, bands=(1, 2, 9))
    assert "no band 9" in text
    assert out.read_bytes() == b""


def test_a_map_with_an_odd_threshold_is_refused(mapped: Path, tmp_path: Path) -> None:
    for number, tags in enumerate(({"ASD_THRESHOLD": "nan"}, {"ASD_THRESHOLD": "1"}, {"ASD_SCORE": "colour"})):
        raster = tmp_path / f"{number}.tif"
        shutil.copy(mapped / "unit.tif", raster)
        with open_raster(raster, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
            dataset.update_tags(**tags)
        assert "is no score map of asd" in refusal(raster=raster, output=tmp_path / "r.html")


@pytest.mark.parametrize(
    ("bounds", "shape", "expected"),
    [
        ((10, 10, 12, 12), (200, 300), (0, 0, 64, 64)),
        ((150, 100, 152, 102), (200, 300), (69, 119, 64, 64)),
        ((298, 198, 300, 200), (200, 300), (136, 236, 64, 64)),
        ((0, 0, 300, 200), (200, 300), (0, 0, 200, 300)),
        ((100, 50, 200, 150), (200, 300), (20, 70, 160, 160)),
        ((0, 0, 1, 1), (5, 1000), (0, 0, 5, 64)),
    ],
)
def test_chips_stay_inside(bounds: Any, shape: Any, expected: tuple[int, ...]) -> None:
    window = chip_window(bounds, shape)
    assert (window.row, window.col, window.height, window.width) == expected
