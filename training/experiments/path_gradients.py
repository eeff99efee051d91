"""Numbers and gradients of the paths in a residual network, by path length.

Source: Veit et al. 2016, section 4.3.
"""

from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom
from torch import Tensor
from torch.nn import functional
from torchvision.models.resnet import BasicBlock

from training.experiments.laboratory import Laboratory
from training.experiments.network_parts import NetworkParts, block_branches
from training.experiments.sample_images import SampleTestImages
from training.experiments.trained_run import TrainedRun
from training.learning.networks import fold_batch_norms

USUAL_PATH_SHARE: Final = 0.95
"""Share of all paths whose length is in the interval of `usual_lengths`."""


def share_of_paths(blocks: int) -> NDArray[np.float64]:
    """Share of the 2^blocks paths by length (0 to `blocks`): Binomial(blocks, 1/2)."""
    return np.asarray(binom.pmf(np.arange(blocks + 1), blocks, 0.5), np.float64)


def usual_lengths(blocks: int) -> tuple[int, int]:
    """Shortest interval around the middle that holds USUAL_PATH_SHARE of all paths."""
    shares = share_of_paths(blocks)
    return next(
        (low, blocks - low)
        for low in range(blocks // 2, -1, -1)
        if shares[low : blocks - low + 1].sum() >= USUAL_PATH_SHARE
    )


def shortest_interval(values: NDArray[np.float64], share: float) -> tuple[int, int]:
    """First and last index of the shortest interval that holds `share` of the sum of `values`."""
    sums = np.concatenate([[0.0], np.cumsum(values / values.sum())])
    enough = share - 1e-12  # rounding
    return next(
        (first, first + length)
        for length in range(len(values))
        for first in range(len(values) - length)
        if sums[first + length + 1] - sums[first] >= enough
    )


class PathGradients:
    """Runs one forward pass, and then computes the gradient along any single path.

    Gradients are of the summed loss with respect to the input of the first block, float
    `[n, c, h, w]`.
    """

    def __init__(self, parts: NetworkParts, batch: Tensor, labels: Tensor) -> None:
        with torch.no_grad():
            x = parts.stem(batch)
        self._blocks: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for block in parts.blocks:
            if not isinstance(block, BasicBlock):
                raise TypeError(type(block))
            x = x.detach().requires_grad_()
            shortcut, residual = block_branches(block, x)
            total = (shortcut + residual).detach()
            self._blocks.append((x, shortcut, residual, total > 0))
            x = functional.relu(total)
        x = x.detach().requires_grad_()
        loss = functional.cross_entropy(parts.head(x), labels, reduction="sum")
        self._output_gradient = torch.autograd.grad(loss, x)[0]

    def along(self, residual_blocks: Collection[int]) -> Tensor:
        """Gradient along the path through the residual branches of these blocks only.

        The path takes the shortcuts of all other blocks. The sum over all paths is the full
        gradient.
        """
        gradient: Tensor = self._output_gradient
        for position, (x, shortcut, residual, active) in reversed(list(enumerate(self._blocks))):
            gradient = gradient * active
            branch = residual if position in residual_blocks else shortcut
            if branch is not x:
                gradient = torch.autograd.grad(branch, x, gradient, retain_graph=True)[0]
        return gradient


def measure_path_gradients(
    laboratory: Laboratory, run: TrainedRun, images: SampleTestImages, draws: int, seed: int
) -> list[list[float]]:
    """Norms `[length][draw]` of the gradient along one random path, averaged over the images."""
    network = fold_batch_norms(run.trained.network).to(laboratory.process.device)
    parts = NetworkParts.of(network.to(memory_format=torch.channels_last))
    gradients = PathGradients(parts, torch.cat(images.batches(run)), torch.cat(images.labels))
    count = len(parts.blocks)
    paths = [
        np.random.default_rng((seed, length, draw)).permutation(count)[:length].tolist()
        for length in range(count + 1)
        for draw in range(draws)
    ]
    norms = [
        float(gradients.along(set(path)).flatten(1).norm(dim=1).double().mean())
        for path in laboratory.iterate(f"path gradients: {run.architecture}", paths)
    ]
    return [norms[start : start + draws] for start in range(0, len(norms), draws)]


def share_of_gradient(norms: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Share of the gradient by path length: mean norm times the number of such paths."""
    weights = share_of_paths(len(norms) - 1) * np.mean(norms, axis=1)
    return np.asarray(weights / weights.sum(), np.float64)
