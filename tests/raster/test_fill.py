from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from asd_cli.raster import fill
from asd_cli.raster.fill import fill_invalid, fill_margin
from asd_cli.raster.scene import Chip


def random_chip(seed: int, height: int, width: int, share: float, bands: int = 2) -> Chip:
    rng = np.random.default_rng(seed)
    valid = rng.random((height, width)) >= share
    pixels = rng.random((bands, height, width), dtype=np.float32) + 1
    return Chip(np.where(valid, pixels, np.float32(0)), valid)


def naive_fill(chip: Chip, reach: int) -> NDArray[np.float32]:
    """The definition, pixel by pixel and offset by offset."""
    height, width = chip.valid.shape
    span = range(-reach, reach + 1)
    offsets = sorted((dy * dy + dx * dx, dy, dx) for dy in span for dx in span)

    def usable(y: int, x: int) -> bool:
        return 0 <= y < height and 0 <= x < width and bool(chip.valid[y, x])

    out = np.zeros_like(chip.pixels)
    for y in range(height):
        for x in range(width):
            for _, dy, dx in offsets:
                if usable(y + dy, x + dx):
                    mirrored = usable(y + 2 * dy, x + 2 * dx)
                    nearest = chip.pixels[:, y + dy, x + dx]
                    other = chip.pixels[:, y + 2 * dy, x + 2 * dx] if mirrored else nearest
                    out[:, y, x] = nearest * np.float32(0.5) + other * np.float32(0.5)
                    break
    return out


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999),
    height=st.integers(1, 14),
    width=st.integers(1, 14),
    share=st.sampled_from([0.1, 0.5, 0.9, 0.98]),
    reach=st.integers(1, 5),
)
def test_fill_is_its_definition(seed: int, height: int, width: int, share: float, reach: int) -> None:
    chip = random_chip(seed, height, width, share)
    filled = fill_invalid(chip, reach)
    np.testing.assert_array_equal(filled.pixels, naive_fill(chip, reach))
    np.testing.assert_array_equal(filled.valid, chip.valid)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    share=st.sampled_from([0.2, 0.7, 0.95]),
    reach=st.integers(1, 4),
    row=st.integers(0, 8),
    col=st.integers(0, 8),
)
def test_a_crop_with_margin_fills_as_the_whole(seed: int, share: float, reach: int, row: int, col: int) -> None:
    margin = fill_margin(reach)
    chip = random_chip(seed, 2 * margin + 14, 2 * margin + 16, share)
    box = np.s_[row : row + 2 * margin + 6, col : col + 2 * margin + 8]
    part = fill_invalid(Chip(chip.pixels[:, *box], chip.valid[box]), reach).pixels
    whole = fill_invalid(chip, reach).pixels[:, *box]
    inner = np.s_[:, margin:-margin, margin:-margin]
    np.testing.assert_array_equal(part[inner], whole[inner])


def test_all_valid_is_left_alone() -> None:
    chip = random_chip(1, 5, 6, 0.0)
    assert fill_invalid(chip, 3) is chip


def test_far_pixels_and_empty_chips_are_zero() -> None:
    chip = Chip(np.full((1, 1, 9), 5, np.float32), np.zeros((1, 9), bool))
    assert not fill_invalid(chip, 2).pixels.any()  # whatever stood there
    chip.valid[0, 0] = True
    np.testing.assert_array_equal(fill_invalid(chip, 2).pixels[0, 0], [5, 5, 5, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(fill_invalid(chip, 0).pixels[0, 0], [5, 0, 0, 0, 0, 0, 0, 0, 0])


def test_half_plane_is_half_mirrored_half_repeated() -> None:
    values = np.arange(1, 11, dtype=np.float32)
    chip = Chip(np.tile(values, (1, 7, 1)), np.tile(values <= 6, (7, 1)))
    np.testing.assert_array_equal(fill_invalid(chip, 3).pixels[0, 3], [1, 2, 3, 4, 5, 6, 5.5, 5, 4.5, 0])


@pytest.mark.parametrize("share", [0.2, 0.999])
def test_speckled_masks_are_fast(share: float) -> None:
    chip = random_chip(3, 600, 600, share, bands=3)
    start = time.process_time()
    fill_invalid(chip, 16)
    assert time.process_time() - start < 2  # 0.1 s and 0.5 s on an idle core


@given(
    seed=st.integers(0, 99), part=st.integers(1, 40), reach=st.integers(0, 9), share=st.sampled_from([0.05, 0.5, 0.99])
)
@settings(max_examples=60, deadline=None)
def test_the_parts_that_are_filled_one_by_one_leave_no_trace(seed: int, part: int, reach: int, share: float) -> None:
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(1, 60, 2))
    coarse = random.random((8, 8)).repeat(8, 0).repeat(8, 1)[: shape[0], : shape[1]]
    chip = Chip(random.random((2, *shape)).astype(np.float32), coarse >= share)
    whole = fill_invalid(chip, reach)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fill, "_PART", part)
        found = fill_invalid(chip, reach)
    np.testing.assert_array_equal(found.pixels, whole.pixels)
