"""Which bands of a scene or of tiles a model takes, when nobody says: those that it was trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from asd_cli.errors import RasterError
from asd_cli.options import EvaluateOptions, FitGaussianOptions, PredictOptions, TileOptions, TrainOptions
from asd_cli.workflows.evaluate import evaluate
from asd_cli.workflows.fit_gaussian import fit_gaussian
from asd_cli.workflows.models import load_model
from asd_cli.workflows.predict import predict
from asd_cli.workflows.train import train

Make = Callable[..., Path]


def copy_tiles(tiny_tiles: Path, folder: Path, *, alpha: bool) -> TileOptions:
    """The tiny tiles with a fourth band that is another mixture of the others, called alpha or not."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    (folder / "classes.csv").write_bytes((tiny_tiles / "classes.csv").read_bytes())
    for path in sorted((tiny_tiles / "images").iterdir()):
        (folder / "labels" / path.name).write_bytes((tiny_tiles / "labels" / path.name).read_bytes())
        with rasterio.open(path) as dataset:
            pixels, profile = dataset.read(), dataset.profile
        fourth = (255 - pixels[:1].astype(np.int64) // 2 - pixels[1:2] // 4).clip(1, 255).astype(pixels.dtype)
        kind = {"photometric": "RGB", "alpha": "YES"} if alpha else {"photometric": "MINISBLACK"}
        with rasterio.open(folder / "images" / path.name, "w", **{**profile, "count": 4, **kind}) as dataset:
            dataset.write(np.concatenate([pixels, fourth]))
            assert (dataset.colorinterp[3] == ColorInterp.alpha) == alpha
    return TileOptions(tiles=(str(folder),), normal=("forest",))


@pytest.fixture(scope="module", params=[True, False], ids=["alpha", "no alpha"])
def case(
    request: pytest.FixtureRequest, tiny_tiles: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TileOptions, Path]:
    """Tiles of four bands, and a model of three of them in an order of its own."""
    folder = tmp_path_factory.mktemp("bands")
    tiles = copy_tiles(tiny_tiles, folder / "tiles", alpha=request.param)
    path = folder / "model.safetensors"
    train(TrainOptions(tiles=replace(tiles, bands=(4, 1, 2)), output=path, steps=4, crop=64, device="cpu"))
    return tiles, path


def test_predict_takes_the_bands_of_the_training(case: tuple[TileOptions, Path], tmp_path: Path) -> None:
    tiles, model = case
    scene = sorted((Path(tiles.tiles[0]) / "images").iterdir())[0]
    options = PredictOptions(scenes=(str(scene),), output=str(tmp_path / "a.tif"), model=model, write_polygons=False)
    predict(options)
    predict(replace(options, output=str(tmp_path / "b.tif"), bands=(4, 1, 2)))
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_evaluate_takes_the_bands_of_the_training(case: tuple[TileOptions, Path]) -> None:
    tiles, model = case
    implied = evaluate(EvaluateOptions(tiles=tiles, model=model))
    assert implied == evaluate(EvaluateOptions(tiles=replace(tiles, bands=(4, 1, 2)), model=model))


def test_evaluate_takes_all_bands_in_the_order_of_the_training(tiny_tiles: Path, tmp_path: Path) -> None:
    tiles, path = TileOptions(tiles=(str(tiny_tiles),), normal=("forest",)), tmp_path / "bgr.safetensors"
    train(TrainOptions(tiles=replace(tiles, bands=(3, 2, 1)), output=path, steps=4, crop=64, device="cpu"))
    implied = evaluate(EvaluateOptions(tiles=tiles, model=path))
    assert implied == evaluate(EvaluateOptions(tiles=replace(tiles, bands=(3, 2, 1)), model=path))


def test_fit_gaussian_takes_them_and_records_others(case: tuple[TileOptions, Path], tmp_path: Path) -> None:
    tiles, model = case

    def fit(name: str, **changes: Any) -> Path:
        path = tmp_path / name
        fit_gaussian(FitGaussianOptions(tiles=replace(tiles, **changes), model=model, output=path))
        return path

    assert load_model(fit("a")).calibration.threshold == load_model(fit("b", bands=(4, 1, 2))).calibration.threshold
    assert load_model(tmp_path / "a").band_indexes == (4, 1, 2)
    assert load_model(fit("c", bands=(4, 3, 2))).band_indexes == (4, 3, 2)


def test_a_band_that_only_the_scene_calls_alpha_is_no_data(tiny_tiles: Path, tmp_path: Path) -> None:
    plain = copy_tiles(tiny_tiles, tmp_path / "plain", alpha=False)
    masked = copy_tiles(tiny_tiles, tmp_path / "masked", alpha=True)
    path = tmp_path / "four.safetensors"
    train(TrainOptions(tiles=plain, output=path, steps=4, crop=64, device="cpu"))
    scene = sorted((Path(masked.tiles[0]) / "images").iterdir())[0]
    options = PredictOptions(scenes=(str(scene),), output=str(tmp_path / "a.tif"), model=path)
    with pytest.raises(RasterError, match=r"3 bands beside band 4, which is taken as alpha \(a mask\)"):
        predict(options)
