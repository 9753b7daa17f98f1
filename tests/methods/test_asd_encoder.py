"""The encoder and its losses against the numbers of the authors' program."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from asd_cli.methods.asd.encoder import ReconstructingEncoder
from asd_cli.methods.asd.losses import compact_loss, diverse_loss, feature_rich_loss, squared_distance

GOLDEN = Path(__file__).parents[1] / "golden"
ENCODERS = ["encoder_rgb64", "encoder_gray40_L16", "encoder_rgb60_single", "encoder_ms48_14band"]


def load_encoder(golden: dict[str, np.ndarray]) -> ReconstructingEncoder:
    scales = [float(s) for s in golden["scales"]]
    length, bands = golden["descriptor_head.weight"].shape[0], golden["x"].shape[1]
    encoder = ReconstructingEncoder(bands, length=length, scales=scales)
    state = {}
    for key in encoder.state_dict():
        name = key.replace("pyramid.branches.", "branch").replace("norm.", "bn.")
        if name in golden:
            state[key] = torch.from_numpy(golden[name])
    encoder.load_state_dict(state | {"norm.num_batches_tracked": torch.tensor(1)})
    encoder.norm.eps = float(golden["bn.eps"])
    return encoder.eval()


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_equals_the_published_program(name: str) -> None:
    golden = dict(np.load(GOLDEN / f"{name}.npz"))
    encoder = load_encoder(golden)
    padded = F.pad(torch.from_numpy(golden["x"]), (encoder.halo,) * 4)
    with torch.no_grad():
        out = encoder(padded)
    for mine, theirs in [(out.descriptors, "descriptors"), (out.reconstruction, "reconstruction")]:
        scale = np.abs(golden[theirs]).max()
        np.testing.assert_allclose(mine.numpy(), golden[theirs], rtol=1e-5, atol=1e-6 * scale)
    with torch.no_grad():
        assert torch.equal(encoder.describe(padded), out.descriptors)


@pytest.mark.parametrize("name", ENCODERS)
def test_branches_equal_the_published_program(name: str) -> None:
    path = Path(__file__).parents[3] / "shared" / "golden" / f"{name}.npz"
    if not path.exists():
        pytest.skip("../shared/golden is not here")
    golden = dict(np.load(path))
    encoder = load_encoder(golden)
    with torch.no_grad():
        features = encoder.pyramid(F.pad(torch.from_numpy(golden["x"]), (encoder.halo,) * 4))
    theirs = np.concatenate([golden[f"branch{i}.output"] for i in range(len(golden["scales"]))], axis=1)
    np.testing.assert_allclose(features.numpy(), theirs, rtol=1e-5, atol=1e-6 * np.abs(theirs).max())


def test_training_and_scoring_share_one_forward_pass() -> None:
    torch.manual_seed(0)
    encoder = ReconstructingEncoder(3).eval()
    x = torch.randn(1, 3, 33 + 32, 20 + 32)
    out = encoder(x)
    assert out.descriptors.shape == (1, 5, 33, 20)
    assert out.reconstruction.shape == (1, 3, 33, 20)
    out.descriptors.sum().backward()
    assert all(p.grad is not None for n, p in encoder.named_parameters() if "reconstruction" not in n)


def test_every_network_is_registered() -> None:
    """The published program keeps its networks in a plain list, so that moves and saved weights miss them."""
    encoder = ReconstructingEncoder(3).double()
    assert len([k for k in encoder.state_dict() if k.endswith("conv3.weight")]) == 3
    assert {p.dtype for p in encoder.parameters()} == {torch.float64}


def test_forward_leaves_the_random_state_alone() -> None:
    encoder = ReconstructingEncoder(1)
    before = torch.random.get_rng_state()
    encoder(torch.zeros(1, 1, 40, 40))
    assert torch.equal(before, torch.random.get_rng_state())


def test_size_may_change_from_call_to_call_and_need_not_be_square() -> None:
    encoder = ReconstructingEncoder(1).eval()
    for height, width in [(1, 1), (5, 64), (64, 5), (7, 9)]:
        assert encoder.describe(torch.zeros(1, 1, height + 32, width + 32)).shape == (1, 5, height, width)


@pytest.fixture(scope="module")
def losses() -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(v) for k, v in np.load(GOLDEN / "losses.npz").items()}


def test_compact_loss_is_golden(losses: dict[str, torch.Tensor]) -> None:
    mask = losses["mask"][None]
    mine = compact_loss(losses["descriptors"], losses["center"], losses["radius"], mask, weight=float(losses["lam"]))
    torch.testing.assert_close(mine, losses["compact"], rtol=1e-9, atol=0)


def test_largest_distance_is_golden(losses: dict[str, torch.Tensor]) -> None:
    squares = squared_distance(losses["descriptors"], losses["center"])[losses["mask"][None]]
    torch.testing.assert_close(squares.max().sqrt(), losses["max_distance"], rtol=1e-9, atol=0)


@pytest.mark.parametrize("form", ["published", "paper"])
def test_diverse_and_feature_rich_losses_are_golden(losses: dict[str, torch.Tensor], form: str) -> None:
    mask = losses["mask"][None]
    diverse = diverse_loss(losses["descriptors"], losses["descriptors_transformed"], mask, form=form)  # type: ignore[arg-type]
    torch.testing.assert_close(diverse, losses[f"diversity_{form}"], rtol=1e-9, atol=0)
    rich = feature_rich_loss(losses["x"], losses["reconstruction"], mask, form=form)  # type: ignore[arg-type]
    torch.testing.assert_close(rich, losses[f"reconstruction_loss_{form}"], rtol=1e-9, atol=0)


def test_losses_see_only_the_mask(losses: dict[str, torch.Tensor]) -> None:
    mask = losses["mask"][None]
    spoiled = torch.where(mask[:, None], losses["descriptors"], torch.tensor(1e9, dtype=torch.float64))
    assert torch.equal(
        compact_loss(spoiled, losses["center"], losses["radius"], mask),
        compact_loss(losses["descriptors"], losses["center"], losses["radius"], mask),
    )
