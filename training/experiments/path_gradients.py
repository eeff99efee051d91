"""Paths through a residual network: how many of each length, and the gradient that they carry (Veit et al. 2016, section 4.3)."""

from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom
from torch import Tensor
from torch.nn import functional
from torchvision.models.resnet import BasicBlock

from training.experiments.laboratory import Laboratory, TrainedRun
from training.experiments.network_parts import NetworkParts, branches
from training.experiments.sample_images import TestImages, counted
from training.learning.networks import fold_batch_norms

SHARE: Final = 0.95
"""Of all paths: the interval of lengths that holds at least so many."""
CARRIED: Final = 0.90
"""Of the gradient: what the effective paths carry together."""


def share_of_paths(blocks: int) -> NDArray[np.float64]:
    """How many of the 2^blocks paths pass through 0, 1, … all residual branches: Binomial(blocks, 1/2)."""
    return np.asarray(binom.pmf(np.arange(blocks + 1), blocks, 0.5), np.float64)


def usual_lengths(blocks: int) -> tuple[int, int]:
    """The shortest interval around the middle that holds SHARE of all paths."""
    shares = share_of_paths(blocks)
    return next(
        (low, blocks - low)
        for low in range(blocks // 2, -1, -1)
        if shares[low : blocks - low + 1].sum() >= SHARE
    )


def shortest_interval(shares: NDArray[np.float64], wanted: float) -> tuple[int, int]:
    """The first and last position of the shortest run whose shares add up to as much as is wanted of all."""
    sums = np.concatenate([[0.0], np.cumsum(shares / shares.sum())])
    enough = wanted - 1e-12
    runs = (
        (a, b)
        for length in range(len(shares))
        for a in range(len(shares) - length)
        for b in [a + length]
    )
    return next((a, b) for a, b in runs if sums[b + 1] - sums[a] >= enough)


class PathGradients:
    """One forward pass, whose gradient at the first block's input can then be had along any set of paths."""

    def __init__(self, anatomy: NetworkParts, batch: Tensor, labels: Tensor) -> None:
        with torch.no_grad():
            x = anatomy.stem(batch)
        self._steps: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for block in anatomy.blocks:
            if not isinstance(block, BasicBlock):
                raise TypeError(type(block))
            x = x.detach().requires_grad_()
            shortcut, residual = branches(block, x)
            total = (shortcut + residual).detach()
            self._steps.append((x, shortcut, residual, total > 0))
            x = functional.relu(total)
        x = x.detach().requires_grad_()
        loss = functional.cross_entropy(anatomy.head(x), labels, reduction="sum")
        self._gradient = torch.autograd.grad(loss, x)[0]

    def through(self, kept: Collection[int]) -> Tensor:
        """The gradient along the one path that takes these blocks' residual branches and all others' shortcuts.

        The loss is the sum over the images, so each has its own in its row. Sums over all paths to the whole gradient.
        """
        gradient: Tensor = self._gradient
        for position, (x, shortcut, residual, passes) in reversed(list(enumerate(self._steps))):
            gradient = gradient * passes
            way = residual if position in kept else shortcut
            if way is not x:
                gradient = torch.autograd.grad(way, x, gradient, retain_graph=True)[0]
        return gradient


def gradient_norms(
    laboratory: Laboratory, run: TrainedRun, pictures: TestImages, draws: int, seed: int
) -> list[list[float]]:
    """Norms `[length][draw]` of one random path's gradient of each length: the mean over the pictures, which are one batch."""
    device = laboratory.process.device
    network = fold_batch_norms(run.trained.network).to(device)
    anatomy = NetworkParts.of(network.to(memory_format=torch.channels_last))
    count = len(anatomy.blocks)
    backward = PathGradients(anatomy, torch.cat(pictures.batches(run)), torch.cat(pictures.labels))
    choices = [
        np.random.default_rng((seed, length, draw)).permutation(count)[:length].tolist()
        for length in range(count + 1)
        for draw in range(draws)
    ]
    norms = [
        float(backward.through(set(kept)).flatten(1).norm(dim=1).double().mean())
        for kept in counted(laboratory, f"paths of {run.architecture}", choices)
    ]
    return [norms[start : start + draws] for start in range(0, len(norms), draws)]


def share_of_gradient(norms: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """By length: the mean norm times the number of such paths, as a share of the sum over all lengths."""
    weights = share_of_paths(len(norms) - 1) * np.mean(norms, axis=1)
    return np.asarray(weights / weights.sum(), np.float64)
