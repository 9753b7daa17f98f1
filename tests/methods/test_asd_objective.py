"""Centre, radius and terms of ASD's objective, epoch by epoch, and which pixels they see."""

from typing import Any

import pytest
import torch

from asd_cli.methods.asd import objective as objectives
from asd_cli.methods.asd.method import AsdMethod
from asd_cli.methods.asd.objective import AsdLosses, AsdObjective
from asd_cli.methods.base import TrainingBatch

HALO = 16


def method(seed: int = 0) -> AsdMethod:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AsdMethod.create(2, length=3, scales=(0.5, 1.0, 2.0), patch_size=15)


def batch(seed: int, count: int = 1, side: int = 10) -> TrainingBatch:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 2, side + 2 * HALO, side + 2 * HALO)
    image, virtual = torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)
    return TrainingBatch(image, virtual, torch.rand((count, side, side), generator=generator) < 0.5)


def objective(**changes: Any) -> AsdObjective:
    return AsdObjective(method(), AsdLosses(**({"warmup_epochs": 2} | changes)))


def test_reconstruction_goes_alone_first() -> None:
    goal = objective()
    assert [set(goal.losses(batch(0), epoch)) for epoch in (0, 1)] == [{"feature_rich"}] * 2
    assert set(goal.losses(batch(0), 2)) == {"feature_rich", "diverse", "compact"}


def test_without_reconstruction_there_is_nothing_to_warm_up_with() -> None:
    goal = objective(feature_rich=False)
    assert set(goal.losses(batch(0), 0)) == {"diverse", "compact"}
    goal.review(0, [batch(0)], [batch(1)])
    assert goal.module.center.any()
    assert goal.module.radius == 3


@pytest.mark.parametrize("off", ["compact", "diverse", "feature_rich"])
def test_each_loss_can_be_off(off: str) -> None:
    names = {"compact", "diverse", "feature_rich"}
    assert set(objective(**{off: False}).losses(batch(0), 9)) == names - {off}


def naive(module: AsdMethod, batches: list[TrainingBatch]) -> tuple[torch.Tensor, float]:
    """Mean descriptor and mean of the largest distance per image."""
    module.eval()
    with torch.no_grad():
        found = [
            module.descriptors(image[None])[0].movedim(0, -1)[mask]
            for b in batches
            for image, mask in zip(b.image, b.mask, strict=True)
        ]
    center = torch.cat(found).double().mean(dim=0)
    return center, float(torch.stack([(part - center).norm(dim=1).max() for part in found]).mean())


@pytest.mark.parametrize("kept", [1 << 24, 700, 1])
def test_centre_and_radius_follow_the_schedule(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectives, "_KEPT_VALUES", kept)  # all, one or none of the batches' descriptors
    goal = objective()
    training, held_out = [batch(1, count=2), batch(2)], [batch(3)]
    center, radius = naive(goal.module, training)
    for epochs_done in (0, 1):
        figures = goal.review(epochs_done, training, held_out)
        assert not goal.module.center.any()
        assert figures["radius"] == 3.0
    assert goal.review(2, training, held_out)["radius"] == 3.0
    torch.testing.assert_close(goal.module.center.double(), center, rtol=1e-5, atol=1e-7)
    figures = goal.review(3, training, held_out)
    assert figures["radius"] == pytest.approx(radius, rel=1e-5)
    goal.module.eval()
    with torch.no_grad():
        apart = goal.module.descriptors(held_out[0].image) - goal.module.center.view(1, -1, 1, 1)
    expected = apart.norm(dim=1)[held_out[0].mask].mean() / radius
    assert figures["held_out"] == pytest.approx(float(expected), rel=1e-4)


def test_a_review_trains_nothing() -> None:
    goal = objective()
    goal.module.train()
    before = {key: value.clone() for key, value in goal.module.state_dict().items()}
    goal.review(1, [batch(1)], [batch(2)])
    assert goal.module.training
    assert all(torch.equal(before[key], value) for key, value in goal.module.state_dict().items())


def test_descriptors_that_are_all_alike_have_no_radius() -> None:
    goal = objective(warmup_epochs=0)
    with torch.no_grad():
        for parameter in goal.module.parameters():
            parameter.zero_()
    figures = goal.review(1, [batch(1)], [batch(2)])
    assert figures == {"radius": 0.0, "held_out": 0.0}


@pytest.mark.parametrize("epoch", [0, 5])
def test_pixels_outside_the_mask_and_its_reach_count_nowhere(epoch: int) -> None:
    """Losses, gradients and batch-norm statistics, bit by bit."""
    results = []
    for wild in (False, True):
        goal, given = objective(), batch(4, side=60)
        given.mask[:, :, 10:] = False
        if wild:
            given.image[..., 10 + 2 * HALO + 16 :] = 1e30
            given.virtual[..., 10 + 2 * HALO + 16 :] = -1e30
        goal.module.train()
        goal.module.center.fill_(0.1)
        terms = goal.losses(given, epoch)
        torch.stack(list(terms.values())).sum().backward()
        gradients = [p.grad for p in goal.module.parameters() if p.grad is not None]
        results.append([*terms.values(), *gradients, *goal.module.buffers()])
    assert len(results[0]) == len(results[1])
    for one, two in zip(*results, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-9)


def test_the_statistics_of_the_normalisation_are_those_of_normal_pixels() -> None:
    goal, given = objective(), batch(5)
    goal.module.train()
    goal.module.encoder.norm.momentum = 1.0
    goal.losses(given, 5)
    goal.module.eval()
    with torch.no_grad():
        features = goal.module.encoder.pyramid(goal.module.normalise(given.image)).movedim(1, -1)[given.mask]
    torch.testing.assert_close(goal.module.encoder.norm.running_mean, features.mean(dim=0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(goal.module.encoder.norm.running_var, features.var(dim=0), rtol=1e-4, atol=1e-8)


def test_a_single_normal_pixel_will_do() -> None:
    goal, given = objective(), batch(6)
    given.mask[:] = False
    given.mask[0, 3, 3] = True
    terms = goal.losses(given, 5)
    assert all(term.isfinite() for term in terms.values())
