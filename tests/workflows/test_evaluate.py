from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score, roc_auc_score

from asd_cli.density.calibration import Calibration
from asd_cli.errors import AsdError, InputError, LabelError, OutputError, RasterError
from asd_cli.options import EvaluateOptions, PredictOptions, TileOptions
from asd_cli.raster.gdal import open_raster
from asd_cli.workflows.evaluate import evaluate
from asd_cli.workflows.figures import Direction, EvaluateReport, Figures
from asd_cli.workflows.predict import predict

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics.npz"
UTM = CRS.from_epsg(25832)
PLACE = Affine(0.5, 0, 400_000, 0, -0.5, 5_600_000)
SHAPE = (70, 90)
TAGS = {"ASD_SCORE": "unit", "ASD_THRESHOLD": "0.5", "ASD_NORMAL": "forest"}
DISTANCE = TAGS | {"ASD_SCORE": "distance"}


def write(path: Path, values: NDArray[Any], tags: dict[str, str] | None = None, **options: Any) -> str:
    """(H, W) or (C, H, W) as a GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = values if values.ndim == 3 else values[None]
    given = {"crs": UTM, "transform": PLACE, "driver": "GTiff", "count": len(bands), "dtype": bands.dtype}
    with open_raster(path, "w", height=bands.shape[1], width=bands.shape[2], **{**given, **options}) as dataset:
        dataset.write(bands)
        dataset.update_tags(**(tags or {}))
    return str(path)


def drawn(seed: int = 0, shape: tuple[int, int] = SHAPE) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Distances and a truth of 0 (normal), 1 and 2; anomalous pixels tend to be further away."""
    random = np.random.default_rng(seed)
    truth = np.kron(random.choice(3, (8, 10), p=[0.8, 0.15, 0.05]), np.ones((9, 9), int)).astype(np.uint8)
    truth = truth[: shape[0], : shape[1]]
    return (random.gamma(3.0, 1.0, shape) + truth).astype(np.float32), truth


def box(c0: int, r0: int, c1: int, r1: int, at: Affine = PLACE) -> Any:
    """Columns and rows as a box on the map."""
    return shapely.box(at.c + c0 * at.a, at.f + r1 * at.e, at.c + c1 * at.a, at.f + r0 * at.e)


def run(*tiles: str, labels: str | None = None, normal: tuple[str, ...] = (), **options: Any) -> EvaluateReport:
    names = {"label_field", "ignore_label", "bands", "nodata"} & set(options)
    given = TileOptions(tiles=tiles, labels=labels, normal=normal, **{name: options.pop(name) for name in names})
    return evaluate(EvaluateOptions(tiles=given, **options))


def assert_figures(row: Figures, score: NDArray[Any], anomalous: NDArray[np.bool_], threshold: float) -> None:
    """Against scikit-learn; `score` higher = more anomalous."""
    called = score >= threshold
    assert (row.pixels, row.anomalous) == (score.size, int(anomalous.sum()))
    assert row.auc == pytest.approx(roc_auc_score(anomalous, score), abs=1e-12)
    assert row.average_precision == pytest.approx(average_precision_score(anomalous, score), abs=1e-12)
    assert row.calibrated["f1"] == pytest.approx(f1_score(anomalous, called))
    assert row.calibrated["precision"] == pytest.approx(precision_score(anomalous, called))
    assert row.calibrated["recall"] == pytest.approx(recall_score(anomalous, called))
    both = [np.sum(called & anomalous) / np.sum(called | anomalous), np.sum(~called & ~anomalous)]
    both[1] /= np.sum(~called | ~anomalous)
    assert row.calibrated["miou"] == pytest.approx(np.mean(both))
    assert row.calibrated["false_alarm_rate"] == pytest.approx(called[~anomalous].mean())


