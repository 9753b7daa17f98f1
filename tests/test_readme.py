"""Every command of the README runs, in order, as a reader would type it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.windows import Window

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
STEPS = "20"  # of `asd train` where the README leaves the number to the recipe, to save minutes
SET_UP = re.compile(r"^python3 -m venv \.venv && \.venv/bin/pip install (\S+) && ", flags=re.MULTILINE)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the README's reader has it: the sample data, tiles, a scene with its truth, and some scenes."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "sample_data", folder / "sample_data")
    shutil.copytree(ROOT / "sample_data" / "tiles", folder / "tiles")
    for name in ("scene.tif", "truth.tif", "classes.csv"):
        shutil.copy(ROOT / "sample_data" / name, folder / name)
    (folder / "scenes").mkdir()
    for index in range(2):
        crop(folder / "scene.tif", folder / "scenes" / f"part {index}.tif", Window(256 * index, 256, 250, 200))
    box = shapely.box(590_400, 5_525_800, 590_600, 5_525_900)  # in the middle of the scene
    areas = gpd.GeoDataFrame(geometry=[box], crs="EPSG:25832")
    areas.to_file(folder / "clouds.gpkg")
    areas.to_crs("EPSG:4326").to_file(folder / "park.geojson")
    (folder / ".venv").symlink_to(sys.prefix, target_is_directory=True)
    return folder


def crop(source: Path, target: Path, window: Window) -> None:
    with rasterio.open(source) as scene:
        grid = scene.transform
        origin = grid.c + window.col_off * grid.a, grid.f + window.row_off * grid.e
        profile = scene.profile | {
            "width": window.width,
            "height": window.height,
            "transform": Affine(grid.a, 0, origin[0], 0, grid.e, origin[1]),
            "tiled": False,
        }
        with rasterio.open(target, "w", **profile) as part:
            part.write(scene.read(window=window))


def run(block: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("ASD_MODEL", None)
    environment["ASD_TRAIN_STEPS"] = STEPS
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("block", BLOCKS, ids=[block.split("\n")[0][:50] for block in BLOCKS])
def test_block_runs(block: str, sandbox: Path) -> None:
    installs = SET_UP.findall(block)
    assert set(installs) <= {".", "'.[test]'"}
    if ".venv/bin/pytest" in block:
        assert "grep -m 1 -E '^python3 -m venv \\.venv && .*pytest' README.md" in (ROOT / ".ci" / "run").read_text()
        pytest.skip("the test command runs these tests; .ci/run takes it from the README")
    done = run(SET_UP.sub("", block), sandbox)
    assert done.returncode == 0, done.stderr
    if installs:  # from there the reader goes on in a folder of their own
        for path in sandbox.glob("anomaly.*"):
            path.unlink()
    assert "Traceback" not in done.stderr


def test_the_runs_left_what_the_readme_names(sandbox: Path) -> None:
    if not (sandbox / "maps").exists():
        pytest.skip("the blocks did not run")
    for name in (
        "anomaly.tif", "anomaly.gpkg", "asd_model.safetensors", "train.csv", "bgr.safetensors",
        "updated.safetensors", "strict.gpkg", "loose.geojson", "far.tif", "maps/part 0_anomaly.tif",
        "maps/part 1_anomaly.fgb", "plots/roc.png", "figures.csv",
        "cut.gpkg", "strong.gpkg", "rare.geojson", "configured.tif", "forest.onnx", "forest_qgis.onnx",
        "maps/part 1_anomaly.fgb", "plots/roc.png", "figures.csv", "anomaly.qml", "maps/item.json", "maps/item.png",
        "report.html",
    ):  # fmt: skip
        assert (sandbox / name).is_file(), name
    assert not (sandbox / "far.gpkg").exists()
    assert not (sandbox / "configured.gpkg").exists()
    assert not (sandbox / "failed.txt").exists()


def test_readme_is_short_and_names_every_command() -> None:
    from asd_cli.cli import main

    assert len(README.splitlines()) < 400
    for name in main.commands:
        assert f"asd {name} " in README
