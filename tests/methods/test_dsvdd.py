"""Centre, radius and losses of Deep SVDD against plain arithmetic, and the conditions against a collapse."""

import numpy as np
import pytest
import torch

from asd_cli.errors import InputError
from asd_cli.methods.base import TrainingBatch
from asd_cli.methods.dsvdd import DsvddMethod, DsvddObjective, DsvddSettings
from asd_cli.options import TrainOptions

HALO = 16


def method() -> DsvddMethod:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return DsvddMethod.create(2, length=3, scales=(0.5, 1.0), patch_size=15)


def batch(seed: int) -> TrainingBatch:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand((2, 2, 12 + 2 * HALO, 12 + 2 * HALO), generator=generator)
    return TrainingBatch(image, image, torch.rand((2, 12, 12), generator=generator) < 0.5)


def objective(**settings: float | str) -> DsvddObjective:
    return DsvddObjective(method(), DsvddSettings(**settings), warmup_epochs=2, seed=0)


def picked(made: DsvddMethod, batches: list[TrainingBatch]) -> torch.Tensor:
    """(n, channels) outputs of the pixels that count."""
    with torch.no_grad():
        return torch.cat([made.outputs(b.image).movedim(1, -1)[b.mask] for b in batches]).double()


def test_no_bias_no_norm_and_positive_homogeneous() -> None:
    made = method()
    assert {name.split(".")[-1] for name, _ in made.pyramid.named_parameters()} == {"weight"}
    x = torch.randn(1, 2, 40, 40)
    torch.testing.assert_close(made.pyramid(3 * x), 3 * made.pyramid(x), rtol=1e-4, atol=1e-5)


def test_the_centre_is_the_mean_of_the_untrained_network_away_from_zero_and_stays() -> None:
    goal, data = objective(), [batch(0), batch(1)]
    with torch.no_grad():
        goal.module.pyramid.branches[0].conv4.weight[0].mul_(1e-3)
    goal.review(0, data, data)
    mean = picked(goal.module, data).mean(dim=0)
    expected = torch.where(mean.abs() < 0.1, torch.where(mean < 0, -0.1, 0.1), mean)
    torch.testing.assert_close(goal.module.center.double(), expected, rtol=1e-4, atol=1e-6)
    assert goal.module.center[0].abs() == pytest.approx(0.1)
    before = goal.module.center.clone()
    with torch.no_grad():
        goal.module.pyramid.branches[0].conv4.weight.add_(1)
    goal.review(1, data, data)
    assert torch.equal(goal.module.center, before)


def test_the_radius_is_the_quantile_once_the_warm_up_is_over() -> None:
    goal, data = objective(boundary="soft", nu=0.25), [batch(0), batch(1)]
    assert [goal.review(done, data, data)["radius"] for done in (0, 1)] == [0, 0]
    figures = goal.review(2, data, data[:1])
    distances = (picked(goal.module, data) - goal.module.center).norm(dim=1)
    assert figures["radius"] == pytest.approx(float(np.quantile(distances, 0.75)), rel=1e-5)
    held = (picked(goal.module, data[:1]) - goal.module.center).norm(dim=1).mean()
    assert figures["held_out"] == pytest.approx(float(held), rel=1e-5)


def test_losses_are_those_of_the_paper() -> None:
    data = batch(3)
    hard, soft = objective(), objective(boundary="soft", nu=0.2)
    for goal in (hard, soft):
        goal.module.center.fill_(0.3)
        goal.module.radius.fill_(0.5)
    squares = (picked(hard.module, [data]) - 0.3).square().sum(dim=1)
    assert {k: v.item() for k, v in hard.losses(data, 0).items()} == pytest.approx({"sphere": squares.mean().item()})
    outside = (squares - 0.25).clamp_min(0).mean() / 0.2
    found = {k: v.item() for k, v in soft.losses(data, 0).items()}
    assert found == pytest.approx({"sphere": 0.25, "outside": outside.item()}, rel=1e-5)


def test_settings() -> None:
    plan = DsvddMethod.plan(TrainOptions(method_options=(("boundary", "soft"), ("nu", "0.05")), length=4))
    assert plan.facts == {"boundary": "soft", "nu": 0.05}
    assert plan.config == {"length": 4, "scales": (0.5, 1.0, 2.0), "patch_size": 15}
    assert DsvddMethod.plan(TrainOptions()).facts == {"boundary": "one-class"}
    for option, text in [
        (("boundary", "hard"), "--option boundary=hard is not one of one-class, soft"),
        (("nu", "0"), r"--option nu=0.0 is not within 0.0001..1"),
        (("nu", "few"), r"--option nu=few: cannot be read; an example: 0.1"),
    ]:
        with pytest.raises(InputError, match=text):
            DsvddMethod.plan(TrainOptions(method_options=(option,)))
    with pytest.raises(InputError, match="--scales, --length or --patch-size: length 0 is not within"):
        DsvddMethod.plan(TrainOptions(length=0))
