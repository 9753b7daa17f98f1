"""GANomaly: which loss moves which network, the terms against plain arithmetic, and the map."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asd_cli.errors import InputError
from asd_cli.methods.base import TrainingBatch
from asd_cli.methods.ganomaly import Discriminator, GanomalyMethod, GanomalyObjective, GanomalySettings, Players
from asd_cli.nn.unet import Placed
from asd_cli.options import TrainOptions


def method(**settings: int) -> GanomalyMethod:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = GanomalyMethod(2, GanomalySettings(**{"width": 4, "depth": 2, "latent": 3, **settings}))
    made.low.fill_(-1.0)
    return made


def players(goal: GanomalyObjective) -> Players:
    assert isinstance(goal.module, Players)
    return goal.module


def batch(made: GanomalyMethod, side: int = 24, seed: int = 0) -> TrainingBatch:
    generator = torch.Generator().manual_seed(seed)
    shape = (1, 2, side + 2 * made.halo, side + 2 * made.halo)
    image = 2 * torch.rand(shape, generator=generator) - 1
    return TrainingBatch(image, image, torch.ones(1, side, side, dtype=torch.bool))


def moved(term: Tensor, networks: dict[str, nn.Module]) -> set[str]:
    """Names of the networks that a term has a gradient for."""
    found = set()
    for name, network in networks.items():
        gradients = torch.autograd.grad(term, list(network.parameters()), retain_graph=True, allow_unused=True)
        if any(g is not None and g.any() for g in gradients):
            found.add(name)
    return found


def test_each_term_moves_the_networks_that_it_is_meant_for() -> None:
    made = method()
    goal = GanomalyObjective(made, seed=0)
    all_of = players(goal)
    networks = {"generator": made.generator, "second": all_of.second, "discriminator": all_of.discriminator}
    terms = goal.losses(batch(made), 0)
    assert {name: moved(term, networks) for name, term in terms.items()} == {
        "contextual": {"generator"},
        "encoder": {"generator", "second"},
        "adversarial": {"generator"},
        "discriminator": {"discriminator"},
    }


def test_the_terms_are_those_of_the_paper_over_what_the_mask_leaves() -> None:
    made = method()
    goal, given = GanomalyObjective(made, seed=0), batch(made)
    given.mask[0, 0, 0] = False
    found = {name: term.item() for name, term in goal.losses(given, 0).items()}
    h, side = made.halo, 24
    with torch.no_grad():
        x = given.image.clamp(-3, 3)
        image = x[..., h:-h, h:-h]
        rebuilt, latent = made.generator(x)
        assert found["contextual"] == pytest.approx(
            50 * (rebuilt - image).abs().mean(dim=1)[given.mask].mean().item(), rel=1e-5
        )
        seen = x.clone()
        seen[..., h:-h, h:-h] = torch.where(given.mask[:, None], rebuilt, image)
        again = players(goal).second(Placed(seen, -h))
        squares = (latent.cut(6, 6) - again.cut(6, 6)).square().mean(dim=1).flatten()
        assert squares.shape == (side // 4 * (side // 4),)
        assert found["encoder"] == pytest.approx(squares[1:].mean().item(), rel=1e-4)
        features, logits = players(goal).discriminator(image)
        rebuilt_features, rebuilt_logits = players(goal).discriminator(rebuilt)
        assert logits.shape == (1, 2, 2)
        matching = (features - rebuilt_features).square().mean(dim=1).flatten()[1:].mean()
        assert found["adversarial"] == pytest.approx(matching.item(), rel=1e-4)
        entropy = (F.softplus(-logits) + F.softplus(rebuilt_logits)).flatten()[1:].mean() / 2
        assert found["discriminator"] == pytest.approx(entropy.item(), rel=1e-4)


def test_the_discriminator_sees_windows_of_its_stated_size_and_stride() -> None:
    torch.manual_seed(0)
    made = Discriminator(1, 4).double()
    for side in (15, 22, 23, 40):
        x = torch.randn(1, 1, side, side, dtype=torch.double, requires_grad=True)
        _, logits = made(x)
        count = (side - made.window) // made.stride + 1
        assert logits.shape == (1, count, count)
        (grad,) = torch.autograd.grad(logits[0, -1, -1], x)
        seen = grad[0, 0].abs().sum(dim=1).nonzero().flatten()
        first = (count - 1) * made.stride
        assert (int(seen[0]), int(seen[-1])) == (first, first + made.window - 1)


def test_first_weights_of_the_helpers_follow_the_seed_and_leave_the_random_state_alone() -> None:
    made, state = method(), torch.random.get_rng_state()
    weights = [next(Players(made, seed=seed).discriminator.parameters()) for seed in (3, 3, 4)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert {name.split(".")[0] for name in made.arrays()} == {"low", "high", "generator"}


def test_the_distance_is_the_difference_from_the_rebuilt_image() -> None:
    made = method()
    x = batch(made, side=5, seed=2).image
    expected = (made.generator(x)[0] - x[..., made.halo : -made.halo, made.halo : -made.halo]).abs().mean(dim=1)
    torch.testing.assert_close(made.distances(x), expected, rtol=1e-4, atol=1e-6)


def test_the_image_passes_through_the_latent_numbers_alone() -> None:
    made = method(latent=1)
    with torch.no_grad():
        made.generator.encoder.head.weight.zero_()
        x = torch.randn(1, 2, 8 + 2 * made.halo, 8 + 2 * made.halo)
        rebuilt, _ = made.generator(x)
    assert torch.equal(rebuilt, rebuilt[..., :1, :1].expand_as(rebuilt))


def test_settings() -> None:
    plan = GanomalyMethod.plan(TrainOptions(method_options=(("latent", "8"),)))
    assert plan.config == {"width": 16, "depth": 3, "convolutions": 1, "smooth": 1, "latent": 8}
    with pytest.raises(InputError, match=r"--option latent=0 is not within 1..512"):
        GanomalyMethod.plan(TrainOptions(method_options=(("latent", "0"),)))
