"""`--unlabelled`: a scene that is its own reference, anomalies inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asd_cli.errors import InputError, LabelError
from asd_cli.options import TileOptions, TrainOptions
from asd_cli.workflows.models import load_model
from asd_cli.workflows.train import train


@pytest.fixture
def options(make_tiles: Callable[..., Path], tmp_path: Path) -> TrainOptions:
    """One tile of normal noise with 3 % of pixels far away; the labels call half of it water."""
    random = np.random.default_rng(0)
    image = random.normal(100, 5, (2, 60, 70)).astype(np.float32)
    odd = random.random((60, 70)) < 0.03
    image[:, odd] += 60
    labels = np.ones((60, 70), np.uint8)
    labels[30:] = 2
    folder = make_tiles(tmp_path / "tiles", [image], [labels])
    return TrainOptions(
        tiles=TileOptions(tiles=(str(folder),)),
        output=tmp_path / "model.safetensors",
        method="rx",
        unlabelled=True,
        device="cpu",
    )


def test_every_pixel_counts_and_the_odd_ones_do_not_shape_the_gaussian(options: TrainOptions) -> None:
    report = train(options)
    model = load_model(report.model)
    assert report.normal_pixels == report.held_out.pixels == 60 * 70
    assert report.held_out_tiles == model.header["training"]["held_out_tiles"] == 0
    assert model.header["training"]["unlabelled"] is True
    assert model.normal is not None
    assert model.normal.moments.count == pytest.approx(0.95 * 60 * 70, abs=2)
    spread = np.sqrt(np.diag(model.normal.moments.covariance)) * (model.detector.high - model.detector.low).numpy() / 2
    np.testing.assert_allclose(spread, 5, rtol=0.1)  # with the odd pixels it would be 11


def test_labels_that_are_named_are_refused(options: TrainOptions, tmp_path: Path) -> None:
    tiles = TileOptions(tiles=options.tiles.tiles, labels=str(tmp_path))
    with pytest.raises(LabelError, match="--labels: labels are not looked at here; leave it out"):
        train(TrainOptions(tiles=tiles, output=options.output, unlabelled=True, device="cpu"))


def test_a_share_to_hold_out_is_refused(options: TrainOptions) -> None:
    with pytest.raises(InputError, match=r"--holdout 0\.5: nothing is held out with --unlabelled; leave it out"):
        train(replace(options, holdout=0.5))


def test_asd_trains_so_too(options: TrainOptions) -> None:
    given: dict[str, Any] = {"tiles": options.tiles, "output": options.output, "unlabelled": True}
    report = train(TrainOptions(**given, steps=2, crop=32, device="cpu"))
    assert report.held_out.pixels == report.normal_pixels == 60 * 70
    assert np.isfinite(report.held_out.threshold)
