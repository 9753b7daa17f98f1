"""`asd train` on rasters of all kinds: bands, types, constant bands, tiny tiles; and through the command line."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from affine import Affine
from click.testing import CliRunner, Result

from asd_cli.cli import main
from asd_cli.errors import InputError, RasterError
from asd_cli.options import TileOptions, TrainOptions
from asd_cli.workflows.models import load_model
from asd_cli.workflows.train import TrainReport, train


@pytest.fixture
def train_on(make_tiles: Callable[..., Path], tmp_path: Path) -> Callable[..., TrainReport]:
    """Train for two steps on unlabelled images."""

    def run(images: list[Any], *, bands: tuple[int, ...] | None = None, **options: Any) -> TrainReport:
        folder = make_tiles(tmp_path / "tiles", images)
        tiles = TileOptions(tiles=(str(folder),), bands=bands)
        given = {"output": tmp_path / "model.safetensors", "steps": 2, "crop": 32, "device": "cpu"} | options
        return train(TrainOptions(tiles=tiles, **given))

    return run


@pytest.mark.parametrize(
    ("bands", "dtype", "recipe"),
    [
        (1, "uint16", "quick"),
        (1, "uint8", "paper"),
        (14, "int16", "quick"),
        (14, "int16", "paper"),
        (200, "float32", "quick"),
        (1, "uint8", "standard"),
        (3, "float32", "standard"),
        (200, "int16", "standard"),
        (2, "float64", "quick"),
    ],
)
def test_any_number_and_type_of_bands(
    train_on: Callable[..., TrainReport], make_texture: Callable[..., Any], bands: int, dtype: str, recipe: str
) -> None:
    images = [make_texture(seed, bands, 30, 26) for seed in range(2)]
    if dtype == "int16":
        images = [image * 20 - 2500 for image in images]
    if dtype.startswith("float"):
        images[0][bands // 2, 10:14, 5:9] = np.nan
        images[1] *= 1e-4
    images = [image.astype(dtype) for image in images]
    report = train_on(images, recipe=recipe)
    model = load_model(report.model)
    assert model.detector.bands == bands
    assert model.header["bands"]["dtype"] == dtype
    lost = 16 if dtype.startswith("float") else 0
    times = 2 if report.folds > 1 else 1  # one network's held-out tile is another's training
    assert report.normal_pixels + report.held_out.pixels == times * (2 * 30 * 26 - lost)
    assert np.isfinite(report.held_out.threshold)
    with torch.no_grad():
        side = 2 * model.detector.halo + 8
        distances = model.detector.eval().distances(torch.zeros(1, bands, side, side))
    assert distances.isfinite().all()


def test_a_constant_band_does_no_harm(train_on: Callable[..., TrainReport], make_texture: Callable[..., Any]) -> None:
    images = [make_texture(seed, 3, 40, 40) for seed in range(2)]
    for image in images:
        image[1] = 7
    model = load_model(train_on(images).model)
    assert model.detector.low[1] == 7
    assert model.detector.high[1] == 14


def test_only_constant_bands(train_on: Callable[..., TrainReport]) -> None:
    report = train_on([np.full((2, 40, 40), 5, np.uint8)] * 2, recipe="paper", steps=4)
    assert np.isfinite(report.held_out.median)  # a ridge replaces the variance that is not there


def test_bands_are_chosen_in_their_order(
    train_on: Callable[..., TrainReport], make_texture: Callable[..., Any]
) -> None:
    images = [make_texture(seed, 4, 40, 40) + 1000 * np.arange(4)[:, None, None] for seed in range(2)]
    model = load_model(train_on(images, bands=(4, 2)).model)
    assert model.header["bands"]["indexes"] == [4, 2]
    assert model.header["bands"]["of"] == 4
    np.testing.assert_allclose(model.detector.low.numpy(), [3050, 1050], atol=60)


def test_no_such_band(train_on: Callable[..., TrainReport], make_texture: Callable[..., Any]) -> None:
    with pytest.raises(RasterError, match=r"tile_0.tif: no band 5; the raster has 3 bands, numbered from 1"):
        train_on([make_texture(0, 3, 40, 40)], bands=(5,))


def test_tiles_may_differ_in_type_and_size(
    train_on: Callable[..., TrainReport], make_texture: Callable[..., Any]
) -> None:
    shapes = [(40, 36), (20, 20), (1, 50), (50, 1), (3, 3), (1, 1), (130, 17)]
    types = ["uint8", "uint16", "float32", "int16", "uint8", "float64", "int32"]
    images = [make_texture(i, 2, *shape).astype(t) for i, (shape, t) in enumerate(zip(shapes, types, strict=True))]
    for recipe in ("standard", "quick", "paper"):
        report = train_on(images, recipe=recipe, steps=8, overwrite=True, crop=64)
        pixels = sum(height * width for height, width in shapes)
        if recipe == "standard":  # all tiles are trained on, by some of the networks, and held out in turn
            assert (report.normal_pixels, report.tiles) == (pixels, len(shapes))
            assert (report.held_out_tiles, report.held_out.pixels) == (len(shapes), pixels)
        else:
            assert report.normal_pixels + report.held_out.pixels == pixels
            assert report.tiles + report.held_out_tiles == len(shapes)


def test_tiles_must_have_the_same_number_of_bands(
    train_on: Callable[..., TrainReport], make_texture: Callable[..., Any]
) -> None:
    images = [make_texture(0, 3, 40, 40), make_texture(1, 2, 40, 40)]
    with pytest.raises(RasterError, match=r"tile_1.tif has 2 bands, but .*tile_0.tif has 3; choose common ones"):
        train_on(images)
    assert load_model(train_on(images, bands=(1, 2)).model).detector.bands == 2


@pytest.mark.parametrize("options", [{"scales": (1.0,)}, {"scales": (0.25, 4.0), "patch_size": 21, "length": 3}])
def test_other_architectures(
    train_on: Callable[..., TrainReport], make_texture: Callable[..., Any], options: dict[str, Any]
) -> None:
    images = [make_texture(seed, 1, 40, 40) for seed in range(2)]
    model = load_model(train_on(images, recipe="quick", **options).model)
    assert model.header["config"]["scales"] == list(options["scales"])
    assert model.detector.length == options.get("length", 5)


@pytest.fixture
def run(tmp_path: Path, tiny_tiles: Path) -> Callable[..., Result]:
    """`asd train` on the tiny tiles for three steps, in a fresh folder."""

    def invoke(*given: Any) -> Result:
        arguments = ["train", tiny_tiles, "--steps", 3, "--crop", 96, "--device", "cpu"]
        arguments += ["-o", tmp_path / "model.safetensors", *given]
        return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)

    return invoke


def test_standard_output_is_the_path_alone(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("--normal", "forest", "--recipe", "quick", "--steps", 2, "--log", tmp_path / "log.csv")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'model.safetensors'}\n"
    lines = result.stderr.splitlines()
    assert any(
        line.startswith("normal: forest; 3 tiles with 25056 normal pixels trained on, 1 tile(s)") for line in lines
    )
    assert any(line.startswith("held-out normal pixels: 8352, median distance ") for line in lines)
    assert any("AUC against other classes" in line for line in lines)
    assert any(f"model {tmp_path / 'model.safetensors'} (sha256 " in line for line in lines)
    with (tmp_path / "log.csv").open(newline="") as file:
        table = list(csv.reader(file))
    assert table[0] == [
        "epoch", "step", "learning_rate", "loss", "feature_rich", "diverse", "compact", "radius", "held_out",
    ]  # fmt: skip
    assert table[1][:3] == ["1", "2", "0.00051"]
    assert len(table) == 2
    assert all(np.isfinite(float(value)) for value in table[1])


def test_json(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("--normal", "forest", "--json")
    report = json.loads(result.stdout)
    assert report["model"] == str(tmp_path / "model.safetensors")
    assert report["normal"] == ["forest"]
    assert (report["tiles"], report["held_out_tiles"], report["skipped"], report["steps"]) == (4, 4, [], 3)
    assert report["held_out"]["pixels"] == 4 * 8352
    assert report["sha256"] == load_model(tmp_path / "model.safetensors").sha256


def test_several_normal_classes_and_an_ignored_one(run: Callable[..., Result], tmp_path: Path) -> None:
    assert run("--normal", "forest", "--normal", "WATER").exit_code == 0
    assert load_model(tmp_path / "model.safetensors").header["normal"] == ["forest", "water"]
    result = run("--normal", "1", "--ignore-label", "water", "--overwrite")
    assert "AUC" not in result.stderr
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([], "the tiles have labels: say which class is normal with --normal; found: forest, water"),
        (["--normal", "forrest"], "--normal forrest: no such class; found: forest, water (nearest: forest)"),
        (["--normal", "forest", "--ignore-label", "forest"], "class forest is given to both --normal and"),
        (["--normal", "forest", "--labels", "nowhere"], "--labels nowhere: no such file or folder"),
        (["--normal", "forest", "--bands", "9"], "no band 9; the raster has 3 bands"),
        (["--normal", "forest", "--scales", "0.7"], "or --patch-size: scale 0.7 is not a power of two"),
        (["--normal", "forest", "--device", "abacus"], "--device abacus: not a device; use auto, cpu, cuda"),
    ],
)  # fmt: skip
def test_errors_are_one_line(run: Callable[..., Result], tmp_path: Path, given: list[str], text: str) -> None:
    result = run(*given)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("Error: ")
    assert text in result.stderr
    assert not list(tmp_path.iterdir())


def test_all_losses_off(run: Callable[..., Result]) -> None:
    off = [part for loss in ("compact", "diverse", "feature-rich") for part in ("--without", loss)]
    result = run("--normal", "forest", "--recipe", "quick", *off)
    assert result.exit_code == 1
    assert result.stderr == "Error: --without: all three losses are switched off; keep at least one\n"


def test_existing_output_is_refused_before_any_work(run: Callable[..., Result], tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    target.write_text("mine")
    result = run("--normal", "forest")
    assert result.exit_code == 1
    assert result.stderr == f"Error: {target}: exists already; choose another name or add --overwrite\n"
    assert target.read_text() == "mine"
    assert run("--normal", "forest", "--overwrite").exit_code == 0
    load_model(target)


def test_existing_log_is_refused(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("mine")
    result = run("--normal", "forest", "--log", tmp_path / "log.csv")
    assert result.exit_code == 1
    assert f"{tmp_path / 'log.csv'}: exists already" in result.stderr


@pytest.mark.parametrize(
    "given",
    [["--method", "unheard"], ["--recipe", "best"], ["--steps", "0"], ["--holdout", "1"], ["--seed", str(2**32)]],
)
def test_usage_errors(run: Callable[..., Result], given: list[str]) -> None:
    result = run("--normal", "forest", *given)
    assert result.exit_code == 2
    assert given[0] in result.stderr


def test_the_method_is_an_option(run: Callable[..., Result], tmp_path: Path) -> None:
    assert run("--normal", "forest", "--method", "asd").exit_code == 0
    assert load_model(tmp_path / "model.safetensors").header["method"] == "asd"


def test_skipped_tiles_are_counted(
    make_tiles: Callable[..., Path], make_texture: Callable[..., Any], tmp_path: Path
) -> None:
    labels = [np.full((32, 32), code, np.uint8) for code in (1, 2, 1)]
    folder = make_tiles(tmp_path / "tiles", [make_texture(seed, 1, 32, 32) for seed in range(3)], labels)
    given = ["--normal", "forest", "--steps", "3", "--crop", "32", "-o", str(tmp_path / "m.safetensors")]
    result = CliRunner().invoke(main, ["train", str(folder), *given], catch_exceptions=False)
    assert "2 of them held out in turn, 1 skipped (no normal pixel)" in result.stderr
    assert f"{folder / 'images' / 'tile_1.tif'}: skipped, it has no normal pixel" in result.stderr


def test_a_log_never_replaces_what_is_read(tiny_tiles: Path, tmp_path: Path) -> None:
    tile = sorted((tiny_tiles / "images").iterdir())[0]
    before = tile.read_bytes()
    tiles = TileOptions(tiles=(str(tiny_tiles),), normal=("forest",))
    with pytest.raises(InputError, match="is among the files that are read"):
        train(TrainOptions(tiles=tiles, output=tmp_path / "m.safetensors", log=tile, overwrite=True, device="cpu"))
    assert tile.read_bytes() == before


def test_a_transform_without_area_gives_no_pixel_size(
    make_scene: Callable[..., Path], make_texture: Callable[..., Any], tmp_path: Path
) -> None:
    for seed in range(2):
        make_scene(tmp_path / f"{seed}.tif", make_texture(seed, 2, 40, 40), transform=Affine(0, 0, 7, 0, 0, 9))
    tiles = TileOptions(tiles=(str(tmp_path / "0.tif"), str(tmp_path / "1.tif")))
    train(TrainOptions(tiles=tiles, output=tmp_path / "m.safetensors", steps=2, device="cpu"))
    assert load_model(tmp_path / "m.safetensors").pixel_size_m is None
