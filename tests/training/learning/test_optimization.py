"""The optimiser: which parameters decay, at which rate each layer learns, and when."""

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
from training.learning.recipe import Optimizer, Recipe, Schedule

STEPS = 1000


def factors(schedule: Schedule) -> list[float]:
    """The factor at every step."""
    return [learning_rate_factor(schedule, step, STEPS) for step in range(STEPS)]


def test_he2015_divides_by_ten_at_half_and_at_three_quarters() -> None:
    """At 32k and 48k of 64k iterations."""
    schedule = Recipe.load("he2015").schedule
    for step, expected in (
        (0, 1),
        (31999, 1),
        (32000, 0.1),
        (47999, 0.1),
        (48000, 0.01),
        (63999, 0.01),
    ):
        assert learning_rate_factor(schedule, step, 64000) == pytest.approx(expected)


def test_110_layers_warm_up_at_a_tenth_for_400_iterations() -> None:
    """A constant 0.01, then 0.1 at once."""
    schedule = Recipe.load("he2015-110").schedule
    assert [learning_rate_factor(schedule, step, 64000) for step in (0, 399, 400)] == pytest.approx(
        [0.1, 0.1, 1]
    )


@pytest.mark.parametrize("decay", ["cosine", "linear"])
def test_one_cycle_rises_to_its_height_and_falls_to_nothing(decay: str) -> None:
    """Up over the warm-up, down over the rest, without a jump."""
    values = factors(Schedule(decay=decay, warmup=0.3, warmup_start=0.04))  # type: ignore[arg-type]
    assert values[0] == pytest.approx(0.04)
    assert max(values) == pytest.approx(1)
    assert values.index(max(values)) == 300
    assert values[-1] < 0.01
    assert all(earlier <= later for earlier, later in itertools.pairwise(values[:301]))
    assert all(earlier >= later for earlier, later in itertools.pairwise(values[300:]))
    assert max(abs(later - earlier) for earlier, later in itertools.pairwise(values)) < 0.01


def test_image_sides_follow_the_scales() -> None:
    """In equal parts, rounded to multiples of 4, the model's own where the scale is 1."""
    schedule = Schedule(scales=(0.75, 0.875, 1.0))
    assert [training_image_size(schedule, step, 9, 32) for step in range(9)] == [24] * 3 + [
        28
    ] * 3 + [32] * 3
    assert [training_image_size(schedule, step, 9, 28) for step in (0, 3, 6)] == [20, 24, 28]
    assert training_image_size(Schedule(), 0, 9, 30) == 30


@pytest.mark.parametrize("step", [0, 1, 3, 5, 8])
def test_the_work_left_is_that_of_every_step_to_come(step: int) -> None:
    """Counted in steps of the present size."""
    schedule = Schedule(scales=(0.75, 0.875, 1.0))
    sides = [training_image_size(schedule, each, 10, 32) for each in range(step, 10)]
    assert remaining_work(schedule, step, 10, 32) == pytest.approx(
        sum(side**2 for side in sides) / sides[0] ** 2
    )
    assert remaining_work(Schedule(), step, 10, 32) == 10 - step


def test_norms_and_biases_decay_only_where_the_recipe_says_so() -> None:
    """Every parameter is in exactly one group."""
    network = build_network("resnet20", 10)
    for decays in (False, True):
        optimizer = build_optimizer(
            network, Optimizer(learning_rate=0.1, weight_decay=5e-4, decay_norms=decays)
        )
        decay_of = {
            id(p): group["weight_decay"]
            for group in optimizer.param_groups
            for p in group["params"]
        }
        assert (
            len(decay_of)
            == len(list(network.parameters()))
            == sum(len(group["params"]) for group in optimizer.param_groups)
        )
        for parameter in network.parameters():
            assert decay_of[id(parameter)] == (5e-4 if parameter.ndim > 1 or decays else 0)


def test_layers_learn_slower_the_farther_they_are_from_the_head() -> None:
    """By the same factor from group to group; the schedule scales them all."""
    network = build_network("resnet20", 10)
    optimizer = build_optimizer(network, Optimizer(learning_rate=0.1, layer_decay=0.5))
    highest = set_learning_rate(optimizer, Schedule(decay="linear"), 50, 100)
    assert highest == pytest.approx(0.05)
    rate_of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    rates = [
        rate_of[id(network.get_parameter(name))]
        for name in (
            "conv1.weight",
            "layer1.0.conv1.weight",
            "layer2.0.conv1.weight",
            "layer3.0.conv1.weight",
            "fc.weight",
        )
    ]
    assert rates == pytest.approx([0.05 / 16, 0.05 / 8, 0.05 / 4, 0.05 / 2, 0.05])


def test_a_frozen_network_learns_in_its_head_alone() -> None:
    """Also batch norm's running statistics stay; afterwards everything learns again."""
    network = build_network("resnet20", 10)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    freeze(network, frozen=True)
    optimizer = build_optimizer(network, Optimizer(learning_rate=0.1))
    network(torch.randn(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    changed = {
        name for name, value in network.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"fc.weight", "fc.bias"}
    network.train()
    freeze(network, frozen=False)
    assert all(parameter.requires_grad for parameter in network.parameters())
