"""Stacks of layers that learn to give back what they get: plain against residual, on feature maps of real images.

Norms and convolutions start as in every network here (He et al. 2015b; weight 1, bias 0), no norm is zeroed and no weight
decays: nothing but the shortcut favours F(x) = 0.
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

RATES: Final = (0.1, 0.01)
MOMENTUM: Final = 0.9
BATCH: Final = 32
LAST_STEPS: Final = 10
"""Steps at the end whose mean is the final error."""
KINDS: Final = {"plain": PlainBlock, "residual": BasicBlock}


@dataclass(frozen=True)
class CopyingErrors:
    """How stacks of one kind and length learned, at the better of the rates: errors float `[seeds, steps]`."""

    kind: str
    blocks: int
    rate: float
    errors: np.ndarray

    @property
    def final(self) -> SeedValues:
        """The error at the end, a value a seed."""
        return SeedValues(self.errors[:, -LAST_STEPS:].mean(axis=1).tolist())

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.kind}, {self.blocks} {'block' if self.blocks == 1 else 'blocks'}"


def build_stack(kind: str, blocks: int, channels: int, seed: int) -> nn.Sequential:
    """Blocks of two 3x3 convolutions each, at their start."""
    torch.manual_seed(seed)
    stack = nn.Sequential(*(KINDS[kind](channels, channels) for _ in range(blocks)))
    for module in stack.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return stack


def learn_to_copy(
    laboratory: Laboratory, stack: nn.Module, maps: Tensor, rate: float, steps: int, seed: int
) -> list[float]:
    """Train a stack to give back maps `[n, channels, h, w]`; after each step the batch's squared error over the maps' variance.

    1 is what answering with the mean gives. The errors end in infinity where the training diverged. Raises InterruptedRunError.
    """
    stack = stack.to(maps.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(stack.parameters(), lr=rate, momentum=MOMENTUM)
    variance, order = maps.var(), torch.Generator().manual_seed(seed)
    errors: list[float] = []
    while len(errors) < steps:
        if laboratory.interrupted():
            raise InterruptedRunError(
                f"stopped at step {len(errors)} of {steps} of learning to copy"
            )
        batch = maps[torch.randint(len(maps), (BATCH,), generator=order).to(maps.device)]
        error = functional.mse_loss(stack(batch), batch) / variance
        if not torch.isfinite(error):
            return errors + [np.inf] * (steps - len(errors))
        optimizer.zero_grad()
        error.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        errors.append(error.item())
    return errors


def best_rate(kind: str, blocks: int, errors: Sequence[Sequence[Sequence[float]]]) -> CopyingErrors:
    """Of errors by rate, seed and step, those of the rate that ends lowest on the mean."""
    tried = [
        CopyingErrors(kind, blocks, rate, np.array(of_rate))
        for rate, of_rate in zip(RATES, errors, strict=True)
    ]
    return min(tried, key=lambda copying: copying.final.mean)
