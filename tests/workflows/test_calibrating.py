"""What makes a calibration doubtful is said, with numbers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from asd_cli.data.pieces import Piece
from asd_cli.density.sample import PixelSample
from asd_cli.metrics.histogram import ScoreCollector
from asd_cli.options import TileOptions
from asd_cli.raster.windows import Window
from asd_cli.workflows.blind import Blind
from asd_cli.workflows.calibrating import _cross_check, _Kept, _odd_tiles, calibrate
from asd_cli.workflows.models import load_model
from asd_cli.workflows.tilesets import open_tiles

Make = Callable[..., Path]


def rows(seed: int, scale: float = 1.0, count: int = 20_000) -> NDArray[np.float32]:
    return (scale * np.random.default_rng(seed).exponential(size=count)).astype(np.float32)


def test_cross_check_of_equal_and_unequal_halves() -> None:
    assert _cross_check([rows(1), rows(2)], 0.01) == pytest.approx(0.01, rel=0.3)
    unequal = _cross_check([rows(1), rows(2, scale=3)], 0.01)
    assert unequal is not None
    assert unequal > 0.05
    alternating = [rows(seed, scale=1 + 2 * (seed % 2)) for seed in range(6)]
    assert _cross_check(alternating, 0.01) == pytest.approx(unequal, rel=0.1)
    assert _cross_check([alternating[place] for place in (0, 1, 3, 2, 4, 5)], 0.01) < 0.5 * unequal
    assert _cross_check([*(rows(seed) for seed in range(9)), rows(9, scale=30)], 0.01) < 0.03
    assert _cross_check([rows(1), rows(2, count=99)], 0.01) is None


def test_the_odd_tile_is_named() -> None:
    tiles = {3: rows(1), 5: rows(2, scale=8), 8: rows(3)}
    odd = _odd_tiles(tiles, 0.01)
    assert list(odd) == [5]
    assert odd[5] > 0.2
    assert _odd_tiles({3: rows(1), 8: rows(3)}, 0.01) == {}
    assert _odd_tiles({3: rows(1)}, 0.01) == {}
    assert _odd_tiles({**{seed: rows(seed) for seed in range(4)}, 9: rows(9, scale=0.0)}, 0.01) == {}
    assert _odd_tiles({3: rows(1), 5: rows(2, scale=8, count=99)}, 0.01) == {}
    assert _odd_tiles({3: np.zeros(9000, np.float32), 5: np.zeros(9000, np.float32)}, 0.01) == {}


@pytest.fixture
def contaminated(make_tiles: Make, make_texture: Callable[..., NDArray[np.float32]], tmp_path: Path) -> Path:
    """Four tiles of one texture; the last has a patch of something else, labelled as normal."""
    images = [make_texture(seed, 3, 96, 96).clip(0, 255).astype(np.uint8) for seed in range(4)]
    images[3][:, 20:60, 20:60] = np.random.default_rng(9).choice([0, 255], (3, 40, 40))
    return make_tiles(tmp_path / "tiles", images, [np.ones((96, 96), np.uint8)] * 4)


def test_calibrate_warns_of_contaminated_held_out_tiles(
    contaminated: Path, random_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiles = open_tiles(TileOptions(tiles=(str(contaminated),), normal=("forest",)))
    whole = Window(0, 0, 96, 96)
    pieces = [Piece(tile, whole, whole, 96 * 96) for tile in range(4)]
    detector = load_model(random_model).detector
    device = torch.device("cpu")

    def warnings_of(chosen: list[Piece]) -> list[str]:
        caplog.clear()
        calibrate(detector, tiles, [Blind(detector, chosen)], device, rate=0.01, seed=0, advance=lambda count: None)
        return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]

    assert warnings_of(pieces[:3]) == []
    messages = warnings_of(pieces)
    assert any(text.startswith(f"{tiles.sources[3].path}: ") and "check its labels" in text for text in messages)
    assert any(text.startswith("the calibration is doubtful: ") for text in messages)


def test_halves_are_whole_tiles(contaminated: Path, random_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Pieces of one tile are alike: spread over both halves they would make the check look better than it is."""
    tiles = open_tiles(TileOptions(tiles=(str(contaminated),), normal=("forest",)))
    region = Window(0, 0, 96, 96)
    pieces = [Piece(tile, Window(row, 0, 48, 96), region, 48 * 96) for tile in (2, 3) for row in (0, 48)]
    detector = load_model(random_model).detector
    held_out, device = [Blind(detector, pieces)], torch.device("cpu")
    _, figures = calibrate(detector, tiles, held_out, device, rate=0.01, seed=0, advance=lambda count: None)
    assert figures.false_alarm_check is not None
    assert figures.false_alarm_check > 0.03
    assert figures.pixels == 2 * 96 * 96


def test_one_tile_is_sampled_alike_from_both_halves() -> None:
    halves = {number: PixelSample(1000, 1, 0) for number in (0, 1)}
    for number, (low, count) in enumerate(((0.0, 5000), (10.0, 45_000))):
        halves[number].add((low + rows(number, count=count))[:, None], number)
    (found,) = _Kept(halves, several_tiles=False, scores=ScoreCollector()).of_tiles()
    assert len(found) == 1000
    assert np.mean(found >= 10) == pytest.approx(0.9, abs=0.03)
    assert (
        _Kept({k: PixelSample(9, 1, 0) for k in (0, 1)}, several_tiles=False, scores=ScoreCollector()).of_tiles() == []
    )
