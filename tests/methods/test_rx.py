"""RX against its per-pixel definition, its modes, and what each of them makes of odd input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from asd_cli.data.scaling import Scaling
from asd_cli.density.gaussian import Gaussian, fit_ledoit_wolf
from asd_cli.density.moments import Moments
from asd_cli.errors import InputError, ModelFileError
from asd_cli.methods.rx import local
from asd_cli.methods.rx.local import Ring, box_sum, eliminated, ring_sums
from asd_cli.methods.rx.method import RxMethod
from asd_cli.options import TrainOptions

CPU = torch.device("cpu")


def correlated(bands: int, height: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    """(bands, height, width) raw pixels around 1000 whose bands go together."""
    random = np.random.default_rng(seed)
    mix = random.normal(size=(bands, bands)) * 30
    return (1000 + np.einsum("ij,jhw->ihw", mix, random.normal(size=(bands, height, width)))).astype(np.float32)


def fitted(image: NDArray[np.float32], **config: Any) -> tuple[RxMethod, Gaussian]:
    """A detector whose Gaussian is that of the image's pixels."""
    bands = len(image)
    made = RxMethod.create(bands, **config)
    pixels = image.reshape(bands, -1)
    made.set_scaling(Scaling(pixels.min(axis=1), pixels.max(axis=1)))
    with torch.no_grad():
        described = made.descriptors(torch.from_numpy(np.pad(image, ((0, 0), *[(made.halo,) * 2] * 2)))[None])[0]
    gaussian = fit_ledoit_wolf(Moments.of(described.flatten(1).T.numpy()))
    made.set_gaussian(gaussian)
    return made.eval(), gaussian


