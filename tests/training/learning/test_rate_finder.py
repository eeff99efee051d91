"""The learning-rate finder finds a rate and leaves everything as it was."""

from collections.abc import Callable

import torch

from training.learning.distributed import SINGLE_PROCESS
from training.learning.learner import Learner
from training.learning.rate_finder import find_rate
from training.run.data import open_run_data
from training.run.directory import RunDirectory
from training.steps.training_setup import prepare_training


def snapshot(learner: Learner) -> list[object]:
    """Everything that a step could change."""
    state = learner.state_dict()
    average = state["average"] or {}
    return [
        *(value.clone() for value in (*state["network"].values(), *average.values())),
        *(
            value.clone()
            for entry in state["optimizer"]["state"].values()
            for value in entry.values()
            if value is not None
        ),
        [group["lr"] for group in learner.optimizer.param_groups],
        [module.training for module in learner.network.modules()],
        [parameter.requires_grad for parameter in learner.network.parameters()],
        torch.get_rng_state(),
    ]


def test_model_optimiser_average_and_generators_are_as_before(
    new_run: Callable[..., RunDirectory],
) -> None:
    """Also in the middle of a training, frozen and with momentum: the next step is the one that would have come."""
    run = new_run("ema_decay=0.9", "optimizer.clip_norm=1.0")
    learner, loader, _ = prepare_training(run, open_run_data(run), SINGLE_PROCESS)
    learner.train(frozen=True)
    batches = loader.epoch_batches(0)
    learner.step(next(batches))
    before = snapshot(learner)
    curve = find_rate(learner, loader, steps=12)
    after = snapshot(learner)
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old, new) if isinstance(old, torch.Tensor) else old == new
    assert 1e-5 < curve.suggested < 10


def test_the_rates_rise_and_the_search_ends_where_the_loss_runs_away(
    new_run: Callable[..., RunDirectory],
) -> None:
    """More steps than an epoch has are no matter."""
    run = new_run()
    learner, loader, _ = prepare_training(run, open_run_data(run), SINGLE_PROCESS)
    curve = find_rate(learner, loader, steps=loader.steps_per_epoch + 10, highest=1000)
    assert list(curve.rates) == sorted(curve.rates)
    assert len(curve.rates) == len(curve.losses)
    assert curve.rates[-1] < 1000
    assert min(curve.losses) < curve.losses[0]
