"""Stacks of plain or residual blocks that are trained to return their input.

Weights are initialised as in all our networks (He et al. 2015b; batch norms 1 and 0). No batch norm
is zeroed and there is no weight decay, so that only the shortcut favours F(x) = 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock

from training.errors import InterruptedRunError
from training.experiments.laboratory import Laboratory
from training.learning.blocks import PlainBlock
from training.statistics import SeedValues

STACK_BLOCKS: Final = {"plain": PlainBlock, "residual": BasicBlock}
STACK_RATES: Final = (0.1, 0.01)
STACK_MOMENTUM: Final = 0.9
STACK_BATCH: Final = 32
FINAL_STEPS: Final = 10
"""The final error is the mean over this many last steps."""


@dataclass(frozen=True)
class CopyingErrors:
    """Errors of stacks of one kind and length, at the better learning rate."""

    kind: str
    """A key of STACK_BLOCKS."""
    blocks: int
    rate: float
    errors: np.ndarray
    """Squared error over variance, float `[seeds, steps]`."""

    @property
    def final(self) -> SeedValues:
        return SeedValues(self.errors[:, -FINAL_STEPS:].mean(axis=1).tolist())

    @property
    def name(self) -> str:
        return f"{self.kind}, {self.blocks} {'block' if self.blocks == 1 else 'blocks'}"


def build_stack(kind: str, blocks: int, channels: int, seed: int) -> nn.Sequential:
    """Untrained blocks of two 3x3 convolutions each."""
    torch.manual_seed(seed)
    stack = nn.Sequential(*(STACK_BLOCKS[kind](channels, channels) for _ in range(blocks)))
    for module in stack.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return stack


def train_to_copy(
    laboratory: Laboratory, stack: nn.Module, maps: Tensor, rate: float, steps: int, seed: int
) -> list[float]:
    """Train a stack to return its input.

    Args:
        maps: Feature maps, float `[n, channels, h, w]`.
        rate: Learning rate of SGD with momentum.
        seed: Draws the batches.

    Returns:
        For each step, the squared error of the batch divided by the variance of `maps`. A stack
        that always returns the mean has an error of 1. If training diverges, the remaining errors
        are infinite.

    Raises:
        InterruptedRunError: The user asked to stop.
    """
    stack = stack.to(maps.device)
    stack = stack.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(stack.parameters(), lr=rate, momentum=STACK_MOMENTUM)
    variance, generator = maps.var(), torch.Generator().manual_seed(seed)
    errors: list[float] = []
    while len(errors) < steps:
        if laboratory.interrupted():
            raise InterruptedRunError(f"stopped at step {len(errors)} of {steps} (copying)")
        chosen = torch.randint(len(maps), (STACK_BATCH,), generator=generator)
        batch = maps[chosen.to(maps.device)]
        error = functional.mse_loss(stack(batch), batch) / variance
        if not torch.isfinite(error):
            return errors + [np.inf] * (steps - len(errors))
        optimizer.zero_grad()
        error.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        errors.append(error.item())
    return errors


def best_rate(kind: str, blocks: int, errors: Sequence[Sequence[Sequence[float]]]) -> CopyingErrors:
    """Choose the rate with the lowest mean final error. `errors` is `[rate][seed][step]`."""
    candidates = [
        CopyingErrors(kind, blocks, rate, np.array(of_rate))
        for rate, of_rate in zip(STACK_RATES, errors, strict=True)
    ]
    return min(candidates, key=lambda candidate: candidate.final.mean)
