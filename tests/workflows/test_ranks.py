"""Training in several processes: equal to one process that takes as many crops a step, within rounding."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from asd_cli.errors import InputError
from asd_cli.options import TileOptions, TrainOptions
from asd_cli.workflows.models import load_model
from asd_cli.workflows.ranks import Ranks
from asd_cli.workflows.train import train


@pytest.fixture(scope="module")
def tiles(
    make_tiles: Callable[..., Path], make_texture: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    label = np.ones((60, 64), np.uint8)
    label[45:, 30:] = 2
    images = [make_texture(seed, 2, 60, 64) for seed in range(3)]
    return make_tiles(tmp_path_factory.mktemp("ranks") / "tiles", images, [label] * 3)


def torchrun(count: int, *words: str) -> "subprocess.CompletedProcess[str]":
    # after -- torchrun takes no option of ours for one of its own
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command += ["-m", "--", "asd_cli", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.parametrize("recipe", ["quick", "standard"])
def test_two_processes_train_as_one(recipe: Any, tiles: Path, tmp_path: Path) -> None:
    alone, shared = tmp_path / "alone.safetensors", tmp_path / "shared.safetensors"
    train(
        TrainOptions(
            tiles=TileOptions(tiles=(str(tiles),), normal=("forest",)),
            output=alone,
            recipe=recipe,
            crop=32,
            steps=5,
            crops=2,
            device="cpu",
        )
    )
    words = ["train", "--normal", "forest", str(tiles), "--recipe", recipe, "--crop", "32", "--steps", "5"]
    log = tmp_path / "log.csv"
    done = torchrun(2, *words, "--device", "cpu", "-o", str(shared), "--log", str(log))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(shared)  # of one process
    assert len(log.read_text().splitlines()) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "alone.safetensors", "log.csv", "shared.safetensors",
    ]  # fmt: skip
    one, two = load_file(alone), load_file(shared)
    assert one.keys() == two.keys()
    # not biases before a normalisation: their gradients are rounding, which Adam turns into whole steps
    compared = [name for name in one if "encoder" in name and name.endswith("weight")]
    assert len(compared) > 10
    for name in compared:
        assert np.abs(two[name] - one[name]).mean() < 1e-5, name  # five steps move weights by a thousandth
    assert load_model(shared).header["training"]["crops"] == 2


def test_a_mean_of_crops_is_no_single_crop(tiles: Path, tmp_path: Path) -> None:
    files = []
    for crops in (1, 3):
        files.append(tmp_path / f"{crops}.safetensors")
        options = TrainOptions(
            tiles=TileOptions(tiles=(str(tiles),), normal=("forest",)),
            output=files[-1],
            recipe="quick",
            crop=32,
            steps=2,
            crops=crops,
            device="cpu",
        )
        train(options)
    one, three = map(load_file, files)
    assert any(not np.array_equal(one[name], three[name]) for name in one if "conv" in name)


def test_shares() -> None:
    assert [list(Ranks(rank, 3).share(6)) for rank in range(3)] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(InputError, match="--crops 4: cannot be shared by 3 processes"):
        Ranks(0, 3).share(4)
