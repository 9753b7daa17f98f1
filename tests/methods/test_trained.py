"""What holds for every trained comparison method: halo, windows, masks, model file, and that it learns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from asd_cli.errors import InputError, ModelFileError
from asd_cli.methods.base import TrainingBatch
from asd_cli.methods.registry import method_class
from asd_cli.methods.scaled import ScaledDetector
from asd_cli.nn.devices import torch_threads
from asd_cli.options import TrainOptions
from asd_cli.raster.scene import Chip
from asd_cli.raster.windows import Window, reflected_indices, write_windows
from asd_cli.workflows.mapping import BlockMapper, map_scene

CPU = torch.device("cpu")
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """Settings that are small, how many steps of which rate teach something, and the reach of the losses: how far
    from a pixel that counts another may lie and still change them."""

    options: tuple[tuple[str, str], ...] = ()
    steps: int = 40
    rate: float = 2e-3
    reach: int = 0


SMALL = (("width", "8"),)
CASES = {
    "dsvdd": Case(),
    "riad": Case(options=(*SMALL, ("cells", "2,8"), ("smooth", "5")), reach=32),
    "ganomaly": Case(options=(*SMALL, ("latent", "4")), reach=32),
    "arnet": Case(options=(*SMALL, ("smooth", "3"))),
}
BOTH = {**CASES, "dsvdd-soft": Case(options=(("boundary", "soft"),))}


def options_of(case: str, **changes: Any) -> TrainOptions:
    return TrainOptions(method=case.removesuffix("-soft"), method_options=BOTH[case].options, device="cpu", **changes)


def untrained(case: str, bands: int = 2) -> ScaledDetector:
    options = options_of(case)
    kind = method_class(options.method)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        made = kind.create(bands, **kind.plan(options).config)
    assert isinstance(made, ScaledDetector)
    made.low.fill_(40.0)
    made.high.fill_(160.0)
    return made


@cache
def texture(seed: int, bands: int, height: int, width: int) -> Array:
    """Smooth waves and a little noise around 100, the bands alike."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = sum(
        np.sin((x * np.cos(a) + y * np.sin(a)) * f + p)
        for a, f, p in zip(random.uniform(0, 6, 4), random.uniform(0.2, 0.5, 4), random.uniform(0, 6, 4), strict=True)
    )
    pixels = 100 + 12 * waves + random.normal(0, 2, (bands, height, width))
    return np.asarray(pixels, np.float32)


def batches(halo: int, bands: int = 2, side: int = 48) -> Iterator[TrainingBatch]:
    around = side + 2 * halo
    number = 0
    while True:
        image = torch.from_numpy(texture(number % 8, bands, around, around))[None]
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(number))
        mask = torch.ones(1, side, side, dtype=torch.bool)
        yield TrainingBatch(image, (220 - image if number % 2 else image) + 10 * noise, mask, seed=number)
        number += 1


@dataclass(frozen=True)
class Learned:
    detector: ScaledDetector
    losses: list[float]