@pytest.fixture
def distances(tmp_path: Path) -> tuple[str, str, NDArray[np.float32], NDArray[np.uint8]]:
    """A score raster of distances with a nodata corner and an unlabelled strip, its truth raster, and both arrays."""
    score, truth = drawn()
    holes = score.copy()
    holes[:20, :15] = np.nan
    truth[:, -3:] = 255
    raster = write(
        tmp_path / "anomaly.tif", holes, {**TAGS, "ASD_SCORE": "distance", "ASD_THRESHOLD": "5.5"}, nodata=np.nan
    )
    labels = write(tmp_path / "truth.tif", truth, nodata=255)
    return raster, labels, holes, truth


def test_figures_equal_scikit_learn(distances: tuple[str, str, NDArray[np.float32], NDArray[np.uint8]]) -> None:
    raster, labels, score, truth = distances
    report = run(raster, labels=labels, normal=("0",))
    known = ~np.isnan(score) & (truth != 255)
    assert report.exact
    assert report.normal == ("0",)
    assert report.tiles == ()
    assert_figures(report.pooled, score[known], truth[known] > 0, 5.5)
    assert [row.name for row in report.classes] == ["1", "2"]
    for row, code in zip(report.classes, (1, 2), strict=True):
        chosen = known & np.isin(truth, (0, code))
        assert_figures(row, score[chosen], truth[chosen] == code, 5.5)
    ignored = run(raster, labels=labels, normal=("0",), ignore_label=("2",))
    chosen = known & (truth < 2)
    assert_figures(ignored.pooled, score[chosen], truth[chosen] == 1, 5.5)
    assert len(ignored.classes) == 1


def test_distances_unit_scores_and_false_alarm_rates_agree(tmp_path: Path) -> None:
    score, truth = drawn(1)
    calibration = Calibration.fit(np.random.default_rng(2).gamma(3.0, 1.0, 50_000), 0.01)
    at = np.array([calibration.threshold])
    written = {
        "distance": (score, calibration.threshold),
        "unit": (calibration.score(score), float(calibration.score(at)[0])),
        "far": (calibration.rate(score).astype(np.float32), float(np.float32(calibration.rate(at)[0]))),
    }
    labels = write(tmp_path / "truth.tif", truth)
    reports = {}
    for kind, (values, threshold) in written.items():
        raster = write(tmp_path / f"{kind}.tif", values, {**TAGS, "ASD_SCORE": kind, "ASD_THRESHOLD": repr(threshold)})
        reports[kind] = run(raster, labels=labels, normal=("0",))
        assert reports[kind].pooled.calibrated_threshold == threshold
    first = reports["distance"].pooled
    for kind, report in reports.items():
        assert report.pooled.auc == pytest.approx(first.auc, abs=1e-5), kind
        assert report.pooled.average_precision == pytest.approx(first.average_precision, abs=1e-5), kind
        assert report.pooled.calibrated == first.calibrated, kind
        assert report.pooled.oracle == pytest.approx(first.oracle, abs=1e-3), kind
    best = np.array([first.oracle_threshold])
    assert reports["unit"].pooled.oracle_threshold == pytest.approx(calibration.score(best)[0], rel=1e-3)
    assert reports["far"].pooled.oracle_threshold == pytest.approx(calibration.rate(best)[0], rel=1e-2)


def test_turned_rates_keep_every_difference() -> None:
    rates = np.array([0, 1e-45, 1e-40, 1.2e-38, 1e-7, 0.1, np.nextafter(np.float32(1), np.float32(0)), 1], np.float32)
    up = Direction(lower_is_anomalous=True).upwards(rates)
    assert (np.diff(up) < 0).all()
    assert up.min() == 0
    assert up.max() == 1
    direction = Direction(lower_is_anomalous=True)
    assert [direction.as_written(float(value)) for value in up] == pytest.approx(rates.tolist(), rel=0, abs=0)
    assert direction.as_written(float("inf")) == 0
    assert np.isnan(direction.upwards(np.array([np.nan], np.float32))).all()


