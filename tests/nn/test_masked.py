"""Masked means and windows against loops."""

import pytest
import torch

from asd_cli.nn.masked import inside, masked_mean, whole_cells


def test_mean_and_gradient_are_those_of_the_masked_pixels() -> None:
    values = torch.tensor([1.0, float("inf"), 3.0, float("nan")], requires_grad=True)
    mean = masked_mean(values, torch.tensor([True, False, True, False]))
    mean.backward()
    assert mean.item() == 2.0
    assert values.grad.tolist() == [0.5, 0, 0.5, 0]


def test_nothing_masked_is_zero_with_gradient_zero() -> None:
    values = torch.ones(3, requires_grad=True)
    mean = masked_mean(values, torch.zeros(3, dtype=torch.bool))
    mean.backward()
    assert mean.item() == 0.0
    assert not values.grad.any()


@pytest.mark.parametrize("window", [1, 2, 3, 7, 12])
def test_windows_inside_a_mask(window: int) -> None:
    mask = torch.rand(2, 11, 13, generator=torch.Generator().manual_seed(0)) > 0.03
    found = inside(mask, window)
    for b in range(2):
        for i in range(11 - window + 1):
            for j in range(13 - window + 1):
                assert found[b, i, j] == mask[b, i : i + window, j : j + window].all()
    assert found.numel() == 2 * max(11 - window + 1, 0) * max(13 - window + 1, 0)


def test_whole_cells() -> None:
    mask = torch.ones(1, 9, 8, dtype=torch.bool)
    mask[0, 5, 1] = False
    assert whole_cells(mask, 4).tolist() == [[[True, True], [False, True]]]
