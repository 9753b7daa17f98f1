"""ARNet's loss and map against plain arithmetic."""

import pytest
import torch

from asd_cli.data.augment import VirtualAnomalies
from asd_cli.errors import InputError
from asd_cli.methods.arnet import VIEWS, ArnetMethod, ArnetSettings
from asd_cli.methods.base import TrainingBatch
from asd_cli.options import TrainOptions


def method(**settings: int) -> ArnetMethod:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = ArnetMethod(2, ArnetSettings(**{"width": 4, "depth": 2, **settings}))
    made.low.fill_(10.0)
    made.high.fill_(30.0)
    return made


def pixels(made: ArnetMethod, side: int, seed: int) -> torch.Tensor:
    shape = (1, 2, side + 2 * made.halo, side + 2 * made.halo)
    return 10 + 20 * torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_the_loss_is_the_error_of_what_is_restored_from_the_virtual_anomaly() -> None:
    made = method(smooth=5)
    image, virtual = pixels(made, 9, 0), pixels(made, 9, 1)
    mask = torch.rand(1, 9, 9) < 0.5
    (loss,) = made.objective(TrainOptions(), warmup_epochs=0).losses(TrainingBatch(image, virtual, mask), 0).values()
    with torch.no_grad():
        restored = made.network(made.normalise(virtual)[..., 2:-2, 2:-2])
    inner = made.normalise(image)[..., made.halo : -made.halo, made.halo : -made.halo]
    expected = (restored - inner).abs()[0].mean(dim=0)[mask[0]].mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(("views", "smooth"), [(1, 1), (4, 1), (3, 5)])
def test_the_distance_is_the_mean_error_over_views_bands_and_the_filter(views: int, smooth: int) -> None:
    made = method(views=views, smooth=smooth)
    x, r = pixels(made, 6, 2), smooth // 2
    found = made.distances(x)[0]
    u = 2 * (x - 10) / 20 - 1
    changed = [u, torch.where(u > 0.2, -u, u), u - 0.3, u + 0.3][:views]
    h = made.network.halo
    errors = torch.stack([(made.network(v) - u[..., h:-h, h:-h]).abs().mean(dim=1)[0] for v in changed]).mean(dim=0)
    for row in range(6):
        for col in range(6):
            expected = errors[row : row + 2 * r + 1, col : col + 2 * r + 1].mean()
            torch.testing.assert_close(found[row, col], expected, rtol=1e-4, atol=1e-6)


def test_the_solarised_view_is_that_of_the_virtual_anomalies() -> None:
    """Band by band on [0, 1] as in training, and on [-1, 1] as in scoring."""
    virtual = VirtualAnomalies(ArnetMethod.recipe.amplitudes)
    solarise = virtual._steps[4]
    unit = torch.rand(20, 20, 2, generator=torch.Generator().manual_seed(0))
    expected = torch.from_numpy(solarise(image=unit.numpy())["image"])
    torch.testing.assert_close(VIEWS[1](2 * unit - 1), 2 * expected - 1, rtol=0, atol=1e-5)


def test_settings() -> None:
    plan = ArnetMethod.plan(TrainOptions(method_options=(("views", "2"), ("width", "8"))))
    assert plan.config == {"width": 8, "depth": 3, "convolutions": 1, "smooth": 1, "views": 2}
    assert plan.facts["virtual_anomalies"] == plan.recipe.amplitudes.as_json()
    for option, text in [
        (("views", "5"), "--option views=5 is not within 1..4"),
        (("smooth", "4"), "--option smooth=4 is even; give an odd number of pixels"),
        (("depth", "9"), "--option depth=9 is not within 1..5"),
    ]:
        with pytest.raises(InputError, match=text):
            ArnetMethod.plan(TrainOptions(method_options=(option,)))


def test_blocks_are_large_where_the_halo_is() -> None:
    assert method().block_side(torch.device("cpu")) == 256
