"""The optimizer: weight decay, learning rates per layer and over the run, image sizes."""

import itertools

import pytest
import torch

from training.learning.networks import build_network
from training.learning.optimization import (
    build_optimizer,
    freeze,
    learning_rate_factor,
    remaining_work,
    set_learning_rate,
    training_image_size,
)
from training.learning.recipe import Optimizer, Schedule
from training.learning.recipe_file import load_recipe

STEPS = 1000


def test_he2015_divides_by_ten_at_half_and_at_three_quarters() -> None:
    schedule = load_recipe("he2015").schedule
    steps = (0, 31999, 32000, 47999, 48000, 63999)
    factors = [learning_rate_factor(schedule, step, 64000) for step in steps]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_110_layers_warm_up_at_a_tenth_for_400_iterations() -> None:
    schedule = load_recipe("he2015-110").schedule
    factors = [learning_rate_factor(schedule, step, 64000) for step in (0, 399, 400)]
    assert factors == pytest.approx([0.1, 0.1, 1])


@pytest.mark.parametrize("decay", ["cosine", "linear"])
def test_one_cycle_rises_to_its_peak_and_falls_to_zero(decay: str) -> None:
    schedule = Schedule(decay=decay, warmup=0.3, warmup_start=0.04)  # type: ignore[arg-type]
    values = [learning_rate_factor(schedule, step, STEPS) for step in range(STEPS)]
    assert values[0] == pytest.approx(0.04)
    assert values[150] == pytest.approx(0.52)
    assert values[300] == pytest.approx(1) == max(values)
    assert values[650] == pytest.approx(0.5)
    assert values[-1] < 0.01
    assert all(earlier <= later for earlier, later in itertools.pairwise(values[:301]))
    assert all(earlier >= later for earlier, later in itertools.pairwise(values[300:]))


def test_cosine_decay_is_flat_at_its_ends() -> None:
    """At a quarter of the decay it is (1 + cos(pi / 4)) / 2."""
    factors = [learning_rate_factor(Schedule(), step, 100) for step in (0, 25, 75)]
    assert factors == pytest.approx([1, 0.853553, 0.146447], abs=1e-5)


def test_image_sizes_follow_the_scales() -> None:
    """Equal parts of the run; sizes are multiples of 4, and the full size at scale 1."""
    schedule = Schedule(scales=(0.75, 0.875, 1.0))
    sizes = [training_image_size(schedule, step, 9, (32, 32)) for step in range(9)]
    assert sizes == [(24, 24)] * 3 + [(28, 28)] * 3 + [(32, 32)] * 3
    sizes = [training_image_size(schedule, step, 9, (28, 64)) for step in (0, 3, 6)]
    assert sizes == [(20, 48), (24, 56), (28, 64)]
    assert training_image_size(schedule, 9, 9, (32, 32)) == (32, 32)
    assert training_image_size(Schedule(scales=(0.25, 1.0)), 0, 9, (16, 40)) == (8, 8)
    assert training_image_size(Schedule(), 0, 9, (30, 30)) == (30, 30)


@pytest.mark.parametrize(
    ("step", "work"),
    [
        (0, 4 + (3 * 28**2 + 3 * 32**2) / 24**2),
        (3, 1 + (3 * 28**2 + 3 * 32**2) / 24**2),
        (5, 2 + 3 * 32**2 / 28**2),
        (8, 2),
        (10, 0),
    ],
)
def test_remaining_work_counts_pixels(step: int, work: float) -> None:
    """Ten steps: four at 24 pixels, three at 28 and three at 32."""
    schedule = Schedule(scales=(0.75, 0.875, 1.0))
    assert remaining_work(schedule, step, 10, (32, 32)) == pytest.approx(work)
    assert remaining_work(schedule, step, 10, (32, 64)) == pytest.approx(work)
    assert remaining_work(Schedule(), step, 10, (32, 48)) == 10 - step


@pytest.mark.parametrize("decay_norms", [False, True])
def test_norms_and_biases_decay_only_if_the_recipe_says_so(*, decay_norms: bool) -> None:
    """Every parameter is in exactly one group."""
    network = build_network("resnet20", 10)
    settings = Optimizer(learning_rate=0.1, weight_decay=5e-4, decay_norms=decay_norms)
    groups = build_optimizer(network, settings).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    parameters = list(network.parameters())
    assert len(decays) == len(parameters) == sum(len(group["params"]) for group in groups)
    for parameter in parameters:
        assert decays[id(parameter)] == (5e-4 if parameter.ndim > 1 or decay_norms else 0)


def test_momentum_and_nesterov_reach_the_optimizer() -> None:
    """torch refuses Nesterov without momentum, so it is switched off there."""
    network = build_network("resnet20", 10)
    for momentum, nesterov, expected in ((0.8, True, True), (0.8, False, False), (0, True, False)):
        settings = Optimizer(learning_rate=0.1, momentum=momentum, nesterov=nesterov)
        optimizer = build_optimizer(network, settings)
        assert {group["momentum"] for group in optimizer.param_groups} == {momentum}
        assert {group["nesterov"] for group in optimizer.param_groups} == {expected}


def test_layers_learn_slower_the_farther_they_are_from_the_head() -> None:
    """The schedule scales all learning rates."""
    network = build_network("resnet20", 10)
    optimizer = build_optimizer(network, Optimizer(learning_rate=0.1, layer_decay=0.5))
    highest = set_learning_rate(optimizer, Schedule(decay="linear"), 50, 100)
    assert highest == pytest.approx(0.05)
    rate_of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    names = ("conv1", "layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1", "fc")
    rates = [rate_of[id(network.get_parameter(f"{name}.weight"))] for name in names]
    assert rates == pytest.approx([0.05 / 16, 0.05 / 8, 0.05 / 4, 0.05 / 2, 0.05])


def test_a_frozen_network_learns_in_its_head_alone() -> None:
    """Running statistics stay too; afterwards everything learns again."""
    torch.manual_seed(0)
    network = build_network("resnet20", 10)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    freeze(network, frozen=True)
    optimizer = build_optimizer(network, Optimizer(learning_rate=0.1))
    network(torch.randn(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    after = network.state_dict().items()
    changed = {name for name, value in after if not torch.equal(value, before[name])}
    assert changed == {"fc.weight", "fc.bias"}
    network.train()
    freeze(network, frozen=False)
    assert all(parameter.requires_grad for parameter in network.parameters())
