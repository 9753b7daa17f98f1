from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from asd_cli.nn import products
from asd_cli.nn.products import hidden_layer


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.integers(1, 4),
    stride=st.sampled_from([1, 2, 4]),
    dilation=st.sampled_from([1, 2, 4]),
    batch=st.integers(1, 3),
    extra=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    bias=st.tuples(st.booleans(), st.booleans()),
    strip=st.sampled_from([1, 20, 4096]),
    seed=st.integers(0, 99),
)
def test_value_and_gradients_are_those_of_convolutions(
    kernel: int, stride: int, dilation: int, *, batch: int, extra: tuple[int, int], bias: tuple[bool, bool],
    strip: int, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    first = nn.Conv2d(3, 7, kernel, bias=bias[0]).double()
    last = nn.Conv2d(7, 2, 1, bias=bias[1]).double()
    reach = dilation * (kernel - 1) + 1
    x = torch.randn(batch, 3, reach + extra[0], reach + extra[1], dtype=torch.double, requires_grad=True)
    expected = last(F.relu(F.conv2d(x, first.weight, first.bias, stride=stride, dilation=dilation)))
    wanted = [x, *first.parameters(), *last.parameters()]
    weight = torch.randn_like(expected)
    theirs = torch.autograd.grad((expected * weight).sum(), wanted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "_STRIP_PIXELS", strip)
        found = hidden_layer(x, first, last, stride=stride, dilation=dilation)
        mine = torch.autograd.grad((found * weight).sum(), wanted)
    torch.testing.assert_close(found, expected)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_channels_last_input_is_taken_as_it_is() -> None:
    torch.manual_seed(0)
    first, last = nn.Conv2d(16, 8, 2), nn.Conv2d(8, 3, 1)
    x = torch.randn(1, 16, 9, 9)
    expected = hidden_layer(x, first, last)
    assert torch.equal(hidden_layer(x.contiguous(memory_format=torch.channels_last), first, last), expected)
