"""The learning-rate range test finds a rate and restores the learner."""

from collections.abc import Callable

import pytest
import torch

from training.learning.distributed import SINGLE_PROCESS
from training.learning.learner import Learner
from training.learning.rate_finder import find_rate
from training.run.data import open_run_data
from training.run.directory import Run
from training.steps.training_setup import prepare_training


def snapshot(learner: Learner) -> list[object]:
    """Copies of everything that a step could change."""
    state = learner.state_dict()
    optimizer_tensors = [
        value
        for parameter_state in state["optimizer"]["state"].values()
        for value in parameter_state.values()
        if value is not None
    ]
    tensors = (*state["network"].values(), *(state["average"] or {}).values(), *optimizer_tensors)
    return [
        *(tensor.clone() for tensor in tensors),
        [group["lr"] for group in learner.optimizer.param_groups],
        [module.training for module in learner.network.modules()],
        [parameter.requires_grad for parameter in learner.network.parameters()],
        torch.get_rng_state(),
    ]


def test_the_learner_and_the_random_state_are_restored(
    new_run: Callable[..., Run],
) -> None:
    """Also in the middle of a training, with frozen layers, momentum and a weight average."""
    run = new_run("ema_decay=0.9", "optimizer.clip_norm=1.0")
    learner, loader, _ = prepare_training(run, open_run_data(run), SINGLE_PROCESS, 0)
    learner.train(frozen=True)
    learner.step(next(loader.epoch_batches(0)))
    before = snapshot(learner)
    curve = find_rate(learner, loader, steps=12)
    after = snapshot(learner)
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old, new) if isinstance(old, torch.Tensor) else old == new
    assert 1e-5 < curve.suggested < 10


def test_the_rates_rise_until_the_loss_diverges(new_run: Callable[..., Run]) -> None:
    """The test may need more steps than an epoch has."""
    run = new_run("batch_size=128", "optimizer.layer_decay=0.5")
    learner, loader, _ = prepare_training(run, open_run_data(run), SINGLE_PROCESS, 0)
    applied = []
    learner.optimizer.register_step_pre_hook(
        lambda optimizer, *_: applied.append([group["lr"] for group in optimizer.param_groups])
    )
    curve = find_rate(learner, loader, steps=loader.steps_per_epoch + 10, highest=1000)
    assert list(curve.rates) == sorted(curve.rates)
    assert len(curve.rates) == len(curve.losses) > loader.steps_per_epoch
    assert curve.rates[-1] < 1000
    assert min(curve.losses) < curve.losses[0]
    assert curve.suggested == curve.rates[curve.losses.index(min(curve.losses))] / 10
    highest = [max(rates) for rates in applied[: len(curve.rates)]]
    assert highest == pytest.approx(list(curve.rates))
    assert min(applied[0]) < max(applied[0])
