"""Methods on frozen networks, from tiles to maps; the network is a small one in place of timm's."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_timm
import numpy as np
import pytest

from asd_cli.errors import InputError, ModelFileError
from asd_cli.options import FitGaussianOptions, PredictOptions, TileOptions, TrainOptions
from asd_cli.raster.gdal import open_raster
from asd_cli.workflows.fit_gaussian import fit_gaussian
from asd_cli.workflows.models import load_model
from asd_cli.workflows.predict import predict
from asd_cli.workflows.train import train

SETTINGS = {"padim": (("channels", "6"),), "patchcore": (("memory", "40"), ("neighbours", "3"))}
METHODS = pytest.mark.parametrize("method", sorted(SETTINGS))


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_timm.install(monkeypatch)


@pytest.fixture
def base(tiny_tiles: Path, tmp_path: Path) -> TrainOptions:
    tiles = TileOptions(tiles=(str(tiny_tiles),), normal=("forest",))
    return TrainOptions(tiles=tiles, output=tmp_path / "model.safetensors", device="cpu")


def on(options: TrainOptions, method: str, name: str = "model", **changes: Any) -> TrainOptions:
    settings = (("weights", "random"), ("halo", "64"), *SETTINGS[method])
    output = options.output.with_name(f"{name}.safetensors")
    return replace(options, output=output, **{"method": method, "method_options": settings, **changes})


@METHODS
def test_same_seed_same_bytes(base: TrainOptions, method: str) -> None:
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        train(on(base, method, name, seed=seed))
    one, two, other = (base.output.with_name(f"{n}.safetensors").read_bytes() for n in ("one", "two", "other"))
    assert one == two
    assert one != other
    header = load_model(base.output.with_name("one.safetensors")).header
    assert header["training"]["backbone_weights"] == "random"


@METHODS
def test_pixels_that_are_not_normal_count_nowhere(
    base: TrainOptions,
    method: str,
    make_tiles: Callable[..., Path],
    make_texture: Callable[..., Any],
    tmp_path: Path,
) -> None:
    labels = np.full((64, 160), 1, np.uint8)
    labels[:, 60:] = 2
    results = []
    for name, wild in (("tame", None), ("wild", 1e30)):
        images = [make_texture(seed, 5, 64, 160) for seed in range(3)]
        for image in images:
            image[:, 50:60, 10:20] = -9999
            if wild is not None:
                image[:, :, 128:] = wild  # farther from normal pixels than the network sees
        folder = make_tiles(tmp_path / name, images, [labels] * 3, nodata=-9999)
        tiles = TileOptions(tiles=(str(folder),), normal=("forest",))
        train(on(base, method, name, tiles=tiles))
        results.append(base.output.with_name(f"{name}.safetensors").read_bytes())
    assert len(set(results)) == 1


@METHODS
def test_the_map_is_the_same_for_every_window(
    base: TrainOptions,
    method: str,
    make_scene: Callable[..., Path],
    make_texture: Callable[..., Any],
    tmp_path: Path,
) -> None:
    train(on(base, method))
    values = make_texture(11, 3, 200, 530)
    values[:, 100:140, 480:560] = -1
    values[1, 180:190, 300:303] = np.nan
    scene = make_scene(tmp_path / "scene.tif", values, nodata=-1)
    maps = []
    for window, workers in ((512, 1), (1024, 3)):
        output = tmp_path / f"{window}.tif"
        options = PredictOptions(scenes=(str(scene),), output=str(output), model=base.output, device="cpu")
        predict(replace(options, window=window, workers=workers, score="distance", write_polygons=False))
        with open_raster(output) as dataset:
            maps.append(dataset.read(1))
    assert maps[0].tobytes() == maps[1].tobytes()
    assert np.array_equal(np.isnan(maps[0]), ~(np.isfinite(values) & (values != -1)).all(axis=0))
    assert maps[0][np.isfinite(maps[0])].std() > 0


@METHODS
def test_a_model_says_that_timm_is_missing(base: TrainOptions, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    train(on(base, method))
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelFileError, match=r"model.safetensors: the backbone needs timm, which is not installed"):
        load_model(base.output)


def test_fit_gaussian_refits_padim_and_refuses_patchcore(base: TrainOptions, tmp_path: Path) -> None:
    for method in SETTINGS:
        train(on(base, method, method))
    output = tmp_path / "new.safetensors"
    given = FitGaussianOptions(tiles=base.tiles, output=output, device="cpu")
    fit_gaussian(replace(given, model=tmp_path / "padim.safetensors"))
    old, new = load_model(tmp_path / "padim.safetensors").normal, load_model(output).normal
    assert old is not None
    assert new is not None
    np.testing.assert_allclose(new.moments.second, old.moments.second, rtol=1e-3, atol=1e-3)
    with pytest.raises(InputError, match=r"patchcore.safetensors: .* patchcore has no Gaussian to fit; train it anew"):
        fit_gaussian(replace(given, model=tmp_path / "patchcore.safetensors", overwrite=True))


def test_more_channels_than_the_backbone_has(base: TrainOptions) -> None:
    options = on(base, "padim", method_options=(("weights", "random"), ("channels", "100")))
    with pytest.raises(InputError, match="--method padim: channels=100 is more than the 24 of resnet18"):
        train(options)