def golden_rasters(folder: Path) -> tuple[list[str], dict[str, NDArray[Any]]]:
    """The golden scores, raised to begin at 0 as distances do, and their labels, as rasters."""
    golden = dict(np.load(GOLDEN))
    lowest = golden["score"].min()
    golden["score"] = (golden["score"] - lowest).astype(np.float32)
    golden["threshold_upper_left"] = golden["threshold_upper_left"] - lowest
    paths = []
    for place, (score, label) in enumerate(zip(golden["score"], golden["label"], strict=True)):
        paths.append(write(folder / "maps" / f"{place}_anomaly.tif", score, DISTANCE))
        write(folder / "truth" / f"{place}.tif", label)
    return paths, golden


@pytest.mark.parametrize("declared", [False, True])
def test_golden_numbers_through_the_whole_command(tmp_path: Path, declared: bool) -> None:
    paths, golden = golden_rasters(tmp_path)
    if declared:
        for path in (tmp_path / "truth").iterdir():
            with open_raster(path, "r+") as dataset:
                dataset.nodata = 255
    ignore = () if declared else ("255",)
    labels = str(tmp_path / "truth")
    report = run(str(tmp_path / "maps"), labels=labels, normal=("0",), ignore_label=ignore)
    assert report.pooled.auc == pytest.approx(float(golden["auc"]), abs=1e-6)
    assert report.pooled.oracle["miou"] == pytest.approx(float(golden["miou"]), abs=1e-6)
    assert report.pooled.oracle["recall"] == pytest.approx(float(golden["tpr"]), abs=1e-6)
    assert report.pooled.oracle["false_alarm_rate"] == pytest.approx(float(golden["fpr"]), abs=1e-6)
    assert report.pooled.oracle_threshold == pytest.approx(float(golden["threshold_upper_left"]), rel=1e-6)
    assert [row.name for row in report.tiles] == [Path(path).name for path in paths]
    for row, score, label in zip(report.tiles, golden["score"], golden["label"], strict=True):
        known = label != 255
        assert_figures(row, score[known], label[known] == 1, 0.5)
    defaulted = run(*paths, labels=labels, ignore_label=ignore) if declared else report
    assert defaulted == report  # 0 is the normal one of a mask of 0 and 1


def test_binned_figures_are_within_a_bin_of_the_exact_ones(tmp_path: Path) -> None:
    _, golden = golden_rasters(tmp_path)
    given: dict[str, Any] = {"labels": str(tmp_path / "truth"), "normal": ("0",), "ignore_label": ("255",)}
    exact = run(str(tmp_path / "maps"), **given)
    binned = run(str(tmp_path / "maps"), **given, exact_limit=1000)
    assert exact.exact
    assert not binned.exact
    assert "bins of 2^-12" in binned.table()
    assert binned.pooled.calibrated == exact.pooled.calibrated  # 0.5 is the edge of a bin
    known = golden["label"] != 255
    score, truth = golden["score"][known], golden["label"][known] == 1
    low = (score.view(np.uint32) >> 11 << 11).view(np.float32)
    assert_figures(binned.pooled, low, truth, 0.5)
    assert binned.pooled.auc == pytest.approx(exact.pooled.auc, abs=1e-3)
    assert binned.pooled.oracle_threshold == pytest.approx(exact.pooled.oracle_threshold, rel=2e-3)


