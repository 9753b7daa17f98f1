"""ASD taught with localised virtual anomalies: evidence, folding, losses, model file."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from asd_cli.density.moments import Moments
from asd_cli.density.normal import NormalPixels
from asd_cli.density.unseen import fit_for_unseen
from asd_cli.errors import InputError, ModelFileError
from asd_cli.methods.asd.evidence import Evidence, steady_weights
from asd_cli.methods.asd.half import HalfScorer
from asd_cli.methods.asd.localised import LocalisedAsd
from asd_cli.methods.asd.method import AsdMethod
from asd_cli.methods.asd.recipes import RECIPES
from asd_cli.methods.asd.signs import FoldedSigns
from asd_cli.methods.base import EvidenceDetector, TrainingBatch
from asd_cli.nn.pyramid import MaskedBatchNorm2d
from asd_cli.options import TrainOptions

CPU = torch.device("cpu")


def random_method(
    seed: int,
    bands: int = 3,
    length: int = 4,
    scales: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0),
    smoothing: float = 0.0,
    texture: int = 0,
    *,
    members: int = 2,
    blur: float = 0.0,
    far: int = 0,
) -> LocalisedAsd:
    """Weights, normalisation, scaling, Gaussian and evidence that no default could stand in for."""
    random = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = {"length": length, "scales": scales, "patch_size": 15, "smoothing": smoothing, "texture": texture}
        config |= {"members": members, "blur": blur, "far": far, "caution": 0.1}
        made = AsdMethod.create(bands, taught="localised", hidden=32, **config)
        assert isinstance(made, LocalisedAsd)
        torch.nn.init.normal_(made.low)
        for norm in (module for module in made.modules() if isinstance(module, MaskedBatchNorm2d)):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            for tensor in (norm.weight, norm.bias, norm.running_mean):
                torch.nn.init.normal_(tensor)
            torch.nn.init.uniform_(norm.running_var, 0.1, 3.0)
    made.high.copy_(made.low + torch.from_numpy(random.uniform(0.5, 3, bands)))
    factor = random.normal(size=(made.length, made.length))
    tiles = [random.normal(random.normal(size=made.length), 1, (500, made.length)) @ factor for _ in range(3)]
    normal = NormalPixels.of_all(made.length, [NormalPixels.of_tile(Moments.of(tile)) for tile in tiles])
    made.set_gaussian(made.gaussian_of(normal))
    made.set_evidence([random.gamma(2.0, 1.0, (5000, 2)).astype(np.float32)])
    return made.eval().requires_grad_(False)


def image(made: LocalisedAsd, side: int, seed: int = 0) -> torch.Tensor:
    around = side + 2 * made.halo
    return torch.from_numpy(
        np.random.default_rng(seed).normal(0, 2, (1, made.bands, around, around)).astype(np.float32)
    )


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    bands=st.integers(1, 13),
    length=st.integers(1, 16),
    scales=st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0]), min_size=1, max_size=4, unique=True),
    side=st.sampled_from([16, 32]),
    around=st.tuples(st.sampled_from([0.0, 0.7, 3.0]), st.sampled_from([0, 1, 7, 21, 41])),
    more=st.tuples(st.integers(1, 3), st.sampled_from([0.0, 0.7, 2.0, 5.0]), st.sampled_from([0, 8, 40])),
)
def test_folded_equals_unfolded(
    seed: int,
    bands: int,
    length: int,
    scales: list[float],
    side: int,
    around: tuple[float, int],
    *,
    more: tuple[int, float, int],
) -> None:
    made = random_method(seed, bands, length, tuple(scales), *around, members=more[0], blur=more[1], far=more[2])
    x = image(made, side, seed)
    signs = made.all_signs(x).numpy()
    for found in (made.folded()(x).numpy(), made.sign_engine(CPU, side)(x.numpy())):
        np.testing.assert_allclose(found, signs, rtol=1e-4, atol=1e-4 * np.abs(signs).max())
    descriptors = made.descriptors(x).numpy()
    assert descriptors.shape == (1, made.length, side, side)
    found = made.descriptor_engine(CPU, side)(x.numpy())
    np.testing.assert_allclose(found, descriptors, rtol=1e-4, atol=1e-5 * np.abs(descriptors).max())
    distances = made.distances(x).numpy()
    found = made.distance_engine(CPU, side)(x.numpy())
    assert found.shape == (1, 1, side, side)
    np.testing.assert_allclose(found[:, 0], distances, rtol=1e-5, atol=1e-5 * max(1, distances.max()))


def test_signs_are_the_distance_of_surroundings_and_the_mean_one_of_networks() -> None:
    made = random_method(8, texture=5, blur=1.0, far=8, members=3)
    x, side = image(made, 16), 16
    found = made.all_signs(x)[0].numpy()
    assert found.shape == (2, side, side)
    descriptors = made.descriptors(x)[0].numpy()
    surroundings = made.around(made.normalise(F.pad(x, (made.around.margin - made.halo,) * 4)))[0].numpy()
    np.testing.assert_allclose(descriptors[: 2 * 3 + 4], surroundings, rtol=1e-5, atol=1e-6)
    apart = descriptors - made.mean.numpy()[:, None, None]
    norms = []
    for part in (slice(0, 10), slice(10, 14), slice(14, 18), slice(18, 22)):
        white = np.einsum("ij,jhw->ihw", made.whitening.numpy()[part, part], apart[part])
        norms.append(np.linalg.norm(white, axis=0))
    np.testing.assert_allclose(found[0], norms[0], rtol=1e-4)
    np.testing.assert_allclose(found[1], np.mean(norms[1:], axis=0), rtol=1e-4)


def test_the_distance_of_networks_is_smoothed() -> None:
    made, rough = random_method(4, smoothing=1.5), random_method(4)
    # a reach of 3 px, on the grid of the quarter scale
    assert (made.halo, made.align) == (rough.halo + 4, 4)
    x, side = image(made, 24), 24
    wide = rough.all_signs(x)[0, 1, 1:-1, 1:-1].numpy()
    assert wide.shape == (side + 6, side + 6)
    kernel = np.exp(-0.5 * (np.arange(-3, 4) / 1.5) ** 2)
    kernel /= kernel.sum()
    expected = np.zeros((side, side))
    for row, of_row in enumerate(kernel):
        for col, of_col in enumerate(kernel):
            expected += of_row * of_col * wide[row : row + side, col : col + side]
    found = made.all_signs(x)[0].numpy()
    np.testing.assert_allclose(found[1], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[0], rough.all_signs(x[..., 4:-4, 4:-4])[0, 0].numpy(), rtol=1e-5)


def test_parts_are_fitted_apart() -> None:
    made = random_method(2, members=2, texture=5)
    random = np.random.default_rng(0)
    rows = random.normal(size=(900, made.length)) @ random.normal(size=(made.length, made.length))
    normal = NormalPixels.of_tile(Moments.of(rows[:500])).merge(NormalPixels.of_tile(Moments.of(rows[500:])))
    gaussian = made.gaussian_of(normal)
    sizes = [3 + 4, 4, 4]
    expected = fit_for_unseen(normal, sizes, caution=0.1)
    np.testing.assert_array_equal(gaussian.covariance, expected.covariance)
    assert np.count_nonzero(gaussian.covariance) == sum(size**2 for size in sizes)


def test_a_part_of_the_networks_knows_its_share_of_the_gaussian() -> None:
    made = random_method(3, members=3, far=8)
    x = image(made, 16)
    part = made.part([2, 0])
    assert (part.networks, part.length, part.config()["members"]) == (2, 6 + 2 * 4, 2)
    assert part.evidence is made.evidence
    descriptors = made.descriptors(x)
    of_part = torch.cat([descriptors[:, :6], descriptors[:, 14:18], descriptors[:, 6:10]], dim=1)
    torch.testing.assert_close(part.descriptors(x), of_part)
    torch.testing.assert_close(part.all_signs(x)[:, 0], made.all_signs(x)[:, 0])
    each = [made.part([number]).all_signs(x)[:, 1] for number in range(3)]
    torch.testing.assert_close(part.all_signs(x)[:, 1], (each[2] + each[0]) / 2)
    rows = np.random.default_rng(0).normal(size=(300, made.length))
    normal = NormalPixels.of_tile(Moments.of(rows))
    refitted = made.knowing(normal).part([1])
    np.testing.assert_allclose(refitted.mean.numpy(), np.r_[rows.mean(0)[:6], rows.mean(0)[10:14]], rtol=1e-5)
    assert made.networks == 3
    assert not torch.equal(made.mean[:6], refitted.mean[:6])


def test_parts_and_folded_networks_stay_on_their_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device stands for a GPU."""
    made = random_method(3, members=2, far=8).to("meta")
    part = made.part([1])
    assert {tensor.device.type for tensor in part.state_dict().values()} == {"meta"}
    devices = set()

    def spy(self: FoldedSigns, *args: Any, gaussians: Any, **rest: Any) -> None:
        devices.update(tensor.device.type for pair in gaussians for tensor in pair)
        raise InterruptedError

    monkeypatch.setattr(FoldedSigns, "__init__", spy)
    with pytest.raises(InterruptedError):
        made.descriptor_engine(torch.device("meta"), 16)
    assert devices == {"meta"}


