"""The schedules; the paper's against a naive twin of its own, epoch by epoch."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch

from asd_cli.data.amplitudes import PAPER_AMPLITUDES
from asd_cli.data.augment import VirtualAnomalies
from asd_cli.data.scaling import Scaling
from asd_cli.methods.asd.method import AsdMethod
from asd_cli.methods.asd.recipes import RECIPES
from asd_cli.options import RECIPES as NAMES
from asd_cli.options import TileOptions, TrainOptions
from asd_cli.workflows.models import load_model
from asd_cli.workflows.recipes import schedule_of
from asd_cli.workflows.train import train

EPOCHS, WARMUP, SIDE = 14, 10, 20  # the paper's first 14 epochs of 100


def test_the_command_line_knows_every_recipe() -> None:
    assert set(NAMES) == set(RECIPES)


def test_paper_schedule() -> None:
    recipe = RECIPES["paper"]
    schedule, warmup = schedule_of(recipe, steps=None, pieces=7)
    assert (schedule.steps, schedule.steps_per_epoch, warmup) == (700, 7, 10)
    assert (recipe.epochs, recipe.warmup_epochs) == (100, 10)
    assert (schedule.learning_rate, schedule.weight_decay, schedule.decay) == (1e-4, 1e-5, "none")
    assert {schedule.rate(step) for step in (0, 350, 699)} == {1e-4}
    assert (recipe.crop, recipe.jitter, recipe.review_pieces, recipe.scaling) == (256, False, None, "maximum")


@pytest.mark.parametrize(("steps", "warmup"), [(None, 3), (25, 0), (200, 1), (400, 3), (4000, 3), (1, 0)])
def test_a_shorter_training_warms_up_for_its_share(steps: int | None, warmup: int) -> None:
    recipe = RECIPES["quick"]
    schedule, found = schedule_of(recipe, steps=steps, pieces=3)
    assert schedule.steps == (steps or recipe.epochs * 25)
    assert schedule.steps_per_epoch == 25
    assert found == warmup


@pytest.fixture(scope="module")
def paper_run(
    make_tiles: Callable[..., Path], make_texture: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Path]:
    """Three tiles of 20 px, one of them held out, trained for 14 epochs: (tiles, model, log)."""
    folder = tmp_path_factory.mktemp("paper")
    label = np.ones((SIDE, SIDE), np.uint8)
    label[:4, :5] = 2
    images = [make_texture(seed, 2, SIDE, SIDE) for seed in range(3)]
    tiles = make_tiles(folder / "tiles", images, [label] * 3)
    options = TrainOptions(
        tiles=TileOptions(tiles=(str(tiles),), normal=("forest",)),
        output=folder / "paper.safetensors",
        recipe="paper",
        seed=5,
        device="cpu",
        log=folder / "log.csv",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "paper", replace(RECIPES["paper"], epochs=EPOCHS))
        train(options)
    return tiles, options.output, folder / "log.csv"


class Twin:
    """The paper's training, written down anew: one encoder, whole tiles, no loop, no batches, no pieces."""

    def __init__(self, images: list[np.ndarray], mask: np.ndarray, seed: int) -> None:
        maximum = np.max([image[:, mask].max(axis=1) for image in images], axis=0)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoder = AsdMethod.create(2, length=5, scales=(0.5, 1.0, 2.0), patch_size=15).encoder
        self.optimizer = torch.optim.Adam(self.encoder.parameters(), lr=1e-4, weight_decay=1e-5)
        self.images, self.maximum, self.seed = images, maximum, seed
        self.mask = torch.from_numpy(mask)[None]
        self.center, self.radius = torch.zeros(5), 3.0
        self.rows: list[dict[str, float | None]] = []

    def network_input(self, image: np.ndarray) -> torch.Tensor:
        padded = np.pad(image, ((0, 0), (16, 16), (16, 16)), mode="reflect")
        unit = padded / self.maximum[:, None, None]
        return torch.from_numpy(((unit - 0.5) / 0.5).astype(np.float32))[None]

    def virtual(self, image: np.ndarray, step: int) -> torch.Tensor:
        padded = np.pad(image, ((0, 0), (16, 16), (16, 16)), mode="reflect")
        unit = np.clip(padded / self.maximum[:, None, None], 0, 1).astype(np.float32)
        number = int(np.random.default_rng([self.seed, 2, step]).integers(2**31))
        return torch.from_numpy((VirtualAnomalies(PAPER_AMPLITUDES)(unit, number) - 0.5) / 0.5)[None]

    def descriptors(self, image: np.ndarray) -> torch.Tensor:
        self.encoder.eval()
        with torch.no_grad():
            found = self.encoder(self.network_input(image)).descriptors
        self.encoder.train()
        return found.movedim(1, -1)[self.mask]

    def step(self, image: np.ndarray, number: int, alone: bool) -> dict[str, float]:
        x = self.network_input(image)
        statistics = torch.cat([self.mask, torch.zeros_like(self.mask)])
        images = x if alone else torch.cat([x, self.virtual(image, number)])
        out = self.encoder(images, self.mask if alone else statistics)
        inner = x[:, :, 16:-16, 16:-16]
        terms = {"feature_rich": (inner - out.reconstruction[:1]).square().movedim(1, -1)[self.mask].mean()}
        if not alone:
            mine, other = (d.movedim(0, -1)[self.mask[0]] for d in out.descriptors)
            squared = (mine - self.center).square().sum(dim=1)
            terms["diverse"] = 1 / ((mine - other).square().mean() + 1e-3)
            terms["compact"] = self.radius**2 + 10 * (squared - self.radius**2).clamp_min(0).mean()
        self.optimizer.zero_grad()
        sum(terms.values()).backward()
        self.optimizer.step()
        return {name: term.item() for name, term in terms.items()}

    def run(self) -> None:
        number = 0
        for epoch in range(EPOCHS):
            order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.images))
            assert sorted(order) == list(range(len(self.images)))
            steps = []
            for index in order:
                steps.append(self.step(self.images[index], number, alone=epoch < WARMUP))
                number += 1
            if epoch + 1 >= WARMUP:
                found = [self.descriptors(image) for image in self.images]
                self.center = torch.cat(found).mean(dim=0)
                if epoch + 1 > WARMUP:
                    farthest = [(part - self.center).norm(dim=1).max() for part in found]
                    self.radius = float(torch.stack(farthest).mean())
            names = ("feature_rich", "diverse", "compact")
            means = {n: sum(s[n] for s in steps) / len(steps) if n in steps[0] else None for n in names}
            self.rows.append({**means, "radius": self.radius})


