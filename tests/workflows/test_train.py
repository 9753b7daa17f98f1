"""`asd train` from tiles to the model file: determinism, resuming, pixels that must not count, odd inputs."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch

from asd_cli.errors import InputError, OutputError, TrainingError
from asd_cli.model_file import read_model
from asd_cli.options import LOSSES, TileOptions, TrainOptions
from asd_cli.raster.windows import Window
from asd_cli.workflows import batches
from asd_cli.workflows.models import load_model
from asd_cli.workflows.train import train

NAN = float("nan")


@pytest.fixture(scope="module")
def small_tiles(
    make_tiles: Callable[..., Path], make_texture: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    label = np.ones((40, 44), np.uint8)
    label[30:, 20:] = 2
    images = [make_texture(seed, 2, 40, 44) for seed in range(3)]
    return make_tiles(tmp_path_factory.mktemp("small") / "tiles", images, [label] * 3)


@pytest.fixture
def base(small_tiles: Path, tmp_path: Path) -> TrainOptions:
    """Six steps in three epochs of two pieces each."""
    return TrainOptions(
        tiles=TileOptions(tiles=(str(small_tiles),), normal=("forest",)),
        output=tmp_path / "model.safetensors",
        recipe="paper",
        steps=6,
        device="cpu",
        log=tmp_path / "log.csv",
    )


def named(options: TrainOptions, name: str, **changes: Any) -> TrainOptions:
    folder = options.output.parent
    return replace(options, output=folder / f"{name}.safetensors", log=folder / f"{name}.csv", **changes)


def test_same_seed_same_bytes_and_no_global_random_state(base: TrainOptions) -> None:
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        train(replace(named(base, name, seed=seed), recipe="quick", crop=32, steps=4))
    one, two, other = (base.output.with_name(f"{n}.safetensors").read_bytes() for n in ("one", "two", "other"))
    assert one == two
    assert one != other
    assert torch.equal(states[0], torch.random.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert states[2] == random.getstate()


class Stop:
    """Progress that sends Ctrl-C after some steps."""

    def __init__(self, step: int) -> None:
        self._step = step

    def __call__(self, done: int, total: int, figures: Any = None) -> None:
        if done == self._step:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def interrupted(base: TrainOptions) -> TrainOptions:
    with pytest.raises(KeyboardInterrupt):
        train(base, progress=Stop(3))
    assert not base.output.exists()
    return base


def checkpoint_of(options: TrainOptions) -> Path:
    return options.output.with_name("model.safetensors.checkpoint")


def test_resume_gives_the_file_and_the_log_of_an_unbroken_run(interrupted: TrainOptions) -> None:
    whole = named(interrupted, "whole")
    train(whole)
    with pytest.raises(OutputError, match="an unfinished training left this; go on with --resume or start over with"):
        train(replace(interrupted, log=None))
    train(replace(interrupted, resume=True))
    assert interrupted.output.read_bytes() == whole.output.read_bytes()
    assert interrupted.log.read_text() == whole.log.read_text()
    left = sorted(path.name for path in interrupted.output.parent.iterdir())
    assert left == ["log.csv", "model.safetensors", "whole.csv", "whole.safetensors"]


@pytest.mark.parametrize(
    ("change", "named_in_text"),
    [
        ({"seed": 5}, "--seed"),
        ({"length": 4}, "--length"),
        ({"without": ("diverse",), "steps": 8}, "--steps, --without"),
    ],
)
def test_resume_with_other_options_is_refused(
    interrupted: TrainOptions, change: dict[str, Any], named_in_text: str
) -> None:
    before = checkpoint_of(interrupted).read_bytes()
    with pytest.raises(TrainingError, match=f"cannot resume.* made with other .*{named_in_text}"):
        train(replace(interrupted, resume=True, **change))
    assert checkpoint_of(interrupted).read_bytes() == before


def test_resume_with_other_tiles_or_pixels_is_refused(
    base: TrainOptions, make_tiles: Callable[..., Path], make_texture: Callable[..., Any], tmp_path: Path
) -> None:
    images = [make_texture(seed, 1, 48, 48) for seed in range(3)]
    folder = make_tiles(tmp_path / "tiles", images)
    options = replace(base, tiles=TileOptions(tiles=(str(folder),)))
    with pytest.raises(KeyboardInterrupt):
        train(options, progress=Stop(2))
    fewer = TileOptions(tiles=tuple(str(folder / f"images/tile_{i}.tif") for i in (0, 2)))
    with pytest.raises(TrainingError, match="made with other pixels or labels of the tiles, tiles;"):
        train(replace(options, tiles=fewer, resume=True))
    make_tiles(folder, [image + 1 for image in images])
    with pytest.raises(TrainingError, match="made with other pixels or labels of the tiles;"):
        train(replace(options, resume=True))


def test_overwrite_starts_over(interrupted: TrainOptions) -> None:
    train(named(interrupted, "whole"))
    train(replace(interrupted, overwrite=True))
    assert interrupted.output.read_bytes() == interrupted.output.with_name("whole.safetensors").read_bytes()
    assert not checkpoint_of(interrupted).exists()


def test_damaged_checkpoint(interrupted: TrainOptions) -> None:
    path = checkpoint_of(interrupted)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-100] ^= 1
    for damaged in (b"", whole[: len(whole) // 2], b"nonsense" * 20, bytes(flipped)):
        path.write_bytes(damaged)
        with pytest.raises(TrainingError, match=r"damaged checkpoint \(.*start over with --overwrite, not --resume"):
            train(replace(interrupted, resume=True))


def test_resume_without_a_checkpoint_starts_from_the_beginning(base: TrainOptions) -> None:
    train(named(base, "whole"))
    train(replace(base, resume=True))
    assert base.output.read_bytes() == base.output.with_name("whole.safetensors").read_bytes()


def start(options: TrainOptions) -> "subprocess.Popen[str]":
    given = [*options.tiles.tiles, "--normal", "forest", "--crop", "64", "--steps", str(options.steps)]
    given += ["-o", str(options.output), "--log", str(options.log), "--device", "cpu"]
    command = [sys.executable, "-m", "asd_cli", "train", *given]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    stop = time.monotonic() + 120
    while not path.exists() and process.poll() is None and time.monotonic() < stop:
        time.sleep(0.005)
    assert path.exists(), process.communicate()


@pytest.fixture(scope="module")
def unbroken(small_tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainOptions:
    """Two epochs, the second a short one, trained to the end."""
    folder = tmp_path_factory.mktemp("unbroken")
    tiles = TileOptions(tiles=(str(small_tiles),), normal=("forest",))
    options = TrainOptions(
        tiles=tiles, output=folder / "whole", steps=110, crop=64, device="cpu", log=folder / "log.csv"
    )
    train(options)
    return options


def test_a_stopped_process_can_be_resumed(unbroken: TrainOptions, tmp_path: Path) -> None:
    """Ctrl-C and a kill that nothing can catch, in two processes at once."""
    started = {}
    for number in (signal.SIGINT, signal.SIGKILL):
        (tmp_path / number.name).mkdir()
        folder = tmp_path / number.name
        options = replace(unbroken, output=folder / "model.safetensors", log=folder / "log.csv")
        started[number] = options, start(options)
    for number, (options, process) in started.items():
        wait_for(checkpoint_of(options), process)
        process.send_signal(number)
    for number, (options, process) in started.items():
        out, err = process.communicate(timeout=60)
        assert process.returncode == (130 if number is signal.SIGINT else -number), err
        assert out == ""
        assert "Traceback" not in err
        if number is signal.SIGINT:
            said = f"{checkpoint_of(options)}: holds the unfinished training; go on with --resume"
            assert err.splitlines()[-2:] == [said, "Interrupted."]
        assert not options.output.exists()
        train(replace(options, resume=True))
        assert options.output.read_bytes() == unbroken.output.read_bytes()
        assert options.log.read_text() == unbroken.log.read_text()


@pytest.mark.parametrize("recipe", ["standard", "quick", "paper"])
def test_other_classes_out_of_reach_count_nowhere(
    base: TrainOptions, recipe: Any, make_tiles: Callable[..., Path], make_texture: Callable[..., Any], tmp_path: Path
) -> None:
    labels = np.full((64, 200), 1, np.uint8)
    labels[:, 60:] = 2
    labels[40:, 190:] = 0
    results = []
    for name, wild in (("tame", None), ("wild", 1e30), *([("nan", NAN)] if recipe == "quick" else [])):
        images = [make_texture(seed, 2, 64, 200) for seed in range(3)]
        for image in images:
            if wild is not None:
                image[:, ::2, 144:] = wild
                image[:, 1::2, 144:] = -5e8
        folder = make_tiles(tmp_path / name, images, [labels] * 3)
        tiles = TileOptions(tiles=(str(folder),), normal=("forest",))
        train(named(base, name, tiles=tiles, recipe=recipe, crop=96))
        file = read_model(tmp_path / f"{name}.safetensors")
        # tiles are told from others by all of their pixels
        header = {key: value for key, value in file.header.items() if key != "digest"}
        arrays = {key: array.tobytes() for key, array in file.arrays.items() if key != "tiles.identities"}
        results.append((header, arrays))
    assert all(result == results[0] for result in results)


def test_invalid_pixels_count_nowhere_however_they_are_marked(
    base: TrainOptions, make_tiles: Callable[..., Path], make_texture: Callable[..., Any], tmp_path: Path
) -> None:
    random_numbers = np.random.default_rng(0)
    holes = random_numbers.random((64, 64)) < 0.02
    holes[20:40, 30:50] = True
    results = []
    for name, value, options in (
        ("nodata", -9999.0, {"nodata": -9999.0}),
        ("nan", NAN, {}),
        ("other", np.inf, {"nodata": 7e20}),
        ("mask", 1e6, {}),
    ):
        images = [make_texture(seed, 2, 64, 64) for seed in range(3)]
        for image in images:
            image[0, holes] = value
        folder = make_tiles(tmp_path / name, images, **options)
        if name == "mask":
            for path in (folder / "images").iterdir():
                with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
                    dataset.write_mask(~holes)
        train(named(base, name, tiles=TileOptions(tiles=(str(folder),)), recipe="quick", crop=32))
        results.append((tmp_path / f"{name}.safetensors").read_bytes())
    assert len(set(results)) == 1


def test_held_out_tiles_are_never_read_for_training(base: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, str]] = []
    original = batches.read_piece

    def recording(tiles: Any, tile: Any, window: Window, halo: int) -> Any:
        caller = sys._getframe(2).f_code.co_name
        read.append((caller, Path(tile.path).name))
        return original(tiles, tile, window, halo)

    monkeypatch.setattr(batches, "read_piece", recording)
    report = train(replace(base, recipe="quick", crop=32, steps=12))
    trained = {name for caller, name in read if caller == "batch"}
    reviewed = {name for caller, name in read if caller == "_unchanged"}
    assert len(trained) == report.tiles == 2
    assert len(reviewed) == 3
    assert report.held_out_tiles == 1


def test_a_region_of_a_single_tile_is_held_out(
    base: TrainOptions,
    make_tiles: Callable[..., Path],
    make_texture: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Window] = []
    original = batches.PieceBatches._read

    def recording(self: Any, piece: Any, window: Window) -> Any:
        if sys._getframe(1).f_code.co_name == "batch":
            seen.append(window)
        return original(self, piece, window)

    monkeypatch.setattr(batches.PieceBatches, "_read", recording)
    folder = make_tiles(tmp_path / "tiles", [make_texture(0, 1, 80, 150)])
    report = train(replace(base, tiles=TileOptions(tiles=(str(folder),)), recipe="quick", crop=32, steps=20))
    model = load_model(base.output)
    first_held_out = 150 - report.held_out.pixels // 80
    assert first_held_out in (118, 119, 120)
    assert max(window.col_stop for window in seen) + model.detector.halo <= first_held_out
    assert report.normal_pixels == 80 * (first_held_out - model.detector.halo)


@pytest.mark.parametrize("without", LOSSES)
def test_losses_can_be_switched_off_one_by_one(base: TrainOptions, without: str) -> None:
    train(replace(base, without=(without,), recipe="quick", crop=32))
    columns = base.log.read_text().splitlines()[0].split(",")
    used = {"compact": "compact", "diverse": "diverse", "feature-rich": "feature_rich"}
    assert used.pop(without) not in columns
    assert set(used.values()) < set(columns)
    assert load_model(base.output).header["training"]["losses"] == list(used)


def test_paper_form_of_the_losses_meets_no_unchanged_image(base: TrainOptions) -> None:
    """1 / |D - D^T|^2 is infinite for a virtual anomaly that equals its image."""
    train(replace(base, loss_form="paper", recipe="quick", crop=32, steps=40))
    assert load_model(base.output).header["training"]["loss_form"] == "paper"


def test_all_losses_off_is_an_error(base: TrainOptions) -> None:
    with pytest.raises(InputError, match="--without: all three losses are switched off; keep at least one"):
        train(replace(base, without=LOSSES))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"scales": (0.3,)}, "scale 0.3 is not a power of two"),
        ({"scales": ()}, "0 scales; give 1 to 8"),
        ({"scales": (NAN,)}, "scale nan is not within 1/16..16"),
        ({"length": 0}, "length 0 is not within 1..256"),
        ({"patch_size": 9}, "patch size 9 is not within 10..127"),
    ],
)
def test_architecture_out_of_range_is_an_error(base: TrainOptions, change: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=f"--scales, --length or --patch-size: {text}"):
        train(replace(base, **change))


def test_no_method_of_that_name(base: TrainOptions) -> None:
    with pytest.raises(InputError, match=r"method 'riad-x': not known; methods: .*asd"):
        train(replace(base, method="riad-x"))


def test_log_must_not_be_the_model(base: TrainOptions) -> None:
    with pytest.raises(InputError, match=r"--log .*: is the model file or its checkpoint; name another file"):
        train(replace(base, log=base.output))
