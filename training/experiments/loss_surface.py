"""Loss around trained weights along two random, filter-normalised directions.

Source: Li et al. 2018, section 4.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.experiments.laboratory import mean_loss
from training.experiments.training_steps import predict_logits

LOSS_CEILING: Final = 1e6
"""Replaces larger losses and NaN."""

Surface = Sequence[Sequence[float]]
"""Losses on a square grid: a row for each y, with a value for each x."""


def random_direction(network: nn.Module, seed: int) -> list[Tensor]:
    """A random direction: one tensor with the shape of each parameter.

    Each filter (in the last layer: each row) is scaled to the norm of the network's own filter.
    Entries of batch norms and biases are zero.
    """
    generator = torch.Generator().manual_seed(seed)
    direction = []
    for parameter in network.parameters():
        if parameter.ndim <= 1:
            direction.append(torch.zeros_like(parameter))
            continue
        drawn = torch.randn(parameter.shape, generator=generator).to(parameter.device)
        own, random = ((values.detach().flatten(1).norm(dim=1)) for values in (parameter, drawn))
        direction.append(drawn * (own / random).reshape(-1, *[1] * (parameter.ndim - 1)))
    return direction


def direction_pair(network: nn.Module, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Two independent random directions. Different seeds never share a direction."""
    return random_direction(network, 2 * seed), random_direction(network, 2 * seed + 1)


@torch.no_grad()
def measure_surface(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    coordinates: Sequence[float],
    seed: int,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[list[float]]:
    """Loss at weights + x * first direction + y * second direction, in evaluation mode.

    Args:
        images: Normalised images, float `[n, 3, h, w]`.
        labels: int64 `[n]`.
        coordinates: Values of x and of y.
        seed: Draws the directions.
        progress: Called with (points done, points in total).

    Returns:
        A row for each y, with a value for each x.
    """
    moved = copy.deepcopy(network).eval()
    first, second = direction_pair(network, seed)
    rows: list[list[float]] = []
    for y in coordinates:
        rows.append([])
        for x in coordinates:
            for parameter, own, along_x, along_y in zip(
                moved.parameters(), network.parameters(), first, second, strict=True
            ):
                parameter.copy_(own + x * along_x + y * along_y)
            loss = mean_loss(predict_logits(moved, images), labels)
            rows[-1].append(min(loss, LOSS_CEILING) if np.isfinite(loss) else LOSS_CEILING)
            done = len(coordinates) * (len(rows) - 1) + len(rows[-1])
            progress(done, len(coordinates) ** 2)
    return rows


def grid_coordinates(points: int) -> list[float]:
    """`points` coordinates from -1 to 1; an odd number includes 0."""
    return [round(float(value), 6) for value in np.linspace(-1, 1, points)]


def basin_share(losses: Surface, classes: int) -> float:
    """Share of the square with a loss of at most the centre's plus ln(classes) / 2."""
    values = np.array(losses)
    centre = len(values) // 2
    return float((values <= values[centre, centre] + np.log(classes) / 2).mean())


def count_minima(losses: Surface) -> int:
    """Grid points that are lower than all of their up to 8 neighbours."""
    values: NDArray[np.float64] = np.pad(np.array(losses), 1, constant_values=np.inf)
    inner = values[1:-1, 1:-1]
    shifts = [(dy, dx) for dy in range(3) for dx in range(3) if (dy, dx) != (1, 1)]
    around = [values[dy : dy + inner.shape[0], dx : dx + inner.shape[1]] for dy, dx in shifts]
    return int(np.logical_and.reduce([inner < neighbours for neighbours in around]).sum())
