"""The optimizer, its learning rates and the image size over the run."""

import itertools
import math
from typing import Final

import torch
from torch import nn

from training.learning.networks import layer_groups
from training.learning.recipe import Optimizer, Schedule

PEAK_RATE: Final = "height"
"""Key of a parameter group's peak learning rate; part of the checkpoint format."""


def build_optimizer(network: nn.Module, settings: Optimizer) -> torch.optim.SGD:
    """Build SGD with a peak learning rate and weight decay for each group of parameters.

    With `layer_decay` below 1 the last layer learns at the full rate, and each stage before it at
    `layer_decay` times the rate of the next. Batch norms and biases are decayed only with
    `decay_norms` (He et al. 2019, "Bag of Tricks", section 3.1).
    """
    stages = layer_groups(network)
    norm_decay = settings.weight_decay if settings.decay_norms else 0.0
    groups = []
    for depth, stage in enumerate(stages):
        peak = settings.learning_rate * settings.layer_decay ** (len(stages) - 1 - depth)
        weights = [parameter for _, parameter in stage if parameter.ndim > 1]
        norms_and_biases = [parameter for _, parameter in stage if parameter.ndim <= 1]
        for parameters, decay in ((weights, settings.weight_decay), (norms_and_biases, norm_decay)):
            if parameters:
                group = {"params": parameters, "lr": peak, PEAK_RATE: peak, "weight_decay": decay}
                groups.append(group)
    return torch.optim.SGD(
        groups,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov and settings.momentum > 0,
    )


def set_learning_rate(
    optimizer: torch.optim.Optimizer, schedule: Schedule, step: int, total: int
) -> float:
    """Set every group's learning rate for this step (from 0), and return the highest."""
    factor = learning_rate_factor(schedule, step, total)
    for group in optimizer.param_groups:
        group["lr"] = group[PEAK_RATE] * factor
    return float(max(group["lr"] for group in optimizer.param_groups))


def learning_rate_factor(schedule: Schedule, step: int, total: int) -> float:
    """The learning rate at `step` of `total` as a fraction of its peak.

    A pure function of the step, so that a resumed run has no scheduler state to restore.
    """
    warmup = max(schedule.warmup_iterations, round(schedule.warmup * total))
    if step < warmup:
        progress = step / warmup if schedule.warmup_shape == "linear" else 0.0
        return schedule.warmup_start + (1 - schedule.warmup_start) * progress
    if schedule.decay == "steps":
        return math.prod(
            schedule.factor for milestone in schedule.milestones if step >= milestone * total
        )
    remaining = 1 - (step - warmup) / max(1, total - warmup)
    return remaining if schedule.decay == "linear" else 0.5 * (1 - math.cos(math.pi * remaining))


def training_image_size(
    schedule: Schedule, step: int, total: int, full_size: tuple[int, int]
) -> tuple[int, int]:
    """Height and width of the training images at `step` of `total`.

    They are `full_size`, or multiples of 4.
    """
    if not schedule.scales:
        return full_size
    part = min(step * len(schedule.scales) // total, len(schedule.scales) - 1)
    scale = schedule.scales[part]
    if scale == 1:
        return full_size
    height, width = (max(8, round(side * scale / 4) * 4) for side in full_size)
    return height, width


def remaining_work(schedule: Schedule, step: int, total: int, full_size: tuple[int, int]) -> float:
    """Return the remaining work, in units of one step at the image size of `step`.

    The cost of a step is taken as proportional to the number of pixels.
    """

    def pixels_at(step: int) -> int:
        return math.prod(training_image_size(schedule, step, total, full_size))

    parts = max(1, len(schedule.scales))
    bounds = [-(-total * part // parts) for part in range(parts + 1)]
    pixels = sum(
        max(0, end - max(start, step)) * pixels_at(start)
        for start, end in itertools.pairwise(bounds)
    )
    return pixels / pixels_at(step)


def freeze(network: nn.Module, *, frozen: bool) -> None:
    """Train only the last layer if `frozen`, otherwise all layers.

    Call it after `network.train()`: it sets frozen batch norms to evaluation mode, so that they
    keep their running statistics.
    """
    head = {id(parameter) for _, parameter in layer_groups(network)[-1]}
    for parameter in network.parameters():
        parameter.requires_grad_(not frozen or id(parameter) in head)
    if frozen:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