@pytest.mark.parametrize("crs", ["EPSG:25832", "EPSG:4326", "EPSG:3857"])
def test_truth_polygons_in_any_crs(tmp_path: Path, crs: str) -> None:
    score, _ = drawn(3)
    raster = write(tmp_path / "anomaly.tif", score, DISTANCE)
    boxes = [(10, 5, 30, 25, "road"), (50, 40, 81, 60, "house")]
    kinds = [kind for *_, kind in boxes]
    shapes = [box(c0, r0, c1, r1) for c0, r0, c1, r1, _ in boxes]
    frame = geopandas.GeoDataFrame({"kind": kinds}, geometry=shapes, crs=UTM).to_crs(crs)
    frame.to_file(tmp_path / "truth.gpkg")
    report = run(raster, labels=str(tmp_path / "truth.gpkg"), label_field="kind")
    truth = np.zeros(SHAPE, np.uint8)
    for code, (c0, r0, c1, r1, _) in enumerate(boxes, start=1):
        truth[r0:r1, c0:c1] = code
    assert report.normal == ("unlabelled",)
    assert [(row.name, row.anomalous) for row in report.classes] == [("house", 31 * 20), ("road", 20 * 20)]
    assert_figures(report.pooled, score.ravel(), truth.ravel() > 0, 0.5)
    other = run(raster, labels=str(tmp_path / "truth.gpkg"), normal=("road",))
    assert (other.pooled.pixels, other.pooled.anomalous) == (31 * 20 + 20 * 20, 31 * 20)


def test_without_anomalous_or_without_normal_pixels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    score, _ = drawn()
    raster = write(tmp_path / "anomaly.tif", score / 20, TAGS)
    labels = write(tmp_path / "truth.tif", np.zeros(SHAPE, np.uint8))
    report = run(raster, labels=labels, plots=tmp_path / "plots", csv=tmp_path / "a.csv")
    assert np.isnan([report.pooled.auc, report.pooled.average_precision, report.pooled.oracle_threshold]).all()
    assert report.pooled.calibrated["false_alarm_rate"] == np.mean(score / np.float32(20) >= 0.5)
    assert report.table().splitlines()[1].split()[:4] == ["pooled", "0%", "-", "-"]
    assert not (tmp_path / "plots").exists()
    assert (tmp_path / "a.csv").exists()
    assert caplog.messages == ["no plots are drawn: no scored pixel is anomalous in the truth"]
    labels = write(tmp_path / "ones.tif", np.ones(SHAPE, np.uint8))
    with pytest.raises(LabelError, match=r"^say which class of the truth is normal with --normal; found: 1$"):
        run(raster, labels=labels)


def test_no_pixel_with_score_and_label(tmp_path: Path) -> None:
    score, truth = drawn()
    score[:, 10:] = np.nan
    truth[:, :10] = 255
    raster = write(tmp_path / "anomaly.tif", score / 20, TAGS)
    with pytest.raises(InputError, match=r"^no pixel has both a score and a label; check --labels"):
        run(raster, labels=write(tmp_path / "truth.tif", truth, nodata=255), normal=("0",))


def test_default_normal_class_is_the_maps_own(tmp_path: Path) -> None:
    score, truth = drawn()
    (tmp_path / "classes.csv").write_text("0,snow\n1,forest\n2,track\n")
    labels = write(tmp_path / "truth.tif", truth)
    raster = write(tmp_path / "anomaly.tif", score / 20, TAGS)
    report = run(raster, labels=labels)
    assert report.normal == ("forest",)
    assert [row.name for row in report.classes] == ["snow", "track"]
    other = write(tmp_path / "other.tif", score / 20, TAGS | {"ASD_NORMAL": "meadow"})
    with pytest.raises(LabelError, match=r"is normal with --normal; found: snow, forest, track$"):
        run(other, labels=labels)
    both = write(tmp_path / "both.tif", score / 20, TAGS | {"ASD_NORMAL": "meadow,Snow,forest"})
    assert run(both, labels=labels).normal == ("snow", "forest")


