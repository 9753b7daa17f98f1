"""Dense evaluation against cutting patches, and the exactness that windowed scoring rests on."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from asd_cli.nn.pyramid import DensePyramid, MaskedBatchNorm2d, PatchNetwork, scale_exponent


def patch_by_patch(branch: PatchNetwork, x: Tensor, scale: float, halo: int, patch_size: int) -> Tensor:
    """Naive twin: resize, cut one patch per pixel, run the network with its real strides, put the vectors back."""
    height, width = x.shape[-2] - 2 * halo, x.shape[-1] - 2 * halo
    image = x if scale >= 1 else x[..., :: int(1 / scale), :: int(1 / scale)]
    if scale > 1:
        image = image.repeat_interleave(int(scale), -1).repeat_interleave(int(scale), -2)
    rows = []
    for row in range(height):
        for col in range(width):
            top = int((row + halo) * scale) - patch_size // 2
            left = int((col + halo) * scale) - patch_size // 2
            patch = image[..., top : top + patch_size, left : left + patch_size]
            y = F.max_pool2d(F.relu(branch.conv1(patch)), 2)
            y = F.max_pool2d(F.relu(branch.conv2(y)), 2)
            rows.append(branch.conv4(F.relu(branch.conv3(y))).flatten())
    return torch.stack(rows, dim=-1).view(1, -1, height, width)


@pytest.mark.parametrize(
    ("scale", "patch_size"),
    [(0.25, 15), (0.5, 15), (1.0, 15), (2.0, 15), (4.0, 15), (8.0, 15), (0.5, 19), (1.0, 23), (2.0, 23)],
)
def test_dense_equals_patch_by_patch(scale: float, patch_size: int) -> None:
    torch.manual_seed(3)
    pyramid = DensePyramid(2, 3, scales=[scale], patch_size=patch_size).double()
    # patches of the naive twin keep the pixel that pooling floors away, so they need a little more room
    x = torch.randn(1, 2, 7 + 2 * pyramid.halo, 6 + 2 * pyramid.halo, dtype=torch.float64)
    room = 8 * max(pyramid.align, 1)
    padded = F.pad(x, (room,) * 4)
    naive = patch_by_patch(pyramid.branches[0], padded, scale, pyramid.halo + room, patch_size)
    with torch.no_grad():
        torch.testing.assert_close(pyramid(x), naive, rtol=1e-10, atol=1e-12)


def test_default_halo_and_alignment() -> None:
    pyramid = DensePyramid(3, 5)
    assert (pyramid.halo, pyramid.align) == (16, 2)


def test_reach_is_within_the_halo_and_no_wider_than_stated() -> None:
    torch.manual_seed(0)
    pyramid = DensePyramid(1, 2).double()
    x = torch.randn(1, 1, 64 + 32, 64 + 32, dtype=torch.float64)
    reached: set[int] = set()
    with torch.no_grad():
        base = pyramid(x)
        for row in (40, 41):
            touched = x.clone()
            touched[..., row + 16, 40 + 16] += 100.0
            changed = ((pyramid(touched) - base).abs().sum(1)[0] > 0).any(dim=1).nonzero().flatten()
            reached |= {int(r) - row for r in changed}
    assert min(reached) == -12
    assert max(reached) == 15


@settings(max_examples=15, deadline=None)
@given(
    top=st.integers(0, 9), left=st.integers(0, 9), height=st.integers(1, 20), width=st.integers(1, 20),
    scales=st.sampled_from([(0.5, 1.0, 2.0), (1.0,), (0.25, 1.0), (2.0, 4.0)]),
)  # fmt: skip
def test_aligned_windows_equal_the_whole(
    top: int, left: int, height: int, width: int, scales: tuple[float, ...]
) -> None:
    torch.manual_seed(1)
    pyramid = DensePyramid(2, 2, scales=scales).double()
    h = pyramid.halo
    row, col = top * pyramid.align, left * pyramid.align
    x = torch.randn(1, 2, 64 + 2 * h, 64 + 2 * h, dtype=torch.float64)
    with torch.no_grad():
        whole = pyramid(x)[..., row : row + height, col : col + width]
        part = pyramid(x[..., row : row + height + 2 * h, col : col + width + 2 * h])
    torch.testing.assert_close(part, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [0.3, 3.0, 0.0, -1.0])
def test_scales_are_powers_of_two(scale: float) -> None:
    with pytest.raises(ValueError, match="power of two"):
        scale_exponent(scale)


def test_small_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        PatchNetwork(3, 5, patch_size=9)


def test_masked_norm_equals_plain_norm_of_the_masked_pixels() -> None:
    torch.manual_seed(2)
    x = torch.randn(2, 4, 6, 7)
    mask = torch.rand(2, 6, 7) > 0.4
    masked, plain = MaskedBatchNorm2d(4), nn.BatchNorm2d(4)
    out = masked(x, mask)
    picked = x.movedim(1, -1)[mask]
    expected = plain(picked.T[None, :, :, None])
    torch.testing.assert_close(out.movedim(1, -1)[mask], expected[0, :, :, 0].T)
    torch.testing.assert_close(masked.running_var, plain.running_var)
    torch.testing.assert_close(masked.running_mean, plain.running_mean)


def test_masked_norm_ignores_what_is_outside_the_mask() -> None:
    torch.manual_seed(2)
    x = torch.randn(1, 3, 5, 5)
    mask = torch.zeros(1, 5, 5, dtype=torch.bool)
    mask[:, :3] = True
    other = x.clone()
    other[..., 3:, :] = 1e6
    first, second = MaskedBatchNorm2d(3), MaskedBatchNorm2d(3)
    assert torch.equal(first(x, mask)[..., :3, :], second(other, mask)[..., :3, :])
    assert torch.equal(first.running_var, second.running_var)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_without_bias_it_is_the_pyramid_of_zero_biases(scale: float) -> None:
    bare, full = (DensePyramid(2, 3, scales=[scale], bias=bias) for bias in (False, True))
    assert not [name for name in bare.state_dict() if name.endswith("bias")]
    state = {name: torch.zeros_like(value) for name, value in full.state_dict().items()}
    full.load_state_dict(state | bare.state_dict())
    x = torch.randn(1, 2, 9 + 2 * bare.halo, 8 + 2 * bare.halo)
    assert torch.equal(bare(x), full(x))
    assert not bare(torch.zeros_like(x)).any()
