from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from asd_cli.errors import RasterError
from asd_cli.nn.engines import TorchEngine
from asd_cli.raster.context import read_with_halo
from asd_cli.raster.fill import fill_invalid, fill_margin
from asd_cli.raster.scene import Chip
from asd_cli.raster.windows import Window, reflected_indices, write_windows
from asd_cli.workflows import mapping
from asd_cli.workflows.mapping import BlockMapper, _Readers, map_scene
from asd_cli.workflows.models import Model, load_model
from asd_cli.workflows.stages import StageClock

Array = NDArray[np.float32]
BLOCK = 128


class ArrayReader:
    """A scene in memory; pixels beyond the edges are mirrored."""

    def __init__(self, pixels: Array, valid: NDArray[np.bool_] | None = None) -> None:
        self.valid = np.ones(pixels.shape[1:], bool) if valid is None else valid
        self.pixels = np.where(self.valid, pixels, np.float32(0))
        self.may_have_invalid = valid is not None

    def read(self, window: Window) -> Chip:
        height, width = self.valid.shape
        rows = reflected_indices(window.row, window.row_stop, height)[:, None]
        cols = reflected_indices(window.col, window.col_stop, width)
        return Chip(np.ascontiguousarray(self.pixels[:, rows, cols]), self.valid[rows, cols])


class BoxMapper:
    """Sum of all pixels within the halo: as cheap as it is sensitive to every one of them."""

    halo, channels, block, ahead = 3, 1, BLOCK, 1

    def __call__(self, chip: Chip) -> Array:
        side = 2 * self.halo + 1
        views = np.lib.stride_tricks.sliding_window_view(chip.pixels.astype(np.float64), (side, side), axis=(1, 2))
        return np.asarray(views.sum(axis=(0, 3, 4)), np.float32)[None]

    def submit(self, chip: Chip) -> Callable[[], Array]:
        return lambda: self(chip)


def collect(reader: mapping.ChipReader, mapper: mapping.Mapper, shape: tuple[int, int], size: int) -> Array:
    """The whole map, by windows of `size` px."""
    out = np.full((mapper.channels, *shape), -1, np.float32)

    def sink(window: Window, values: Array) -> None:
        assert values.shape == (mapper.channels, *window.shape)
        out[:, window.row : window.row_stop, window.col : window.col_stop] = values

    map_scene(lambda: nullcontext(reader), mapper, write_windows(*shape, size), sink)
    return out


def naive_distances(model: Model, pixels: Array, valid: NDArray[np.bool_]) -> Array:
    """Mirror, fill, and score the scene in one piece by one call."""
    halo = model.detector.halo
    reach = halo + fill_margin(halo)
    height, width = valid.shape
    odd = ((0, height % 2), (0, width % 2))  # the detector shifts by even numbers of pixels
    pad = [(reach, reach + extra) for _, extra in odd]
    chip = Chip(np.pad(np.where(valid, pixels, 0), [(0, 0), *pad], "reflect"), np.pad(valid, pad, "reflect"))
    cut = fill_margin(halo)
    filled = fill_invalid(chip, halo).pixels[:, cut:-cut, cut:-cut].astype(np.float32)
    with torch.inference_mode():
        out = model.detector.eval().distances(torch.from_numpy(filled.copy())[None])[0, :height, :width].numpy()
    return np.where(valid, out, np.float32(np.nan))


