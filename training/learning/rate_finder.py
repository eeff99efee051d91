"""Learning-rate range test: raise the rate until the loss diverges.

Source: Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3.
"""

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch

from model_store.command_line import as_called
from training.errors import DataError
from training.learning.batches import BatchLoader
from training.learning.learner import Learner
from training.learning.optimization import PEAK_RATE

SMOOTHING: Final = 0.9  # weight of the moving average of the loss
DIVERGENCE_FACTOR: Final = 4.0  # the test ends when the loss exceeds its minimum by this factor


@dataclass(frozen=True)
class RateCurve:
    """Smoothed loss at each learning rate."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def suggested(self) -> float:
        """Peak learning rate to train with: a tenth of the rate with the lowest loss."""
        return self.rates[min(range(len(self.losses)), key=self.losses.__getitem__)] / 10


def find_rate(
    learner: Learner,
    loader: BatchLoader,
    steps: int = 100,
    lowest: float = 1e-5,
    highest: float = 10.0,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> RateCurve:
    """Raise the rate from `lowest` to `highest` in geometric steps, then restore the learner.

    Weights, momentum, running statistics, average, modes and random state are restored (compare
    fastai#3013, pytorch-lightning#6675).

    Raises:
        DataError: The loss is not finite even at the lowest rate.
    """
    saved_state = copy.deepcopy(learner.state_dict())
    saved_rates = [group["lr"] for group in learner.optimizer.param_groups]
    modes = [(module, module.training) for module in learner.network.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in learner.network.parameters()]
    random_state = torch.get_rng_state()
    iterations = max(steps, loader.steps_per_epoch)
    recipe = loader.recipe.model_copy(update={"iterations": iterations, "epochs": None})
    test_run = replace(loader, recipe=recipe)
    batches = itertools.chain.from_iterable(map(test_run.epoch_batches, range(test_run.epochs)))
    highest_peak = max(group[PEAK_RATE] for group in learner.optimizer.param_groups)
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    try:
        learner.train()
        for step, batch in zip(range(steps), batches, strict=False):
            rate = lowest * (highest / lowest) ** (step / max(1, steps - 1))
            for group in learner.optimizer.param_groups:
                group["lr"] = rate * group[PEAK_RATE] / highest_peak
            loss = learner.step(batch)[0].item() / batch.size
            mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
            smoothed = mean / (1 - SMOOTHING ** (step + 1))
            progress(step + 1, steps)
            has_diverged = bool(losses) and smoothed > DIVERGENCE_FACTOR * min(losses)
            if has_diverged or not math.isfinite(smoothed):
                break
            rates.append(rate)
            losses.append(smoothed)
    finally:
        learner.load_state_dict(saved_state)
        for group, rate in zip(learner.optimizer.param_groups, saved_rates, strict=True):
            group["lr"] = rate
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in trainable:
            parameter.requires_grad_(requires_grad)
            parameter.grad = None
        torch.set_rng_state(random_state)
    if not rates:
        raise DataError(
            f"the loss is not finite even at a learning rate of {lowest:g}; "
            f"check the data with `{as_called('training check')}`"
        )
    return RateCurve(tuple(rates), tuple(losses))
