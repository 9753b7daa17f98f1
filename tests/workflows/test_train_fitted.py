"""Methods that are fitted in one pass, from tiles to maps: the contracts that every method keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from asd_cli.density.gaussian import fit_ledoit_wolf
from asd_cli.errors import InputError
from asd_cli.options import FitGaussianOptions, PredictOptions, TileOptions, TrainOptions
from asd_cli.raster.gdal import open_raster
from asd_cli.workflows.fit_gaussian import fit_gaussian
from asd_cli.workflows.models import load_model
from asd_cli.workflows.predict import predict
from asd_cli.workflows.train import train

Settings = tuple[tuple[str, str], ...]
Array = NDArray[np.float32]
GLOBAL: Settings = ()
LOCAL: Settings = (("mode", "local"), ("outer", "11"))
SUBSPACE: Settings = (("mode", "subspace"),)
MODES = pytest.mark.parametrize("settings", [GLOBAL, LOCAL, SUBSPACE], ids=["global", "local", "subspace"])


@pytest.fixture
def base(tiny_tiles: Path, tmp_path: Path) -> TrainOptions:
    tiles = TileOptions(tiles=(str(tiny_tiles),), normal=("forest",))
    return TrainOptions(tiles=tiles, output=tmp_path / "model.safetensors", method="rx", device="cpu")


def named(options: TrainOptions, name: str, **changes: Any) -> TrainOptions:
    return replace(options, output=options.output.with_name(f"{name}.safetensors"), **changes)


def scored(scene: Path, model: Path, output: Path, **options: Any) -> Array:
    given = {"score": "distance", "device": "cpu", "write_polygons": False, "command": "asd predict"} | options
    predict(PredictOptions(scenes=(str(scene),), output=str(output), model=model, **given))
    with open_raster(output) as dataset:
        return np.asarray(dataset.read(1))


@MODES
def test_same_seed_same_bytes(base: TrainOptions, settings: Settings) -> None:
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        report = train(named(base, name, seed=seed, method_options=settings))
        assert report.steps == 0
    one, two, other = (base.output.with_name(f"{n}.safetensors").read_bytes() for n in ("one", "two", "other"))
    assert one == two
    assert one != other


@MODES
def test_pixels_that_are_not_normal_count_nowhere(
    base: TrainOptions,
    settings: Settings,
    make_tiles: Callable[..., Path],
    make_texture: Callable[..., Any],
    tmp_path: Path,
) -> None:
    labels = np.full((64, 70), 1, np.uint8)
    labels[:, 40:] = 2
    results = []
    for name, wild in (("tame", None), ("wild", 1e30), ("nan", np.nan)):
        images = [make_texture(seed, 2, 64, 70) for seed in range(3)]
        for image in images:
            image[:, 50:60, 10:20] = -9999
            if wild is not None:
                image[:, :, 48:] = wild  # farther from normal pixels than the windows reach
        folder = make_tiles(tmp_path / name, images, [labels] * 3, nodata=-9999)
        tiles = TileOptions(tiles=(str(folder),), normal=("forest",))
        train(named(base, name, tiles=tiles, method_options=settings))
        results.append(base.output.with_name(f"{name}.safetensors").read_bytes())
    assert len(set(results)) == 1


@MODES
def test_the_map_is_the_same_for_every_window_and_every_number_of_threads(
    base: TrainOptions,
    settings: Settings,
    make_scene: Callable[..., Path],
    make_texture: Callable[..., Any],
    tmp_path: Path,
) -> None:
    train(replace(base, method_options=settings))
    values = make_texture(11, 3, 530, 700)
    values[:, 100:140, 480:560] = -1
    values[1, 505:520, 300:303] = np.nan
    values[:, 300, 300] = 1e6
    scene = make_scene(tmp_path / "scene.tif", values, nodata=-1)
    runs: list[dict[str, Any]] = [{"window": 512}, {"window": 2048, "workers": 3}, {"threads": 1}]
    maps = [scored(scene, base.output, tmp_path / f"{i}.tif", **run) for i, run in enumerate(runs)]
    assert maps[0].tobytes() == maps[1].tobytes() == maps[2].tobytes()
    assert maps[0][300, 300] == np.nanmax(maps[0])
    assert np.array_equal(np.isnan(maps[0]), ~(np.isfinite(values) & (values != -1)).all(axis=0))


@MODES
def test_one_band(
    base: TrainOptions,
    settings: Settings,
    make_tiles: Callable[..., Path],
    make_texture: Callable[..., Any],
    tmp_path: Path,
) -> None:
    folder = make_tiles(tmp_path / "gray", [make_texture(seed, 1, 48, 50) for seed in range(2)])
    options = replace(base, tiles=TileOptions(tiles=(str(folder),)), method_options=settings)
    if settings == SUBSPACE:
        with pytest.raises(InputError, match=r"--method rx: drop=1 leaves nothing of 1 band\(s\)"):
            train(options)
        return
    assert train(options).held_out.median > 0


def test_a_hole_does_not_light_up_its_surroundings(
    base: TrainOptions, make_scene: Callable[..., Path], make_texture: Callable[..., Any], tmp_path: Path
) -> None:
    train(replace(base, method_options=LOCAL))
    values = make_texture(5, 3, 200, 200)
    whole = scored(make_scene(tmp_path / "whole.tif", values), base.output, tmp_path / "whole_map.tif")
    values[:, 60:140, 60:140] = -1
    holed = scored(make_scene(tmp_path / "holed.tif", values, nodata=-1), base.output, tmp_path / "holed_map.tif")
    beside = np.zeros((200, 200), bool)
    beside[55:145, 55:145] = True
    beside &= np.isfinite(holed)
    far = np.isfinite(holed) & ~beside
    assert np.array_equal(whole[far], holed[far])
    assert np.median(holed[beside]) < 1.2 * np.median(whole[beside])
    assert np.quantile(holed[beside], 0.99) < 1.3 * np.quantile(whole[beside], 0.99)


def test_local_finds_what_is_odd_only_where_it_lies(
    base: TrainOptions, make_scene: Callable[..., Path], make_texture: Callable[..., Any], tmp_path: Path
) -> None:
    """A dark patch in a bright field has values that are common elsewhere."""
    values = make_texture(5, 3, 128, 128)
    values[:, :, 64:] += 120
    values[:, 60:63, 96:99] -= 120
    scene = make_scene(tmp_path / "scene.tif", values)
    tiles = TileOptions(tiles=(str(scene),), normal=())
    found = {}
    for name, settings in (("global", GLOBAL), ("local", LOCAL)):
        options = named(base, name, tiles=tiles, method_options=settings)
        train(options)
        values_of = scored(scene, options.output, tmp_path / f"{name}.tif")
        found[name] = np.mean(values_of[10:118, 75:118] < values_of[61, 97])
    assert found["local"] > 0.999
    assert found["global"] < 0.9


def test_updating_equals_fitting_both_sets_at_once(
    base: TrainOptions, make_tiles: Callable[..., Path], make_texture: Callable[..., Any], tmp_path: Path
) -> None:
    train(base)
    first = load_model(base.output)
    folder = make_tiles(tmp_path / "more", [make_texture(seed, 3, 40, 40) + 30 for seed in range(7, 10)])
    output = tmp_path / "updated.safetensors"
    tiles = TileOptions(tiles=(str(folder),), normal=())
    given = FitGaussianOptions(tiles=tiles, model=base.output, output=output, update=True, device="cpu")
    fit_gaussian(given)
    updated = load_model(output)
    assert first.normal is not None
    assert updated.normal is not None
    fit_gaussian(replace(given, update=False, output=tmp_path / "fresh.safetensors"))
    fresh = load_model(tmp_path / "fresh.safetensors").normal
    assert fresh is not None
    both = first.normal.merge(fresh)
    np.testing.assert_allclose(updated.normal.moments.second, both.moments.second, rtol=1e-12)
    np.testing.assert_allclose(updated.normal.within, both.within, rtol=1e-12)
    expected = torch.from_numpy(fit_ledoit_wolf(both.moments).whitening)
    torch.testing.assert_close(updated.detector.whitening, expected, rtol=1e-9, atol=1e-12)