def holes(seed: int, height: int, width: int) -> NDArray[np.bool_]:
    """Validity with a corner, discs, lines and specks missing."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    valid = (y + x > 60) & (random.random((height, width)) > 0.002) & (y != height // 3)
    for _ in range(6):
        row, col, radius = random.integers(0, height), random.integers(0, width), random.integers(2, 40)
        valid &= np.hypot(y - row, x - col) > radius
    return np.asarray(valid)


@pytest.mark.parametrize("with_holes", [True, False])
def test_the_map_is_the_same_bit_for_bit_and_that_of_one_piece(
    random_model: Path, make_texture: Callable[[int, int, int, int], Array], with_holes: bool
) -> None:
    model = load_model(random_model)
    mapper = model.mapper(torch.device("cpu"))
    height, width = 301, 275
    pixels = make_texture(1, 3, height, width)
    valid = holes(2, height, width) if with_holes else np.ones((height, width), bool)
    reader = ArrayReader(pixels, valid if with_holes else None)
    maps = [collect(reader, mapper, (height, width), size) for size in (BLOCK, 2 * BLOCK, 4096)]
    assert maps[0].tobytes() == maps[1].tobytes() == maps[2].tobytes()
    expected = naive_distances(model, pixels, valid)
    np.testing.assert_array_equal(np.isnan(maps[0][0]), ~valid)
    np.testing.assert_allclose(maps[0][0], expected, rtol=1e-5, atol=2e-5)


def test_batches_give_what_single_blocks_give(
    random_model: Path,
    make_texture: Callable[[int, int, int, int], Array],
) -> None:
    detector = load_model(random_model).detector
    height, width = 260, 390
    reader = ArrayReader(make_texture(3, 3, height, width), holes(4, height, width))
    engine = TorchEngine(detector.eval().distances, torch.device("cpu"), BLOCK)
    one = collect(reader, BlockMapper(engine, detector.halo), (height, width), 512)
    engine.batch = 5  # 12 blocks: the last batch is not full
    five = collect(reader, BlockMapper(engine, detector.halo), (height, width), 512)
    np.testing.assert_allclose(one, five, rtol=1e-5, atol=1e-5)
    again = collect(reader, BlockMapper(engine, detector.halo), (height, width), BLOCK)  # one block of each batch
    assert again.tobytes() == five.tobytes()


def test_the_same_neighbourhood_gets_the_same_value_in_any_scene(
    random_model: Path, make_texture: Callable[[int, int, int, int], Array]
) -> None:
    mapper = load_model(random_model).mapper(torch.device("cpu"))
    bright = make_texture(5, 3, 200, 300)
    dark = bright.copy()
    dark[:, :, 160:] = 0
    first = collect(ArrayReader(bright), mapper, (200, 300), 512)[0]
    second = collect(ArrayReader(dark), mapper, (200, 300), 512)[0]
    near = 160 - mapper.halo
    np.testing.assert_array_equal(first[:, :near], second[:, :near])
    assert (first[:, near:160] != second[:, near:160]).any()


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 290),
    width=st.integers(1, 290),
    size=st.sampled_from([BLOCK, 2 * BLOCK, 8 * BLOCK]),
    seed=st.integers(0, 99),
    share=st.sampled_from([0.0, 0.01, 0.6, 1.0]),
)
def test_any_mapper_sees_the_filled_and_mirrored_scene(
    height: int, width: int, size: int, seed: int, share: float
) -> None:
    random = np.random.default_rng(seed)
    valid = random.random((height, width)) >= share
    reader = ArrayReader(random.integers(1, 99, (2, height, width)).astype(np.float32), valid)
    mapper = BoxMapper()
    whole = read_with_halo(reader, Window(0, 0, height, width), mapper.halo)
    expected = np.where(valid, mapper(whole)[0], np.float32(np.nan))
    np.testing.assert_array_equal(collect(reader, mapper, (height, width), size)[0], expected)


def test_several_channels_and_blocks_without_a_valid_pixel() -> None:
    seen: list[int] = []

    def function(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        inner = x[:, :, 2:-2, 2:-2]
        return torch.cat([inner.sum(1, keepdim=True), inner.amax(1, keepdim=True)], dim=1)

    pixels = np.random.default_rng(0).random((3, 200, 300)).astype(np.float32)
    valid = np.ones((200, 300), bool)
    valid[:, 128:] = False
    mapper = BlockMapper(TorchEngine(function, torch.device("cpu"), BLOCK), 2, channels=2)
    result = collect(ArrayReader(pixels, valid), mapper, (200, 300), 512)
    np.testing.assert_allclose(result[0, :, :128], pixels.sum(0)[:, :128], rtol=1e-6)
    np.testing.assert_array_equal(result[1, :, :128], pixels.max(0)[:, :128])
    assert np.isnan(result[:, :, 128:]).all()
    assert seen == [1, 1]  # two blocks of six


class Census:
    """How many of the arrays that were shown to it are alive at once, at most."""

    def __init__(self) -> None:
        self.alive = self.most = 0
        self._lock = threading.Lock()

    def add(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        weakref.finalize(array, self._gone)
        with self._lock:
            self.alive += 1
            self.most = max(self.most, self.alive)
        return array

    def _gone(self) -> None:
        with self._lock:
            self.alive -= 1


@pytest.mark.parametrize("slow", ["reader", "mapper", "sink", "none"])
@pytest.mark.parametrize("workers", [1, 3])
def test_chips_and_maps_alive_are_bounded(slow: str, workers: int) -> None:
    chips, maps = Census(), Census()

    def wait(who: str) -> None:
        time.sleep(0.01 if who == slow else 0.0005)

    class Reader:
        may_have_invalid = False

        def read(self, window: Window) -> Chip:
            wait("reader")
            return Chip(chips.add(np.zeros((1, *window.shape), np.float32)), np.ones(window.shape, bool))

    class Mapper:
        halo, channels, block, ahead = 0, 1, BLOCK, 1

        def submit(self, chip: Chip) -> Callable[[], Array]:
            wait("mapper")
            result = maps.add(np.zeros((1, *chip.valid.shape), np.float32))
            return lambda: result

    handed: list[tuple[Window, int]] = []

    def sink(window: Window, values: Array) -> None:
        wait("sink")
        handed.append((window, threading.get_ident()))

    windows = list(write_windows(40 * BLOCK, BLOCK, BLOCK))
    done: list[int] = []
    map_scene(lambda: nullcontext(Reader()), Mapper(), windows, sink, workers=workers, progress=done.append)
    assert [window for window, _ in handed] == windows
    assert len({thread for _, thread in handed}) == 1
    assert sum(done) == 40 * BLOCK * BLOCK
    assert 1 <= chips.most <= workers + 3
    assert 1 <= maps.most <= 4
    assert chips.alive == maps.alive == 0


class BrokenError(Exception):
    pass


@pytest.mark.parametrize("stage", ["windows", "reader", "mapper", "sink", "progress"])
@pytest.mark.parametrize("at", [0, 3, 5])
def test_an_error_anywhere_stops_everything(stage: str, at: int) -> None:
    error = BrokenError(f"in {stage}")
    calls = {"windows": 0, "reader": 0, "mapper": 0, "sink": 0, "progress": 0}

    def call(who: str) -> None:
        calls[who] += 1
        if who == stage and calls[who] == at + 1:
            raise error

    def windows() -> Iterator[Window]:
        for window in write_windows(6 * BLOCK, BLOCK, BLOCK):
            call("windows")
            yield window

    class Reader:
        may_have_invalid = False

        def read(self, window: Window) -> Chip:
            call("reader")
            return Chip(np.zeros((1, *window.shape), np.float32), np.ones(window.shape, bool))

    class Mapper:
        halo, channels, block, ahead = 0, 1, BLOCK, 1

        def submit(self, chip: Chip) -> Callable[[], Array]:
            call("mapper")
            return lambda: np.zeros((1, *chip.valid.shape), np.float32)

    with pytest.raises(BrokenError) as caught:
        map_scene(
            lambda: nullcontext(Reader()),
            Mapper(),
            windows(),
            lambda *_: call("sink"),
            progress=lambda _: call("progress"),
        )
    assert caught.value is error
    assert calls[stage] == at + 1  # nothing goes on after an error
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("asd-")]


def test_an_interrupt_of_the_reader_is_no_lost_one() -> None:
    class Reader:
        may_have_invalid = False

        def read(self, window: Window) -> Chip:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        map_scene(lambda: nullcontext(Reader()), BoxMapper(), write_windows(9, 9, 512), lambda *_: None)


def test_no_window_is_no_work() -> None:
    reader = ArrayReader(np.zeros((1, 4, 4), np.float32))
    map_scene(lambda: nullcontext(reader), BoxMapper(), [], lambda *_: pytest.fail("called"))


def test_a_window_behind_a_failed_one_tells_the_same_error() -> None:
    """A later window may fail first, while a thread has only just taken an earlier one."""
    reader = ArrayReader(np.zeros((1, 600, 600), np.float32))
    with _Readers(lambda: nullcontext(reader), BoxMapper(), 1, StageClock()) as readers:
        readers._failure = RasterError("the disk is gone")
        with pytest.raises(RasterError, match="the disk is gone"):
            list(readers.chips(write_windows(600, 600, 512)))