def test_paper_recipe_equals_a_naive_twin(paper_run: tuple[Path, Path, Path]) -> None:
    tiles, path, log = paper_run
    model = load_model(path)
    images = []
    for index in training_tiles(tiles):
        with rasterio.open(tiles / "images" / f"tile_{index}.tif") as dataset:
            images.append(dataset.read())
    mask = np.ones((SIDE, SIDE), bool)
    mask[:4, :5] = False
    twin = Twin(images, mask, 5)
    np.testing.assert_allclose(model.detector.high.numpy(), twin.maximum, rtol=1e-6)
    assert not model.detector.low.any()
    twin.run()
    assert model.detector.encoder.norm.num_batches_tracked == 2 * EPOCHS
    for image in images:
        with torch.no_grad():
            mine = model.detector.eval().encoder(twin.network_input(image)).descriptors.movedim(1, -1)[twin.mask]
        theirs = twin.descriptors(image)
        # a bias before the normalisation has no gradient but rounding, which Adam turns into steps: a common shift
        apart = (mine - mine.mean(dim=0)) - (theirs - theirs.mean(dim=0))
        assert apart.norm(dim=1).max() < 2e-3 * (theirs - theirs.mean(dim=0)).norm(dim=1).max()
    torch.testing.assert_close(model.detector.center, twin.center, rtol=0, atol=5e-3)
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == EPOCHS
    for epoch, (row, figures) in enumerate(zip(rows, twin.rows, strict=True)):
        assert row["learning_rate"] == "0.0001"
        assert row["step"] == str(2 * (epoch + 1))
        for name, value in figures.items():
            found = float(row[name]) if row[name] else None
            assert found == value or found == pytest.approx(value, rel=5e-3), (epoch, name)


def training_tiles(tiles: Path) -> list[int]:
    from asd_cli.data.pieces import survey_tiles
    from asd_cli.workflows.tilesets import open_tiles

    opened = open_tiles(TileOptions(tiles=(str(tiles),), normal=("forest",)))
    found = survey_tiles(opened, crop=256, halo=16, holdout=0.2, seed=5)
    assert Scaling.by_maximum(found.sample).low.tolist() == [0, 0]
    return sorted({piece.tile for piece in found.training})