def test_default_normal_class_of_colour_labels(tmp_path: Path) -> None:
    score, truth = drawn()
    colours = np.array([(0, 0, 0), (255, 0, 0), (0, 0, 255)], np.uint8)
    labels = write(tmp_path / "truth.tif", colours[truth].transpose(2, 0, 1), photometric="RGB")
    one = write(tmp_path / "one.tif", score / 20, TAGS | {"ASD_NORMAL": "0,0,0"})
    two = write(tmp_path / "two.tif", score / 20, TAGS | {"ASD_NORMAL": "0,0,0,0,0,255"})
    none = write(tmp_path / "none.tif", score / 20, TAGS)
    assert run(one, labels=labels).normal == ("0,0,0",)
    report = run(two, labels=labels)
    assert report.normal == ("0,0,0", "0,0,255")
    assert "normal: 0,0,0; 0,0,255; at the" in report.table()
    with pytest.raises(LabelError, match=r"with --normal; found: 0,0,0; 0,0,255; 255,0,0$"):
        run(none, labels=labels)


def test_many_classes_show_the_twenty_largest(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    truth = np.zeros((100, 100), np.uint8)
    rows = np.sort(random.choice(np.arange(1, 200), (40, 100), p=np.arange(199, 0, -1) / (199 * 100)), axis=None)
    truth[60:] = rows.reshape(40, 100)
    score = random.random((100, 100), np.float32)
    raster, labels = write(tmp_path / "anomaly.tif", score, TAGS), write(tmp_path / "truth.tif", truth)
    report = run(raster, labels=labels, normal=("0",))
    codes, sizes = np.unique(truth[truth > 0], return_counts=True)
    largest = sorted(zip(-sizes, codes.astype(str), strict=True))[:20]
    assert [(row.name, row.anomalous) for row in report.classes] == [(name, -size) for size, name in largest]
    assert report.classes_left_out == len(codes) - 20
    assert f"{len(codes) - 20} smaller classes have no row" in report.table()
    assert_figures(report.pooled, score.ravel(), truth.ravel() > 0, 0.5)


def test_codes_of_one_name_are_one_class(tmp_path: Path) -> None:
    score, truth = drawn()
    (tmp_path / "classes.csv").write_text("0,forest\n1,other\n2,other\n")
    raster = write(tmp_path / "anomaly.tif", score / 20, TAGS)
    report = run(raster, labels=write(tmp_path / "truth.tif", truth))
    assert [(row.name, row.anomalous) for row in report.classes] == [("other", np.count_nonzero(truth))]


def test_truth_of_another_size_and_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    score, truth = drawn()
    raster = write(tmp_path / "anomaly.tif", score, DISTANCE)
    labels = write(tmp_path / "small.tif", truth[:60])
    with pytest.raises(LabelError, match=r"small\.tif is 90 x 60 px, but its image \S*anomaly\.tif is 90 x 70 px;"):
        run(raster, labels=labels, normal=("0",))
    wide = np.pad(truth, ((0, 0), (0, 3)))
    report = run(raster, labels=write(tmp_path / "wide.tif", wide), normal=("0",))
    assert_figures(report.pooled, score.ravel(), truth.ravel() > 0, 0.5)
    assert len(caplog.messages) == 1
    assert "wide.tif is 93 x 70 px" in caplog.text
    assert "cropped" in caplog.text
    moved = write(tmp_path / "moved.tif", truth, transform=Affine(0.5, 0, 400_001, 0, -0.5, 5_600_000))
    with pytest.raises(LabelError, match=r"moved\.tif lies 2 px off the grid of its image"):
        run(raster, labels=moved, normal=("0",))


def test_rasters_that_cannot_be_evaluated(tmp_path: Path) -> None:
    score, truth = drawn()
    labels = write(tmp_path / "truth.tif", truth)
    good = write(tmp_path / "maps" / "a.tif", score / 20, TAGS)
    with pytest.raises(LabelError, match=r"a\.tif: has no labels to compare with; give the truth with --labels$"):
        run(good)
    with pytest.raises(InputError, match=r"--false-alarm-rate: a score raster has its threshold in its tags; give a"):
        run(good, labels=labels, normal=("0",), false_alarm_rate=0.01)
    plain = write(tmp_path / "plain.tif", score)
    with pytest.raises(RasterError, match=r"plain\.tif: is no score raster of asd predict; for images give a model"):
        run(plain, labels=labels, normal=("0",))
    write(tmp_path / "maps" / "b.tif", score, TAGS | {"ASD_SCORE": "distance", "ASD_THRESHOLD": "4.5"})
    write(tmp_path / "truths" / "a.tif", truth)
    write(tmp_path / "truths" / "b.tif", truth)
    both = r"b\.tif: holds scores of kind distance with threshold 4.5, but \S*a\.tif of kind unit with threshold 0.5;"
    with pytest.raises(RasterError, match=both):
        run(str(tmp_path / "maps"), labels=str(tmp_path / "truths"), normal=("0",))
    odd = write(tmp_path / "odd.tif", score, TAGS | {"ASD_THRESHOLD": "np.float32(0.5)"})
    with pytest.raises(RasterError, match=r"odd\.tif: its tags ASD_SCORE=unit and ASD_THRESHOLD=.* make no sense"):
        run(odd, labels=labels, normal=("0",))
    stack = write(tmp_path / "stack.tif", np.stack([score, score]) / 20, TAGS)
    with pytest.raises(RasterError, match=r"stack\.tif: 2 bands, a score raster has one; for images give a model"):
        run(stack, labels=labels, normal=("0",))
    assert run(stack, labels=labels, normal=("0",), bands=(2,)) == run(good, labels=labels, normal=("0",))
    torn = tmp_path / "torn.tif"
    torn.write_bytes(Path(good).read_bytes()[:300])
    with pytest.raises(AsdError, match=r"torn\.tif: "):
        run(str(torn), labels=labels, normal=("0",))


def test_values_that_are_no_scores(tmp_path: Path) -> None:
    score, truth = drawn()
    labels = write(tmp_path / "truth.tif", truth)
    score[:5, :5] = -9999
    raster = write(tmp_path / "anomaly.tif", score, DISTANCE)
    message = r"anomaly\.tif: holds -9999, but a score of kind distance is 0 or more; .* add --nodata -9999$"
    with pytest.raises(RasterError, match=message):
        run(raster, labels=labels, normal=("0",))
    report = run(raster, labels=labels, normal=("0",), nodata=-9999.0)
    assert_figures(report.pooled, score[score >= 0], truth[score >= 0] > 0, 0.5)
    unit = write(tmp_path / "unit.tif", np.abs(score), TAGS)
    with pytest.raises(RasterError, match=r"but a score of kind unit is 0 to 1; predict it again$"):
        run(unit, labels=labels, normal=("0",))


def test_reports_as_table_csv_json_and_plots(
    distances: tuple[str, str, NDArray[np.float32], NDArray[np.uint8]], tmp_path: Path
) -> None:
    raster, labels, _, _ = distances
    plots, table = tmp_path / "new" / "plots", tmp_path / "figures.csv"
    report = run(raster, labels=labels, normal=("0",), csv=table, plots=plots)
    lines = report.table().splitlines()
    assert " ".join(lines[0].split()) == "anomalous AUC AP mIoU F1 prec. recall FAR mIoU* F1* prec.* recall*"
    assert [line.split()[0] for line in lines[1:4]] == ["pooled", "class", "class"]
    assert f"{report.pooled.auc:.3f}" in lines[1]
    assert "normal: 0; at the calibrated threshold 5.5; * oracle" in lines[4]
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["name"]) for row in rows] == [("pooled", "pooled"), ("class", "1"), ("class", "2")]
    assert float(rows[0]["auc"]) == report.pooled.auc
    assert float(rows[2]["calibrated_f1"]) == report.classes[1].calibrated["f1"]
    assert {"pixels", "anomalous", "average_precision", "oracle_threshold", "oracle_miou"} <= set(rows[0])
    data = json.loads(json.dumps(report.as_json()))
    assert data["pooled"]["calibrated"]["miou"] == report.pooled.calibrated["miou"]
    assert sorted(path.name for path in plots.iterdir()) == ["precision_recall.png", "roc.png"]
    for path in plots.iterdir():
        with open_raster(path) as image:
            assert image.width == image.height == 750
            assert np.ptp(image.read(1)) > 200


