"""RIAD: the sets, whence each inpainted pixel comes, the losses at the edge of a mask, and the map."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from asd_cli.errors import InputError, ModelFileError
from asd_cli.methods import riad
from asd_cli.methods.base import TrainingBatch
from asd_cli.methods.riad import PERIOD, RiadMethod, RiadSettings, drawn_sets, fixed_sets
from asd_cli.nn.similarity import gradient_difference
from asd_cli.options import TrainOptions


def method(**settings: Any) -> RiadMethod:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = RiadMethod(1, RiadSettings(**{"width": 4, "depth": 1, "cells": (2, 8), "smooth": 3, **settings}))
    made.low.fill_(0.0)
    made.high.fill_(2.0)
    return made.requires_grad_(False)


def raw(made: RiadMethod, height: int, width: int, seed: int = 0) -> torch.Tensor:
    shape = (1, 1, height + 2 * made.halo, width + 2 * made.halo)
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("cell", [2, 4, 8, 16])
@pytest.mark.parametrize("count", [2, 3])
def test_sets_share_out_whole_cells_evenly(cell: int, count: int) -> None:
    sets = drawn_sets(64, 50, cell, count, np.random.default_rng(3))
    assert sets.shape == (64, 50)
    corners = sets[::cell, ::cell]
    assert (sets == corners.repeat(cell, 0).repeat(cell, 1)[:64, :50]).all()
    sizes = np.bincount(corners.ravel(), minlength=count)
    assert sizes.max() - sizes.min() <= 1
    assert not (sets == drawn_sets(64, 50, cell, count, np.random.default_rng(4))).all()


def test_the_sets_of_scoring_are_fixed_and_travel_in_the_model() -> None:
    made = method()
    assert np.array_equal(made.arrays()["pattern"], np.stack([fixed_sets(2, 3), fixed_sets(8, 3)]))
    assert 128 % PERIOD == 0
    assert (made.align, made.halo) == (64, made.network.halo + 16)
    for size in (2, 8):
        assert np.bincount(fixed_sets(size, 3).ravel()).min() > 0.3 * PERIOD**2


def test_a_pixel_is_inpainted_without_a_look_at_its_own_cell() -> None:
    made = method()
    h = made.network.halo
    x = torch.randn(1, 1, 16 + 2 * h, 16 + 2 * h)
    sets = torch.from_numpy(drawn_sets(*x.shape[-2:], 8, 3, np.random.default_rng(0)))
    base = made.inpainted(x, sets)
    for number in range(3):
        changed = torch.where(sets == number, torch.randn_like(x), x)
        same = made.inpainted(changed, sets) == base
        inner = sets[h:-h, h:-h] == number
        assert same[0, 0][inner].all()
        assert not same[0, 0][~inner].all()


def test_losses_are_nothing_where_only_pixels_outside_the_mask_differ() -> None:
    x = torch.rand(1, 2, 48, 40)
    y, mask = x.clone(), torch.ones(1, 48, 40, dtype=torch.bool)
    y[..., 20, 17] += 1
    mask[0, 20, 17] = False
    assert riad._gradient_loss(x, y, mask) == 0
    assert riad._structure_loss(x, y, mask).abs() < 1e-6
    mask[:] = True
    assert riad._gradient_loss(x, y, mask) > 0
    assert riad._structure_loss(x, y, mask) > 1e-4


def test_losses_follow_the_seed_of_the_batch() -> None:
    made = method()
    goal, image = made.objective(TrainOptions(), warmup_epochs=0), raw(made, 24, 24)
    mask = torch.ones(1, 24, 24, dtype=torch.bool)
    found = [
        [term.item() for term in goal.losses(TrainingBatch(image, image, mask, seed=seed), 0).values()]
        for seed in (5, 5, 6)
    ]  # fmt: skip
    assert found[0] == found[1] != found[2]
    random = np.random.default_rng(5)
    cell = (2, 8)[int(random.integers(2))]
    x = made.normalise(image)[..., made.margin : -made.margin, made.margin : -made.margin]
    result = made.inpainted(x, torch.from_numpy(drawn_sets(*x.shape[-2:], cell, 3, random)))
    target = x[..., made.network.halo : -made.network.halo, made.network.halo : -made.network.halo]
    assert found[0][0] == pytest.approx((result - target).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize(("height", "width"), [(16, 24), (9, 5), (1, 1)])
def test_the_map_pixel_by_pixel(height: int, width: int) -> None:
    made = method()
    x = raw(made, height, width)
    found = made.distances(x)[0]
    h, m = made.network.halo, made.margin
    u = x - 1
    rows, cols = (np.arange(-made.halo, n + made.halo) % PERIOD for n in (height, width))
    total = torch.zeros(height + 2 * m, width + 2 * m)
    for cell in (2, 8):
        y = made.inpainted(u, torch.from_numpy(fixed_sets(cell, 3)[np.ix_(rows, cols)]))
        t = u[..., h:-h, h:-h]
        for step in (1, 2, 4, 8):
            difference = gradient_difference(avg_pool2d(t, step), avg_pool2d(y, step))[0]
            for i, j in np.ndindex(*difference.shape):  # the centre of window i is cell i + 1
                total[(i + 1) * step : (i + 2) * step, (j + 1) * step : (j + 2) * step] += difference[i, j] / 8
    for i, j in np.ndindex(height, width):
        expected = total[m + i - 1 : m + i + 2, m + j - 1 : m + j + 2].mean()
        torch.testing.assert_close(found[i, j], expected, rtol=1e-4, atol=1e-6)


def test_a_damaged_pattern_is_refused() -> None:
    made = method()
    arrays = made.arrays()
    arrays["pattern"] = arrays["pattern"] + np.uint8(1)
    with pytest.raises(ModelFileError, match="tensor pattern is damaged: it names a set that there is not"):
        RiadMethod.restore(1, made.config(), arrays)


def test_settings() -> None:
    plan = RiadMethod.plan(TrainOptions(method_options=(("cells", "4,8"), ("sets", "4"))))
    assert (plan.config["cells"], plan.config["sets"], plan.config["smooth"]) == ((4, 8), 4, 21)
    for option, text in [
        (("cells", "3,8"), "--option cells=3,8 are not powers of two within 2..32"),
        (("cells", "8,8"), "--option cells=8,8 names one twice"),
        (("sets", "1"), "--option sets=1 is not within 2..8"),
    ]:
        with pytest.raises(InputError, match=text):
            RiadMethod.plan(TrainOptions(method_options=(option,)))
