"""The optimiser and its learning rate: which parameters decay, at which rate each layer learns, and when."""

import itertools
import math

import torch
from torch import nn

from training.learning.networks import layer_groups
from training.learning.recipe import Optimizer, Schedule


def build_optimizer(network: nn.Module, values: Optimizer) -> torch.optim.SGD:
    """SGD over the network's layers; each group keeps its own height of the rate as `height`.

    With `layer_decay` < 1 the head learns at the full rate and each layer group before it at `layer_decay` times the next.
    """
    groups = layer_groups(network)
    described = []
    for depth, named in enumerate(groups):
        height = values.learning_rate * values.layer_decay ** (len(groups) - 1 - depth)
        weights = [parameter for _, parameter in named if parameter.ndim > 1]
        others = [
            parameter for _, parameter in named if parameter.ndim <= 1
        ]  # batch norms and biases
        decays = (values.weight_decay, values.weight_decay if values.decay_norms else 0.0)
        for parameters, decay in zip((weights, others), decays, strict=True):
            if parameters:
                described.append(
                    {"params": parameters, "lr": height, "height": height, "weight_decay": decay}
                )
    return torch.optim.SGD(
        described,
        lr=values.learning_rate,
        momentum=values.momentum,
        nesterov=values.nesterov and values.momentum > 0,
    )


def set_learning_rate(
    optimizer: torch.optim.Optimizer, schedule: Schedule, step: int, total: int
) -> float:
    """Give every group its rate for this step (from 0), and return the highest."""
    factor = learning_rate_factor(schedule, step, total)
    for group in optimizer.param_groups:
        group["lr"] = group["height"] * factor
    return float(max(group["lr"] for group in optimizer.param_groups))


def learning_rate_factor(schedule: Schedule, step: int, total: int) -> float:
    """The learning rate at `step` of `total` as a part of its height: a pure function, so there is no state to resume."""
    warmup = max(schedule.warmup_iterations, round(schedule.warmup * total))
    if step < warmup:
        risen = step / warmup if schedule.warmup_shape == "linear" else 0.0
        return schedule.warmup_start + (1 - schedule.warmup_start) * risen
    if schedule.decay == "steps":
        return math.prod(
            schedule.factor for milestone in schedule.milestones if step >= milestone * total
        )
    remaining = 1 - (step - warmup) / max(1, total - warmup)
    return remaining if schedule.decay == "linear" else 0.5 * (1 - math.cos(math.pi * remaining))


def training_image_size(schedule: Schedule, step: int, total: int, full: int) -> int:
    """The side that images have at `step` of `total`, a multiple of 4; `full` is the model's own."""
    if not schedule.scales:
        return full
    scale = schedule.scales[min(step * len(schedule.scales) // total, len(schedule.scales) - 1)]
    return full if scale == 1 else max(8, round(full * scale / 4) * 4)


def remaining_work(schedule: Schedule, step: int, total: int, full: int) -> float:
    """The steps from this one to the end, counted in steps on images of its size: work goes by the pixel."""
    parts = max(1, len(schedule.scales))
    bounds = [-(-total * part // parts) for part in range(parts + 1)]
    pixels = sum(
        max(0, end - max(start, step)) * training_image_size(schedule, start, total, full) ** 2
        for start, end in itertools.pairwise(bounds)
    )
    return pixels / training_image_size(schedule, min(step, total - 1), total, full) ** 2


def freeze(network: nn.Module, *, frozen: bool) -> None:
    """Let only the head learn, or everything again. Call after `network.train()`: frozen norms keep their statistics."""
    head = {id(parameter) for _, parameter in layer_groups(network)[-1]}
    for parameter in network.parameters():
        parameter.requires_grad_(not frozen or id(parameter) in head)
    if frozen:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