def test_existing_targets_are_refused_before_any_work(
    distances: tuple[str, str, NDArray[np.float32], NDArray[np.uint8]], tmp_path: Path
) -> None:
    raster, labels, _, _ = distances
    (tmp_path / "old").mkdir()
    for name in ("roc.png", "figures.csv"):
        (tmp_path / "old" / name).write_text("old")
    given: dict[str, Any] = {"labels": labels, "normal": ("0",)}
    table, plots = tmp_path / "old" / "figures.csv", tmp_path / "old"
    with pytest.raises(OutputError, match=r"figures\.csv: exists already; .* --overwrite"):
        run("nowhere.tif", **given, csv=table)
    with pytest.raises(OutputError, match=r"roc\.png: exists already; .* --overwrite"):
        run("nowhere.tif", **given, plots=plots)
    with pytest.raises(OutputError, match=r"^--plots \S*figures\.csv/a: \S*figures\.csv is a file; name a folder$"):
        run("nowhere.tif", **given, plots=table / "a")
    assert {path.name for path in plots.iterdir()} == {"roc.png", "figures.csv"}
    run(raster, **given, csv=table, plots=plots, overwrite=True)
    assert {path.name for path in plots.iterdir()} == {"roc.png", "figures.csv", "precision_recall.png"}
    assert table.read_text().startswith("kind,")


