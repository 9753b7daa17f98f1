"""ASD as a method behind the registry."""

import inspect

import numpy as np
import pytest
import torch

from asd_cli.data.scaling import Scaling
from asd_cli.density.gaussian import Gaussian
from asd_cli.errors import InputError, ModelFileError
from asd_cli.methods.asd.method import AsdMethod
from asd_cli.methods.base import DescriptorDetector, Detector
from asd_cli.methods.registry import METHODS, method_class
from asd_cli.options import LOSSES, TrainOptions


def method(seed: int = 0, bands: int = 2) -> AsdMethod:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = AsdMethod.create(bands, length=4, scales=(0.5, 1.0), patch_size=15)
    made.set_scaling(Scaling(np.array([0, 10], np.float32)[:bands], np.array([2, 30], np.float32)[:bands]))
    return made.eval()


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_registered_method_is_a_detector_of_that_name(name: str) -> None:
    found = method_class(name)
    assert issubclass(found, Detector)
    assert found.name == name
    assert not inspect.isabstract(found)


def test_unknown_method() -> None:
    with pytest.raises(InputError, match=r"method 'x': not known; methods: .*asd"):
        method_class("x")


def test_normalise_puts_the_range_on_minus_one_to_one_and_clamps_far_outside() -> None:
    x = torch.tensor([[0, 2, 1, -1e30, 1e30], [10, 30, 20, float("-inf"), float("inf")]]).view(1, 2, 1, 5)
    found = method().normalise(x)[0, :, 0]
    np.testing.assert_allclose(found, [[-1, 1, 0, -3, 3]] * 2, atol=1e-6)


def test_distance_is_that_of_the_gaussian() -> None:
    made, random = method(), np.random.default_rng(0)
    factor = random.normal(size=(4, 4))
    gaussian = Gaussian(random.normal(size=4), factor @ factor.T + np.eye(4), 0.0)
    made.set_gaussian(gaussian)
    x = torch.from_numpy(random.uniform(0, 30, (1, 2, 40, 41)).astype(np.float32))
    with torch.no_grad():
        descriptors = made.descriptors(x)
        distances = made.distances(x)
    assert distances.shape == (1, 40 - 2 * made.halo, 41 - 2 * made.halo)
    expected = gaussian.distance(descriptors[0].flatten(1).T.numpy().astype(np.float64))
    np.testing.assert_allclose(distances.flatten(), expected, rtol=1e-4)


def test_restore_gives_back_the_same_method() -> None:
    made = method()
    again = AsdMethod.restore(2, made.config(), made.arrays()).eval()
    assert again.config() == made.config()
    x = torch.rand(1, 2, 40, 40)
    with torch.no_grad():
        assert torch.equal(made.distances(x), again.distances(x))
    assert isinstance(again, DescriptorDetector)
    assert (again.halo, again.align, again.bands, again.length) == (made.halo, made.align, 2, 4)


def test_restore_refuses_arrays_of_another_architecture() -> None:
    made = method()
    with pytest.raises(ModelFileError, match=r"tensor low is float32\[2\], not the float32\[3\] of the method asd"):
        AsdMethod.restore(3, made.config(), made.arrays())


def test_plan() -> None:
    plan = AsdMethod.plan(TrainOptions(recipe="quick", without=("compact",), length=7))
    assert plan.config == {"length": 7, "scales": (0.5, 1.0, 2.0), "patch_size": 15}
    assert plan.facts["losses"] == ["diverse", "feature-rich"]
    assert plan.facts["loss_form"] == "published"
    assert plan.facts["virtual_anomalies"] == plan.recipe.amplitudes.as_json()
    with pytest.raises(InputError, match="--without: all three losses are switched off"):
        AsdMethod.plan(TrainOptions(recipe="quick", without=LOSSES))
    with pytest.raises(InputError, match="--scales, --length or --patch-size: length 257 is not within"):
        AsdMethod.plan(TrainOptions(length=257))


def test_objective_follows_the_options() -> None:
    options = TrainOptions(recipe="quick", without=("diverse",), loss_form="paper")
    losses = method().objective(options, warmup_epochs=4)._losses
    assert (losses.compact, losses.diverse, losses.feature_rich) == (True, False, True)
    assert (losses.form, losses.warmup_epochs) == ("paper", 4)