def test_a_scene_that_deviates_in_a_constant_band_is_no_trouble() -> None:
    """However far it is, its surroundings are not, and all engines say the same."""
    made = random_method(5, bands=2, texture=5, blur=1.0, far=24, members=1)
    made.low.fill_(0.0)
    made.high.fill_(2.0)
    random = np.random.default_rng(0)
    x = random.uniform(0, 2, (1, 2, 96 + 2 * made.halo, 96 + 2 * made.halo)).astype(np.float32)
    x[:, 1] = 1.0
    rows = made.descriptors(torch.from_numpy(x)).numpy()[0].reshape(made.length, -1).T
    made.set_gaussian(made.gaussian_of(NormalPixels.of_tile(Moments.of(rows))))
    x[:, 1, 100:106, 100:106] = 2.0
    signs = made.all_signs(torch.from_numpy(x)).numpy()
    found = made.sign_engine(CPU, 96)(x)
    np.testing.assert_allclose(found, signs, rtol=1e-4, atol=1e-4)
    assert np.mean(signs[0, 0] > 30) < 0.1
    assert signs[0, 0].max() > 300


def test_half_precision_gives_the_same_distances_but_for_rounding() -> None:
    made = random_method(3, members=3)
    x = image(made, 32)
    expected = made.all_signs(x)[:, 1]
    found = torch.stack([HalfScorer(e, fused=False)(x) for e in made.folded()._folded]).mean(dim=0)
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) < 0.02 * float(expected.max())


