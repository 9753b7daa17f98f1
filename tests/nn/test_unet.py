"""The U-Net: its halo, the exactness of windows, and a twin that pads nothing and cuts by hand."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asd_cli.nn.unet import SLOPE, ConvDecoder, ConvEncoder, Placed, UNet, initialise, unet_halo


def seeded(bands: int = 2, **sizes: int) -> UNet:
    torch.manual_seed(4)
    net = UNet(bands, **{"width": 4, "depth": 2, "convolutions": 1, **sizes}).double()
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.uniform_(parameter, -0.1, 0.1)
    return net.requires_grad_(False)


def run(net: UNet, x: Tensor) -> Tensor:
    """In double precision, which `forward` leaves at its end."""
    height, width = (n - 2 * net.halo for n in x.shape[-2:])
    return net.decoder(net.encoder(Placed(x, -net.halo))).cut(height, width)


@pytest.mark.parametrize(("depth", "convolutions", "halo"), [(1, 1, 6), (2, 1, 16), (3, 1, 32), (3, 2, 56)])
def test_pixels_within_the_halo_and_no_others_are_seen(depth: int, convolutions: int, halo: int) -> None:
    """By perturbation: gradients of the corner pixels' sum reach no further, and nearly as far."""
    net = seeded(1, depth=depth, convolutions=convolutions)
    assert net.halo == unet_halo(depth, convolutions) == halo
    align = net.align
    reached_before, reached_after = 0, 0
    for size in range(2 * align, 3 * align):
        x = torch.randn(1, 1, size + 2 * halo, size + 2 * halo, dtype=torch.double, requires_grad=True)
        out = run(net, x)
        assert out.shape[-2:] == (size, size)
        (grad,) = torch.autograd.grad(out.square().sum(), x)
        rows = grad[0, 0].abs().sum(1).nonzero().flatten() - halo
        reached_before = max(reached_before, -int(rows[0]))
        reached_after = max(reached_after, int(rows[-1]) + 1 - size)
    assert max(reached_before, reached_after) <= halo
    assert max(reached_before, reached_after) > halo - 2 * align


def padded_twin(net: UNet, x: Tensor) -> Tensor:
    """The U-Net as it is usually written: every convolution padded, everything on the whole image."""

    def level(layers: torch.nn.Sequential, y: Tensor) -> Tensor:
        for layer in layers:
            y = F.leaky_relu(F.conv2d(y, layer.weight, layer.bias, padding=1), SLOPE) if hasattr(layer, "weight") else y
        return y

    encoded = []
    for index, block in enumerate(net.encoder.levels):
        encoded.append(level(block, F.max_pool2d(encoded[-1], 2) if index else x))
    y = encoded[-1]
    for index, (narrow, block) in enumerate(zip(net.decoder.narrow, net.decoder.levels, strict=True)):
        up = narrow(y.repeat_interleave(2, -1).repeat_interleave(2, -2))
        y = level(block, torch.cat([up, encoded[-2 - index]], dim=1))
    return net.decoder.head(y)


@pytest.mark.parametrize(("depth", "convolutions"), [(1, 1), (2, 2), (3, 1)])
def test_it_equals_the_padded_network_away_from_the_edges(depth: int, convolutions: int) -> None:
    net = seeded(depth=depth, convolutions=convolutions)
    x = torch.randn(1, 2, 16 + 4 * net.halo, 24 + 4 * net.halo, dtype=torch.double)
    h = net.halo
    expected = padded_twin(net, x)[..., h:-h, h:-h][..., h:-h, h:-h]
    torch.testing.assert_close(run(net, x[..., h:-h, h:-h]), expected, rtol=1e-10, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(
    top=st.integers(0, 4), left=st.integers(0, 4), height=st.integers(1, 20), width=st.integers(1, 20),
    sizes=st.sampled_from([(1, 1), (2, 1), (3, 1), (2, 2)]),
)  # fmt: skip
def test_aligned_windows_equal_the_whole(top: int, left: int, height: int, width: int, sizes: tuple[int, int]) -> None:
    net = seeded(depth=sizes[0], convolutions=sizes[1])
    h, row, col = net.halo, top * net.align, left * net.align
    x = torch.randn(1, 2, 53 + 2 * h, 53 + 2 * h, dtype=torch.double)
    whole = run(net, x)[..., row : row + height, col : col + width]
    part = run(net, x[..., row : row + height + 2 * h, col : col + width + 2 * h])
    torch.testing.assert_close(part, whole[..., :height, :width], rtol=1e-12, atol=1e-12)


def test_a_shift_that_is_not_aligned_does_change_something() -> None:
    net = seeded()
    x = torch.randn(1, 2, 40 + 2 * net.halo, 40 + 2 * net.halo, dtype=torch.double)
    assert not torch.allclose(run(net, x[..., 1:, 1:])[..., :30, :30], run(net, x)[..., 1:31, 1:31])


def test_without_skips_the_coarsest_level_tells_all() -> None:
    encoder = ConvEncoder(1, width=4, depth=2, convolutions=1)
    decoder = ConvDecoder(encoder.widths, 1, convolutions=1, skips=False)
    halo = unet_halo(2, 1)
    encoded = encoder(Placed(torch.randn(1, 1, 20 + 2 * halo, 20 + 2 * halo), -halo))
    out = decoder([Placed(torch.full_like(p.values, torch.nan), p.start) for p in encoded[:-1]] + [encoded[-1]])
    assert out.cut(20, 20).isfinite().all()
    assert out.cut(20, 20).shape == (1, 1, 20, 20)


def test_any_number_of_bands_and_he_weights_from_a_generator() -> None:
    net = UNet(7, width=16, depth=1)
    assert net(torch.zeros(2, 7, 9 + 2 * net.halo, 5 + 2 * net.halo)).shape == (2, 7, 9, 5)
    state = torch.random.get_rng_state()
    initialise(net, torch.Generator().manual_seed(1))
    first = net.encoder.levels[1][0].weight.clone()
    initialise(net, torch.Generator().manual_seed(1))
    assert torch.equal(first, net.encoder.levels[1][0].weight)
    assert torch.equal(state, torch.random.get_rng_state())
    assert float(first.detach().std()) == pytest.approx((2 / (1 + SLOPE**2) / (9 * 16)) ** 0.5, rel=0.1)