@cache
def learned(case: str) -> Learned:
    """A method after some steps on a small set."""
    made, losses = untrained(case), []
    objective = made.objective(options_of(case), warmup_epochs=1)
    assert objective is not None
    data = batches(made.halo)
    few = [next(data) for _ in range(3)]
    figures = objective.review(0, few, few[:1])
    optimizer = torch.optim.Adam(objective.module.parameters(), lr=BOTH[case].rate, weight_decay=1e-6)
    for step in range(BOTH[case].steps):
        if step and step % 20 == 0:
            figures = objective.review(step // 20, few, few[:1])
        optimizer.zero_grad()
        terms = objective.losses(next(data), step // 20)
        loss = torch.stack(list(terms.values())).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert {"loss", *figures} <= set(objective.short_names)
    return Learned(made.requires_grad_(False).eval(), losses)


def odd_scene(bands: int = 2, side: int = 96) -> tuple[Array, NDArray[np.bool_]]:
    """A texture with a checkered square, and where it is."""
    pixels, odd = texture(99, bands, side, side).copy(), np.zeros((side, side), bool)
    odd[40:64, 30:54] = True
    y, x = np.mgrid[:side, :side]
    pixels[:, odd] = np.where((x // 2 + y // 2) % 2, 150, 50)[odd]
    return pixels, odd


class ArrayReader:
    """A scene in memory; pixels beyond the edges are mirrored."""

    may_have_invalid = False

    def __init__(self, pixels: Array) -> None:
        self.pixels = pixels

    def read(self, window: Window) -> Chip:
        rows = reflected_indices(window.row, window.row_stop, self.pixels.shape[1])[:, None]
        cols = reflected_indices(window.col, window.col_stop, self.pixels.shape[2])
        pixels = np.ascontiguousarray(self.pixels[:, rows, cols])
        return Chip(pixels, np.ones(pixels.shape[1:], bool))


def mapped(mapper: BlockMapper, pixels: Array, size: int) -> Array:
    height, width = pixels.shape[1:]
    out = np.zeros((height, width), np.float32)

    def sink(window: Window, values: Array) -> None:
        out[window.row : window.row_stop, window.col : window.col_stop] = values[0]

    map_scene(lambda: nullcontext(ArrayReader(pixels)), mapper, write_windows(height, width, size), sink)
    return out


@pytest.mark.parametrize("case", BOTH)
def test_the_loss_falls_and_an_odd_patch_stands_out(case: str) -> None:
    found = learned(case)
    assert np.mean(found.losses[-8:]) < 0.7 * np.mean(found.losses[:8])
    pixels, odd = odd_scene()
    with BlockMapper(found.detector.distance_engine(CPU, 128), found.detector.halo) as mapper:
        distances = mapped(mapper, pixels, 128)
    assert distances.min() >= 0
    assert roc_auc_score(odd.ravel(), distances.ravel()) > 0.8


@pytest.mark.parametrize("case", CASES)
def test_the_map_is_the_same_bit_for_bit_and_that_of_one_piece(case: str) -> None:
    detector = learned(case).detector
    pixels = texture(5, 2, 300, 140)
    with BlockMapper(detector.distance_engine(CPU, 128), detector.halo, threads=2) as mapper:
        maps = [mapped(mapper, pixels, size) for size in (128, 256, 4096)]
    assert maps[0].tobytes() == maps[1].tobytes() == maps[2].tobytes()
    chip = ArrayReader(pixels).read(Window(0, 0, 300, 140).expand(detector.halo))
    with torch.inference_mode():
        expected = detector.distances(torch.from_numpy(chip.pixels)[None])[0].numpy()
    np.testing.assert_allclose(maps[0], expected, rtol=1e-5, atol=1e-5 * expected.max())


@pytest.mark.parametrize("case", CASES)
def test_the_map_does_not_depend_on_the_number_of_threads(case: str) -> None:
    detector, pixels, maps = learned(case).detector, texture(5, 2, 140, 140), []
    for count in (1, 3):
        with torch_threads(count), BlockMapper(detector.distance_engine(CPU, 128), detector.halo, threads=count) as m:
            maps.append(mapped(m, pixels, 256))
    assert maps[0].tobytes() == maps[1].tobytes()


@pytest.mark.parametrize("case", CASES)
def test_the_halo_holds_all_that_a_pixel_depends_on(case: str) -> None:
    """What lies a halo away from the output changes nothing; what lies nearer does."""
    detector = learned(case).detector
    h, side, more = detector.halo, 3, detector.align
    x = torch.from_numpy(texture(3, 2, side + 2 * (h + more), side + 2 * (h + more)))[None]
    inner = x[..., more:-more, more:-more]
    with torch.inference_mode():
        base = detector.distances(inner)
        assert base.shape == (1, side, side)
        larger = detector.distances(x)[..., more : more + side, more : more + side]
        torch.testing.assert_close(larger, base, rtol=1e-5, atol=1e-5 * float(base.max()))
        inner[..., h - 3] += 40
        assert not torch.equal(detector.distances(inner), base)


@pytest.mark.parametrize("case", CASES)
def test_shifts_by_the_alignment_change_nothing(case: str) -> None:
    detector = learned(case).detector
    h, align = detector.halo, detector.align
    x = torch.from_numpy(texture(4, 2, align + 24 + 2 * h, align + 16 + 2 * h))[None]
    with torch.inference_mode():
        whole, part = detector.distances(x), detector.distances(x[..., align:, align:])
    torch.testing.assert_close(part, whole[..., align:, align:], rtol=1e-5, atol=1e-5 * float(whole.max()))


@pytest.mark.parametrize("case", BOTH)
def test_pixels_outside_the_mask_and_its_reach_count_nowhere(case: str) -> None:
    results = []
    for wild in (False, True):
        made = untrained(case)
        objective = made.objective(options_of(case), warmup_epochs=0)
        assert objective is not None
        h, reach = made.halo, made.halo + BOTH[case].reach
        given = next(batches(h, side=24 + reach))
        given.mask[:, :, 12:] = False
        given.mask[:, 3, 3] = False
        if wild:
            given.image[..., 12 + h + reach :] = 1e30
            given.virtual[..., 12 + h + reach :] = -1e30
        figures = objective.review(0, [given], [given])
        terms = objective.losses(given, 3)
        torch.stack(list(terms.values())).sum().backward()
        gradients = [p.grad for p in objective.module.parameters() if p.grad is not None]
        assert any(g.any() for g in gradients)
        results.append([torch.tensor(list(figures.values())), *terms.values(), *gradients, *made.buffers()])
    for one, two in zip(*results, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("case", BOTH)
@pytest.mark.parametrize("shape", [(1, 40), (5, 3)])
def test_slivers_and_single_pixels_will_do(case: str, shape: tuple[int, int]) -> None:
    made = untrained(case, bands=1)
    objective = made.objective(options_of(case), warmup_epochs=0)
    assert objective is not None
    h, (height, width) = made.halo, shape
    image = torch.from_numpy(texture(1, 1, height + 2 * h, width + 2 * h))[None]
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[0, 0, 1] = True
    given = TrainingBatch(image, image + 1, mask, seed=3)
    objective.review(0, [given], [given])
    terms = objective.losses(given, 0)
    torch.stack(list(terms.values())).sum().backward()
    assert all(term.isfinite() for term in terms.values())
    assert all(p.grad.isfinite().all() for p in objective.module.parameters() if p.grad is not None)


@pytest.mark.parametrize("case", sorted(set(CASES) - {"dsvdd"}))
def test_losses_in_mixed_precision(case: str) -> None:
    """As on GPUs; all but the convolutions stays in single precision."""
    made = untrained(case)
    objective = made.objective(options_of(case), warmup_epochs=0)
    assert objective is not None
    given = next(batches(made.halo))
    expected = objective.losses(given, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = objective.losses(given, 0)
        torch.stack(list(found.values())).sum().backward()
    for name, term in found.items():
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, expected[name], rtol=0.05, atol=1e-3)
    assert all(p.grad.isfinite().all() for p in objective.module.parameters() if p.grad is not None)


@pytest.mark.parametrize("case", CASES)
def test_restore_gives_back_the_same_method(case: str) -> None:
    made = learned(case).detector
    kind = type(made)
    again = kind.restore(2, made.config(), made.arrays()).eval()
    assert (again.config(), again.halo, again.align, again.bands) == (made.config(), made.halo, made.align, 2)
    x = texture(6, 2, 32 + 2 * made.halo, 32 + 2 * made.halo)[None]
    assert np.array_equal(made.distance_engine(CPU, 32)(x), again.distance_engine(CPU, 32)(x))
    with pytest.raises(ModelFileError, match=r"is \w+\[.*\], not the"):
        kind.restore(3, made.config(), made.arrays())
    with pytest.raises(ModelFileError, match="a range is empty"):
        kind.restore(2, made.config(), {**made.arrays(), "high": made.arrays()["low"]})


@pytest.mark.parametrize("case", CASES)
def test_options_that_mean_nothing_are_refused(case: str) -> None:
    kind = method_class(case)
    with pytest.raises(InputError, match=f"--recipe paper: is one of the method asd; leave it out for {case}"):
        kind.plan(TrainOptions(recipe="paper"))
    with pytest.raises(InputError, match=f"--without: means nothing to the method {case}; leave it out"):
        kind.plan(TrainOptions(without=("diverse",)))
    with pytest.raises(InputError, match=f"--option colour: not known to the method {case}; it has: "):
        kind.plan(TrainOptions(method_options=(("colour", "1"),)))