def naive_evidence(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """-log of the share of rows at or above each value, where it is between one half and one hundredth."""
    return -np.log(np.mean(rows[None] >= values[:, None], axis=1))


def test_evidence_is_the_sum_of_minus_log_p() -> None:
    random = np.random.default_rng(0)
    rows = np.stack([random.gamma(2, 1, 200_000), random.normal(5, 3, 200_000)], axis=1).astype(np.float32)
    evidence = Evidence(2)
    evidence.fit(rows, (1.0, 1.0))
    for quantile in (0.0, 0.3, 0.5, 0.8, 0.95, 0.985, 0.999):
        values = np.quantile(rows, quantile, axis=0).astype(np.float32)
        found = evidence(torch.from_numpy(values).view(1, 2, 1, 1)).item()
        expected = sum(naive_evidence(rows[:, i], values[i : i + 1])[0] for i in range(2))
        assert found == pytest.approx(expected, rel=0.1, abs=0.03)


def test_evidence_grows_with_every_sign_and_is_linear_far_out() -> None:
    made = random_method(1)
    values = torch.linspace(-20, 200, 4001)
    for index in range(2):
        signs = torch.zeros(1, 2, 1, 4001)
        signs[0, index, 0] = values
        found = made.evidence(signs)[0, 0]
        assert float(found.diff().min()) >= -1e-4
        assert found[-1] - found[-11] == pytest.approx(float(found[-101] - found[-111]), rel=1e-2)
        assert float(found.min()) >= 0


@pytest.mark.parametrize("rows", [np.zeros((50, 2)), np.ones((1, 2)), np.repeat([[0, 1]], 50, axis=0)])
def test_evidence_of_normal_pixels_that_are_all_alike(rows: np.ndarray) -> None:
    evidence = Evidence(2)
    evidence.fit(rows.astype(np.float32), (1.0, 1.0))
    same, away = (evidence(torch.from_numpy(rows[:1] + more).float().view(1, 2, 1, 1)).item() for more in (0, 1))
    assert same == 0
    assert np.isfinite(away)
    assert away > 10


def test_evidence_of_signs_that_normal_pixels_share_stays_finite() -> None:
    """A colour in which nothing varies is whitened by a large number."""
    evidence = Evidence(1)
    evidence.fit(np.zeros((500, 1), np.float32), (0.5,))
    assert np.isfinite(evidence(torch.full((1, 1, 1, 1), 1e9)).item())


@pytest.mark.parametrize("outlier", [1.0, 1e4, 1e8])
def test_evidence_keeps_its_digits_and_its_order_where_values_are_spread_widely(outlier: float) -> None:
    random = np.random.default_rng(5)
    rows = np.exp(random.normal(0, 3, 100_000))
    rows[:1500] *= outlier
    evidence = Evidence(1)
    evidence.fit(rows.astype(np.float32)[:, None], (1.0,))
    values = np.sort(np.concatenate([rows[::50], np.geomspace(rows.max(), 10 * rows.max(), 50)])).astype(np.float32)
    found = evidence(torch.from_numpy(values).view(1, 1, 1, -1)).numpy().ravel()
    exact = evidence.double()(torch.from_numpy(values).double().view(1, 1, 1, -1)).numpy().ravel()
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)
    assert np.diff(found).min() >= 0