def distances(made: RxMethod, image: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        found: NDArray[np.float32] = made.distances(torch.from_numpy(image)[None])[0].numpy()
    return found


def scaled(made: RxMethod, image: NDArray[np.float32]) -> NDArray[np.float64]:
    low, high = made.low.double().numpy()[:, None, None], made.high.double().numpy()[:, None, None]
    return (image.astype(np.float64) - low) / (high - low) * 2 - 1


def naive_local(pixels: NDArray[np.float64], ring: Ring, covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixel by pixel from the definition, with no whitening."""
    outer, thick = ring.outer, (ring.outer - ring.inner) // 2
    keep = np.ones((outer, outer), bool)
    keep[thick:-thick, thick:-thick] = False
    height, width = (n - outer + 1 for n in pixels.shape[1:])
    out = np.empty((height, width))
    for row in range(height):
        for col in range(width):
            around = pixels[:, row : row + outer, col : col + outer][:, keep]
            spread = (1 - ring.share) * np.cov(around, bias=True).reshape(covariance.shape) + ring.share * covariance
            off = pixels[:, row + ring.halo, col + ring.halo] - around.mean(axis=1)
            out[row, col] = np.sqrt(off @ np.linalg.solve(spread, off))
    return out


@pytest.mark.parametrize("bands", [1, 3, 120])
def test_global_is_the_distance_from_the_gaussian(bands: int) -> None:
    image = correlated(bands, 20, 23)
    made, gaussian = fitted(image, mode="global")
    assert made.halo == 0
    expected = gaussian.distance(scaled(made, image).reshape(bands, -1).T)
    np.testing.assert_allclose(distances(made, image).ravel(), expected, rtol=1e-5)


def test_global_keeps_its_digits_when_bands_hardly_differ() -> None:
    random = np.random.default_rng(2)
    base = random.integers(5000, 9000, (1, 30, 30))
    image = np.concatenate([base + random.integers(0, 2, base.shape) for _ in range(40)]).astype(np.float32)
    made, gaussian = fitted(image, mode="global")
    assert gaussian.condition > 1e4
    expected = gaussian.distance(scaled(made, image).reshape(40, -1).T)
    np.testing.assert_allclose(distances(made, image).ravel(), expected, rtol=1e-6)


def test_subspace_measures_along_the_thin_axes_only() -> None:
    image = correlated(5, 24, 24)
    made, gaussian = fitted(image, mode="subspace", drop=2)
    variances, axes = np.linalg.eigh(gaussian.covariance)
    along = (scaled(made, image).reshape(5, -1).T - gaussian.mean) @ axes
    expected = np.sqrt((along[:, :3] ** 2 / variances[:3]).sum(axis=1))
    np.testing.assert_allclose(distances(made, image).ravel(), expected, rtol=1e-5)
    widest = np.linalg.solve(np.diag(2 / (made.high - made.low).double().numpy()), axes[:, -1])
    moved = (image[:, :1, :1].astype(np.float64) + 3 * widest[:, None, None]).astype(np.float32)
    np.testing.assert_allclose(distances(made, moved), distances(made, image[:, :1, :1]), rtol=1e-3)


@pytest.mark.parametrize("bands", [1, 4, 13])
@pytest.mark.parametrize("windows", [(1, 3), (3, 9)])
def test_local_is_its_definition(bands: int, windows: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_SMALL_PART", 8)
    inner, outer = windows
    image = correlated(bands, 19 + outer, 12 + outer, seed=bands)
    made, gaussian = fitted(image, mode="local", inner=inner, outer=outer, share=0.2)
    expected = naive_local(scaled(made, image), made._ring, gaussian.covariance)
    assert expected.shape == tuple(n - 2 * made.halo for n in image.shape[1:])
    np.testing.assert_allclose(distances(made, image), expected, rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
def test_both_ways_of_local_agree(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_ROOM", 5000)
    white = torch.randn(batch, 3, 30, 25, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ring = Ring(3, 7, 0.05)
    by_planes = ring.squared_distances(white)
    monkeypatch.setattr(local, "_NARROW", 2)
    by_pixels = ring.squared_distances(white)
    assert by_planes.shape == (batch, 24, 19)
    torch.testing.assert_close(by_planes, by_pixels, rtol=1e-9, atol=1e-9)


def test_a_far_pixel_in_the_inner_window_costs_no_digits() -> None:
    image = correlated(3, 21, 21)
    made, gaussian = fitted(image, mode="local", inner=3, outer=9)
    image[:, 10, 10] = 2e4
    expected = naive_local(scaled(made, image), made._ring, gaussian.covariance)
    found = distances(made, image)
    assert found[6, 6] == found.max() > 50
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_flat_surroundings_make_nothing_of_small_differences() -> None:
    image = correlated(2, 60, 60)
    made, _ = fitted(image, mode="local", inner=3, outer=9, share=0.05)
    flat = np.repeat(np.repeat(image[:, :1, :1], 21, 1), 21, 2)
    assert distances(made, flat).max() < 1e-12
    flat[:, 10, 10] += 1  # a tenth of the normal spread at most
    assert 0 < distances(made, flat).max() < 2


def test_values_far_beyond_any_range_stay_finite() -> None:
    image = correlated(3, 25, 25)
    for config in ({"mode": "global"}, {"mode": "local", "inner": 3, "outer": 9}, {"mode": "subspace"}):
        made, _ = fitted(image, **config)
        wild = image.copy()
        wild[:, 12, 12], wild[0, 3, 3] = 3e38, -3e38
        found = distances(made, wild)
        assert np.isfinite(found).all()
        assert found.max() > 100


def test_a_block_equals_the_same_pixels_of_the_whole() -> None:
    image = correlated(4, 150, 170)
    made, _ = fitted(image, mode="local", inner=5, outer=15)
    whole = distances(made, image)
    part = distances(made, image[:, 30 : 30 + 64 + 14, 41 : 41 + 64 + 14])
    np.testing.assert_allclose(part, whole[30:94, 41:105], rtol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 12])
def test_box_sums(size: int) -> None:
    x = np.random.default_rng(0).integers(0, 100, (2, 14, 17)).astype(np.float64)
    expected = np.lib.stride_tricks.sliding_window_view(x, size, axis=1).sum(axis=-1)
    assert np.array_equal(box_sum(torch.from_numpy(x), size, -2).numpy(), expected)


def test_ring_sums_leave_the_inner_window_out() -> None:
    x = torch.zeros(1, 9, 9)
    x[0, 2:7, 2:7] = 1
    x[0, 3:6, 3:6] = float("inf")
    assert ring_sums(x, 3, 5)[0, 2, 2] == 25 - 9
    assert torch.isinf(ring_sums(x, 1, 5)[0, 2, 2])


def test_elimination_solves() -> None:
    random = np.random.default_rng(0)
    factor = random.normal(size=(7, 4, 4))
    matrices, residual = factor @ factor.transpose(0, 2, 1) + 0.1 * np.eye(4), random.normal(size=(7, 4))
    rows = [torch.from_numpy(matrices[:, i, i:].T.copy()) for i in range(4)]
    expected = np.einsum("ni,ni->n", residual, np.linalg.solve(matrices, residual[..., None])[..., 0])
    np.testing.assert_allclose(eliminated(rows, torch.from_numpy(residual.T.copy())), expected, rtol=1e-10)


@pytest.mark.parametrize("config", [{"mode": "global"}, {"mode": "local", "outer": 9}, {"mode": "subspace", "drop": 2}])
def test_restore_gives_back_the_same_method(config: dict[str, Any]) -> None:
    image = correlated(3, 30, 30)
    made, _ = fitted(image, **config)
    again = RxMethod.restore(3, made.config(), made.arrays()).eval()
    assert (again.config(), again.halo) == (made.config(), made.halo)
    assert np.array_equal(distances(again, image), distances(made, image))
    assert made.config()["mode"] == config["mode"]


def test_restore_refuses_an_empty_range() -> None:
    made = RxMethod.create(2)
    with pytest.raises(ModelFileError, match="the scaling of the bands is damaged: a range is empty"):
        RxMethod.restore(2, made.config(), {**made.arrays(), "high": np.zeros(2, np.float32)})


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"mode": "kernel"}, "mode=kernel is not one of global, local, subspace"),
        ({"inner": "4"}, "inner=4, outer=15: both must be odd, 1 <= inner < outer <= 101"),
        ({"inner": "15"}, "inner=15, outer=15: both must be odd"),
        ({"share": "0"}, r"share=0 is not within 0.001..1"),
        ({"share": "nan"}, r"share=nan is not within 0.001..1"),
        ({"drop": "0"}, "drop=0 is not at least 1"),
        ({"window": "9"}, "window: not known to the method rx; it has: mode=global, drop=1, inner=5, outer=15"),
    ],
)
def test_settings_out_of_range(given: dict[str, str], text: str) -> None:
    with pytest.raises(InputError, match=f"--option:? {text}"):
        RxMethod.plan(TrainOptions(method="rx", method_options=tuple(given.items())))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"recipe": "paper"}, "--recipe paper: the method rx is fitted in one pass; leave the option out"),
        ({"steps": 3}, "--steps 3: the method rx has no training steps; leave the option out"),
    ],
)
def test_options_of_a_training_are_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        RxMethod.plan(TrainOptions(method="rx", **change))