def test_failed_write_leaves_nothing(
    distances: tuple[str, str, NDArray[np.float32], NDArray[np.uint8]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raster, labels, _, _ = distances

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "plots" / "roc.png"))

    monkeypatch.setattr("asd_cli.workflows.evaluate.plot_curves", full)
    with pytest.raises(OutputError, match=r"roc\.png: cannot be written \(No space left on device\)"):
        run(raster, labels=labels, normal=("0",), csv=tmp_path / "a.csv", plots=tmp_path / "plots")
    assert not (tmp_path / "a.csv").exists()
    assert list((tmp_path / "plots").iterdir()) == []


def test_progress_counts_pixels(distances: tuple[str, str, NDArray[np.float32], NDArray[np.uint8]]) -> None:
    raster, labels, _, _ = distances
    seen: list[tuple[int, int]] = []
    tiles = TileOptions(tiles=(raster,), labels=labels, normal=("0",))
    evaluate(EvaluateOptions(tiles=tiles), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(SHAPE[0] * SHAPE[1],) * 2]


def test_tiles_of_one_name_are_told_apart(tmp_path: Path) -> None:
    score, truth = drawn()
    for folder in "ab":
        write(tmp_path / folder / "1.tif", score / 20, TAGS)
        write(tmp_path / folder / "1_label.tif", truth)
    report = run(str(tmp_path / "a"), str(tmp_path / "b"), normal=("0",))
    assert [Path(row.name).parent.name for row in report.tiles] == ["a", "b"]


@pytest.mark.parametrize(("kind", "rate"), [("distance", None), ("unit", None), ("far", None), ("distance", 0.05)])
def test_model_on_tiles_equals_its_maps(
    kind: str, rate: float | None, tiny_model: Path, tiny_tiles: Path, tmp_path: Path
) -> None:
    direct = run(str(tiny_tiles), model=tiny_model, device="cpu", false_alarm_rate=rate)
    maps = tmp_path / "maps"
    maps.mkdir()
    scenes = tuple(str(path) for path in sorted((tiny_tiles / "images").glob("*.tif")))
    predict(
        PredictOptions(
            scenes=scenes,
            output=str(maps),
            model=tiny_model,
            score=kind,  # type: ignore[arg-type]
            false_alarm_rate=rate,
            write_polygons=False,
            device="cpu",
        )
    )
    mapped = run(str(maps), labels=str(tiny_tiles / "labels"))
    assert direct.normal == mapped.normal == ("forest",)
    assert [row.name for row in direct.classes] == ["water"]
    assert len(direct.tiles) == 4
    exact = kind == "distance"
    for (_, mine), (_, theirs) in zip(direct.rows(), mapped.rows(), strict=True):
        assert (mine.pixels, mine.anomalous) == (theirs.pixels, theirs.anomalous)
        assert theirs.auc == pytest.approx(mine.auc, abs=0 if exact else 1e-4)
        assert theirs.calibrated == pytest.approx(mine.calibrated, abs=0 if exact else 1e-3)
        assert theirs.oracle == pytest.approx(mine.oracle, abs=0 if exact else 2e-2)
    usual = run(str(tiny_tiles), model=tiny_model, device="cpu").pooled.calibrated["false_alarm_rate"]
    assert (direct.pooled.calibrated["false_alarm_rate"] > usual) == (rate is not None)