def test_evidence_counts_pixels_of_one_value_at_the_next_step() -> None:
    random = np.random.default_rng(3)
    rows = np.where(random.random(200_000) < 0.8, 2.0, 2.0 + random.gamma(2, 1, 200_000)).astype(np.float32)[:, None]
    evidence = Evidence(1)
    evidence.fit(rows, (1.0,))
    for quantile in (0.9, 0.95, 0.98, 0.99):
        value = np.quantile(rows, quantile).astype(np.float32)
        found = evidence(torch.tensor(value).view(1, 1, 1, 1)).item()
        assert found == pytest.approx(-np.log(1 - quantile), rel=0.02)
    assert evidence(torch.full((1, 1, 1, 1), 2.0)).item() == 0


def spread(tiles: list[float], seed: int = 0, count: int = 5000) -> list[NDArray[np.float32]]:
    """Two signs of tiles: the first alike in all, up to sampling and a tenth, the second times a factor for each."""
    random = np.random.default_rng(seed)
    rows = random.gamma(4.0, 1.0, (count, 2))
    return [(rows * (1.1 ** (place % 2), factor)).astype(np.float32) for place, factor in enumerate(tiles)]


@pytest.mark.parametrize("weight", [0.3, 0.8])
def test_a_sign_that_depends_on_the_tile_counts_less(weight: float) -> None:
    steps = np.array([0, 1, 0, 1])
    for factor in (1.15, 1.2):
        first, second = steady_weights(spread(list(factor**steps)), (1.0, weight))
        assert first == 1.0
        assert second == pytest.approx(weight * (np.log(1.1) / np.log(factor)) ** 2, rel=0.05)
    assert steady_weights(spread(list(1.1**steps)), (1.0, weight)) == [1.0, pytest.approx(weight, rel=1e-4)]
    assert steady_weights(spread(list(2.0**steps)), (1.0, weight)) == [1.0, pytest.approx(weight / 5)]
    assert steady_weights(spread([1, 1, 1, 1]), (1.0, weight)) == [1.0, 1.0]
    assert steady_weights(spread([1, 1, 1, 1]), (1.0, 0.1)) == [1.0, pytest.approx(0.5)]
    assert steady_weights(spread([1, 1, 1, 1]), (1.0, 0.0)) == [1.0, 0.0]


