"""The loss around trained weights, along two random filter-normalised directions (Li et al. 2018, section 4)."""

import copy
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.experiments.training_steps import answers, loss_of

CEILING: Final = 1e6
"""Losses above this, and those that are no numbers, are this."""


def draw_direction(network: nn.Module, seed: int) -> list[Tensor]:
    """A random direction: for each parameter a tensor of its shape.

    Each filter (or row of the last layer) is as long as the network's own filter. Norms' parameters and biases stay where they
    are: they are zero.
    """
    generator = torch.Generator().manual_seed(seed)
    directions = []
    for parameter in network.parameters():
        if parameter.ndim <= 1:
            directions.append(torch.zeros_like(parameter))
            continue
        drawn = torch.randn(parameter.shape, generator=generator).to(parameter.device)
        own, other = ((values.detach().flatten(1).norm(dim=1)) for values in (parameter, drawn))
        directions.append(drawn * (own / other).reshape(-1, *[1] * (parameter.ndim - 1)))
    return directions


@torch.no_grad()
def measure_surface(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    coordinates: Sequence[float],
    seed: int,
    advance: Callable[[int, int], None] = lambda *_: None,
) -> list[list[float]]:
    """The loss at weights + x first + y second, in evaluation mode: a row for each y, in it a value for each x.

    `advance` is called after each point with how many are done, and of how many.
    """
    moved = copy.deepcopy(network).eval()
    first, second = (draw_direction(network, 2 * seed + which) for which in range(2))
    rows: list[list[float]] = []
    for y in coordinates:
        rows.append([])
        for x in coordinates:
            for parameter, own, along, across in zip(
                moved.parameters(), network.parameters(), first, second, strict=True
            ):
                parameter.copy_(own + x * along + y * across)
            loss = loss_of(answers(moved, images), labels)
            rows[-1].append(min(loss, CEILING) if np.isfinite(loss) else CEILING)
            advance(len(coordinates) * (len(rows) - 1) + len(rows[-1]), len(coordinates) ** 2)
    return rows


def grid(points: int) -> list[float]:
    """An odd number of coordinates from -1 to 1, so that 0 is one of them."""
    return [round(float(value), 6) for value in np.linspace(-1, 1, points)]


def basin(losses: Sequence[Sequence[float]], classes: int) -> float:
    """The share of the square whose loss is above the centre's by at most half of what guessing costs, ln(classes) / 2."""
    values = np.array(losses)
    centre = len(values) // 2
    return float((values <= values[centre, centre] + np.log(classes) / 2).mean())


def minima(losses: Sequence[Sequence[float]]) -> int:
    """Points of the grid that lie lower than all their (up to 8) neighbours: a convex surface has one at most."""
    values: NDArray[np.float64] = np.pad(np.array(losses), 1, constant_values=np.inf)
    inner = values[1:-1, 1:-1]
    shifts = [(dy, dx) for dy in range(3) for dx in range(3) if (dy, dx) != (1, 1)]
    around = [values[dy : dy + inner.shape[0], dx : dx + inner.shape[1]] for dy, dx in shifts]
    return int(np.logical_and.reduce([inner < neighbours for neighbours in around]).sum())
