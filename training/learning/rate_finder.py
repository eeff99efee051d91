"""The learning-rate finder: a rate that rises step by step until the loss runs away (Smith 2017), on a copy that is put back."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch

from training.errors import DataError
from training.learning.batches import BatchLoader
from training.learning.learner import Learner

SMOOTHING: Final = 0.9
RUNAWAY: Final = 4.0  # times the lowest loss: from here nothing is learned any more


@dataclass(frozen=True)
class RateCurve:
    """The smoothed loss at each rate, and the rate to train with: a tenth of where the loss was lowest."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def suggested(self) -> float:
        """The height for the schedule."""
        return self.rates[min(range(len(self.losses)), key=self.losses.__getitem__)] / 10


def find_rate(
    learner: Learner,
    loader: BatchLoader,
    steps: int = 100,
    lowest: float = 1e-5,
    highest: float = 10.0,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> RateCurve:
    """Raise the rate from `lowest` to `highest` over so many steps.

    Learner and generators are afterwards as they were: weights, momentum, running statistics, average, modes, random state
    (fastai#3013, pytorch-lightning#6675 were of finders that left them changed).
    """
    kept = copy.deepcopy(
        (learner.state_dict(), [group["lr"] for group in learner.optimizer.param_groups])
    )
    modes = [(module, module.training) for module in learner.network.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in learner.network.parameters()]
    random_state = torch.get_rng_state()
    endless = replace(
        loader,
        recipe=loader.recipe.model_copy(
            update={"iterations": max(steps, loader.steps_per_epoch), "epochs": None}
        ),
    )
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    try:
        learner.train()
        for step in range(steps):
            if step % loader.steps_per_epoch == 0:
                batches = endless.epoch_batches(step // loader.steps_per_epoch)
            batch = next(batches)
            rate = lowest * (highest / lowest) ** (step / max(1, steps - 1))
            for group in learner.optimizer.param_groups:
                group["lr"] = (
                    rate
                    * group["height"]
                    / max(other["height"] for other in learner.optimizer.param_groups)
                )
            loss = learner.step(batch)[0].item() / batch.size
            mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
            smoothed = mean / (1 - SMOOTHING ** (step + 1))
            progress(step + 1, steps)
            if not math.isfinite(smoothed) or (losses and smoothed > RUNAWAY * min(losses)):
                break
            rates.append(rate)
            losses.append(smoothed)
    finally:
        learner.load_state_dict(kept[0])
        for group, rate in zip(learner.optimizer.param_groups, kept[1], strict=True):
            group["lr"] = rate
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)
            parameter.grad = None
        torch.set_rng_state(random_state)
    if not rates:
        raise DataError(
            f"the loss is not finite even at a rate of {lowest:g}; look at the data with `python -m training check`"
        )
    return RateCurve(tuple(rates), tuple(losses))