def test_one_odd_tile_does_not_make_a_sign_unsteady() -> None:
    usual = spread(list(1.1 ** (np.arange(20) // 2 % 2)))
    usual[-1][:, 1] *= 2
    assert steady_weights(usual, (1.0, 0.3))[1] > 0.3 / 4  # by variances a tenth


def test_of_what_tells_no_tiles_apart_weights_stay() -> None:
    assert steady_weights(spread([3.0]), (1.0, 0.3)) == [1.0, 0.3]
    assert steady_weights(spread([1.0, 9.0], count=140), (1.0, 0.3)) == [1.0, 0.3]  # too small: counted as one
    constant = [np.zeros((5000, 2), np.float32)] * 3
    assert steady_weights(constant, (1.0, 0.3)) == [1.0, pytest.approx(0.3, rel=1e-4)]


def test_the_weights_are_those_of_the_configuration() -> None:
    rows = np.random.default_rng(0).gamma(2.0, 1.0, (5000, 2)).astype(np.float32)
    slopes = []
    for weights in ((0.5, 1.0), (1.0, 0.25)):
        made = LocalisedAsd.create(2, length=4, scales=(1.0,), patch_size=15, weights=weights, members=2)
        made.set_evidence([rows])
        slopes.append(made.evidence.slopes)
    torch.testing.assert_close(slopes[1], slopes[0] * torch.tensor([[2.0], [0.25]]))


@pytest.mark.parametrize(("members", "kept"), [(1, 0.25), (2, 0.05)])
def test_a_single_network_may_know_the_tiles(members: int, kept: float) -> None:
    made = LocalisedAsd.create(2, length=4, scales=(1.0,), patch_size=15, weights=(1.0, 0.25), members=members)
    tiles = spread([1.0, 2.0, 1.0, 2.0])
    made.set_evidence(tiles)
    plain = Evidence(2)
    plain.fit(np.concatenate(tiles), (1.0, kept))
    torch.testing.assert_close(made.evidence.slopes, plain.slopes)


def batch(made: LocalisedAsd, seed: int) -> TrainingBatch:
    """A smooth texture with a bright square."""
    generator = torch.Generator().manual_seed(seed)
    side = 40 + 2 * made.halo
    x = torch.nn.functional.avg_pool2d(torch.randn(1, made.bands, side + 4, side + 4, generator=generator), 5, 1)
    changed = torch.zeros(1, 40, 40, dtype=torch.bool)
    row, col = (int(v) for v in torch.randint(0, 24, (2,), generator=generator))
    changed[:, row : row + 14, col : col + 14] = True
    virtual = x.clone()
    inner = virtual[:, :, made.halo : made.halo + 40, made.halo : made.halo + 40]
    inner += changed[:, None] * torch.randn(inner.shape, generator=generator)
    return TrainingBatch(x, virtual, torch.rand(1, 40, 40, generator=generator) < 0.9, changed)


def test_it_learns_to_tell_what_was_changed() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = LocalisedAsd.create(2, length=8, scales=(0.5, 1.0), patch_size=15)
    objective = made.objective(TrainOptions(), warmup_epochs=0)
    optimizer = torch.optim.Adam(made.parameters(), lr=3e-3)
    first = objective.review(0, [], [batch(made, 90)])
    losses = []
    for step in range(40):
        optimizer.zero_grad()
        loss = torch.stack(list(objective.losses(batch(made, step), 0).values())).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    assert objective.review(1, [], [batch(made, 90)])["held_out"] < first["held_out"]
    new = batch(made, 99)
    assert new.changed is not None
    with torch.inference_mode():
        logits = made.eval().logits(new.virtual, member=0)
    assert roc_auc_score(new.changed.flatten(), logits.flatten()) > 0.9


def test_members_take_turns() -> None:
    made = random_method(6, bands=2, scales=(1.0,), members=3).requires_grad_(True).train()
    objective = made.objective(TrainOptions(), warmup_epochs=0)
    for turn in (0, 1, 2, 0):
        made.zero_grad(set_to_none=True)
        torch.stack(list(objective.losses(replace(batch(made, 1), network=turn), 0).values())).sum().backward()
        for index, member in enumerate(made.members):
            moved = [parameter.grad is not None for parameter in member.parameters()]
            assert all(moved) if index == turn else not any(moved)


def test_held_out_pixels_are_shown_to_the_network_that_lacks_them() -> None:
    made = random_method(6, bands=2, scales=(1.0,), members=3)
    given_ = replace(batch(made, 1), network=2)
    expected = F.softplus(made.logits(given_.image, member=2)[given_.mask]).mean()
    found = made.objective(TrainOptions(), warmup_epochs=0).review(1, [], [given_])["held_out"]
    assert found == pytest.approx(float(expected), rel=1e-5)
    assert found != pytest.approx(float(F.softplus(made.logits(given_.image, member=1)[given_.mask]).mean()), rel=1e-3)


def test_members_start_from_other_weights() -> None:
    made = LocalisedAsd.create(2, length=4, scales=(1.0,), patch_size=15, members=2)
    first, second = (dict(member.named_parameters()) for member in made.members)
    assert not torch.equal(first["anomaly_head.weight"], second["anomaly_head.weight"])


def test_pixels_outside_the_mask_have_no_say_in_the_losses() -> None:
    made = random_method(0, bands=2, scales=(0.5, 1.0)).train()
    given_ = batch(made, 5)
    mask = torch.zeros_like(given_.mask)
    mask[:, :8, :8] = True
    other = given_.virtual.clone()
    other[..., -8:, -8:] = 50.0  # farther from the mask than a patch reaches
    objective = made.objective(TrainOptions(), warmup_epochs=0)
    values = [objective.losses(TrainingBatch(x, x, mask, given_.changed), 0) for x in (given_.virtual, other)]
    for name, value in values[0].items():
        assert value.item() == pytest.approx(values[1][name].item(), rel=1e-5)


def test_a_batch_without_changes_or_without_normal_pixels_is_no_trouble() -> None:
    made = random_method(0, bands=2, scales=(1.0,)).train()
    given_ = batch(made, 5)
    for changed in (None, torch.zeros_like(given_.mask)):
        terms = made.objective(TrainOptions(), warmup_epochs=0).losses(
            TrainingBatch(given_.image, given_.virtual, given_.mask, changed), 0
        )
        assert all(term.isfinite() for term in terms.values())


def test_restore_gives_back_the_same_method() -> None:
    made = random_method(2, smoothing=2.0, texture=9, blur=1.5, far=24)
    again = AsdMethod.restore(3, made.config(), made.arrays()).eval()
    assert isinstance(again, EvidenceDetector)
    assert (again.config(), again.halo, again.align, again.length) == (
        made.config(),
        made.halo,
        made.align,
        3 + 3 + 4 + 2 * 4,
    )
    x = image(made, 16)
    assert torch.equal(made.distances(x), again.distances(x))


def test_restore_refuses_what_cannot_be() -> None:
    made = random_method(2)
    arrays = made.arrays()
    with pytest.raises(ModelFileError, match="tensor low is"):
        AsdMethod.restore(4, made.config(), arrays)
    broken: dict[str, Any]
    for index in range(2):
        name = f"members.{index}.encoder.norm.running_var"
        broken = {**arrays, name: -arrays[name]}
        with pytest.raises(ModelFileError, match=f"tensor {name} is damaged: a variance is negative"):
            AsdMethod.restore(3, made.config(), broken)
    for name, wrong in (("evidence.slopes", -1.0), ("evidence.starts", np.arange(10, 0, -1, np.float32))):
        broken = {**arrays, name: np.ascontiguousarray(arrays[name] * 0 + wrong, np.float32)}
        with pytest.raises(ModelFileError, match="the evidence are damaged"):
            AsdMethod.restore(3, made.config(), broken)


def test_restore_refuses_a_configuration_that_cannot_be() -> None:
    made = random_method(2)
    arrays = made.arrays()
    with pytest.raises(ValueError, match="taught"):
        AsdMethod.restore(3, {**made.config(), "taught": "otherwise"}, arrays)
    for hidden in (0, 24, 512, 32.0, True):
        with pytest.raises(ValueError, match=rf"hidden {hidden} is none of 16, 32, 64, 128, 256"):
            AsdMethod.restore(3, {**made.config(), "hidden": hidden}, arrays)
    for members in (0, 17, 2.0, True):
        with pytest.raises(ValueError, match=rf"members {members} is not within 1\.\.16"):
            AsdMethod.restore(3, {**made.config(), "members": members}, arrays)
    for name in ("smoothing", "blur"):
        for value in (-1, 33, math.nan, "2", True):
            with pytest.raises(ValueError, match=rf"{name} {value} is not within 0\.\.32"):
                AsdMethod.restore(3, {**made.config(), name: value}, arrays)
    for caution in (-0.1, 1.5, math.nan, True, "0"):
        with pytest.raises(ValueError, match=rf"caution {caution} is not within 0\.\.1"):
            AsdMethod.restore(3, {**made.config(), "caution": caution}, arrays)
    for far in (-8, 4, 16, 256, 8.0, True):
        with pytest.raises(ValueError, match=rf"far {far} is not 0 or an odd number of 8 up to 248"):
            AsdMethod.restore(3, {**made.config(), "far": far}, arrays)
    for weights in ((0, 1), (0.5, -1), (0.5, 2), (0.5, math.nan), (1, 1, 1), "11", (1, True)):
        with pytest.raises(ValueError, match=r"weights .* are not 2 numbers within 0\.\.1"):
            AsdMethod.restore(3, {**made.config(), "weights": weights}, arrays)
    for texture in (-1, 2, 65, 3.0, True):
        with pytest.raises(ValueError, match=rf"texture {texture} is not 0 or an odd number up to 63"):
            AsdMethod.restore(3, {**made.config(), "texture": texture}, arrays)


def test_fewer_steps_than_networks_are_worth_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    AsdMethod.plan(TrainOptions(steps=2))
    AsdMethod.plan(TrainOptions(steps=1, unlabelled=True))
    assert not caplog.records
    AsdMethod.plan(TrainOptions(steps=1))
    assert "--steps 1: too few for each of the 2 networks" in caplog.text


def test_the_default_recipe_is_taught_so() -> None:
    plan = AsdMethod.plan(TrainOptions(length=7))
    pyramid = {"length": 7, "scales": (0.25, 0.5, 1.0, 2.0), "patch_size": 15}
    around = {"smoothing": 4.0, "blur": 1.0, "far": 72, "texture": 21, "caution": 0.6, "weights": (1.0, 0.35)}
    assert plan.config == {"taught": "localised", **pyramid, "hidden": 32, "members": 2, **around}
    without_labels = AsdMethod.plan(TrainOptions(length=7, unlabelled=True)).config
    assert without_labels == {
        **plan.config,
        "members": 1,
        "weights": (1.0, 0.1),
        "blur": 0.0,
        "far": 0,
        "caution": 0.01,
    }
    assert cast(int, plan.recipe.steps_per_epoch) == 2 * cast(int, RECIPES["standard"].steps_per_epoch)
    assert plan.facts == {"virtual_anomalies": plan.recipe.amplitudes.as_json()}
    for options in (TrainOptions(without=("compact",)), TrainOptions(loss_form="paper")):
        with pytest.raises(InputError, match="--without and --loss-form change the paper's losses; add --recipe quick"):
            AsdMethod.plan(options)


def test_folding_leaves_the_symbolic_machinery_of_torch_alone() -> None:
    """It takes half a second and 40 MiB, and `to_empty` from the meta device would load it."""
    code = (
        "import sys\n"
        "from asd_cli.methods.asd.localised import LocalisedAsd\n"
        "made = LocalisedAsd.create(2, length=4, scales=(1.0,), patch_size=15, members=2)\n"
        "LocalisedAsd.restore(2, {k: v for k, v in made.config().items() if k != 'taught'}, made.arrays()).folded()\n"
        "assert 'sympy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