def test_model_on_tiles_it_does_not_fit(
    tiny_model: Path, tiny_tiles: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    images = str(tiny_tiles / "images")
    score, truth = drawn()
    grey = write(tmp_path / "grey" / "a.tif", score)
    write(tmp_path / "grey" / "a_label.tif", truth)
    with pytest.raises(RasterError, match=r"a\.tif: 1 band, but the model was trained on 3 .*--bands"):
        run(grey, model=tiny_model, normal=("0",))
    with pytest.raises(LabelError, match=r"is normal with --normal; found: 0, 1, 2$"):
        run(grey, model=tiny_model)
    alone = tmp_path / "alone"
    alone.mkdir()
    for path in Path(images).iterdir():
        (alone / path.name).write_bytes(path.read_bytes())
    with pytest.raises(LabelError, match=r"alone/tile_0\.tif: has no labels to compare with; give them with --labels$"):
        run(str(alone), model=tiny_model)
    with pytest.raises(InputError, match=r"^--device gpu: not a device; use auto, cpu, cuda, cuda:N or mps$"):
        run(str(tiny_tiles), model=tiny_model, device="gpu")


def test_model_on_tiles_with_anomalies_as_polygons(tiny_model: Path, tiny_tiles: Path, tmp_path: Path) -> None:
    image = tiny_tiles / "images" / "tile_0.tif"
    with rasterio.open(image) as dataset:
        lake = box(60, 72, 96, 96, dataset.transform)
    frame = geopandas.GeoDataFrame({"name": ["lake"]}, geometry=[lake], crs=UTM).to_crs("EPSG:4326")
    frame.to_file(tmp_path / "lake.geojson")
    mine = run(str(image), model=tiny_model, labels=str(tmp_path / "lake.geojson"))
    theirs = run(str(image), model=tiny_model, labels=str(tiny_tiles / "labels" / "tile_0.tif"))
    assert mine.normal == ("unlabelled",)
    assert [row.name for row in mine.classes] == ["lake"]
    assert mine.pooled.auc == theirs.pooled.auc


def test_bands_of_the_training_are_taken_where_tiles_have_as_many(
    tiny_tiles: Path, tmp_path: Path, tiny_model: Path
) -> None:
    four = tmp_path / "four"
    for path in sorted((tiny_tiles / "images").iterdir()):
        with rasterio.open(path) as dataset:
            pixels = dataset.read()
        write(four / "images" / path.name, np.concatenate([pixels[:1], pixels]), photometric="MINISBLACK")
        (four / "labels").mkdir(exist_ok=True)
        (four / "labels" / path.name).write_bytes((tiny_tiles / "labels" / path.name).read_bytes())
    (four / "classes.csv").write_bytes((tiny_tiles / "classes.csv").read_bytes())
    with pytest.raises(RasterError, match=r"4 bands, but the model was trained on 3"):
        run(str(four), model=tiny_model)
    assert run(str(four), model=tiny_model, bands=(2, 3, 4)) == run(str(tiny_tiles), model=tiny_model)
