"""Random affine maps on whole batches, drawn from (seed, epoch, image) alone.

An image gets the same pixels whatever batch it is in and however many processes there are, so a resumed run continues as
if it had not stopped.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from training.recipe import Augmentation

_DRAWS = 6  # rotation, translation x and y, scale, shear x and y


def draws(count: int, seed: int, epoch: int) -> Tensor:
    """Uniform draws in [-1, 1), float32 `[count, 6]`: row i belongs to image i in this epoch."""
    return torch.rand(count, _DRAWS, generator=generator(seed, epoch, stream=1)) * 2 - 1


def shuffled(count: int, seed: int, epoch: int) -> Tensor:
    """The order of the images in this epoch, int64 `[count]`."""
    return torch.randperm(count, generator=generator(seed, epoch, stream=0))


def affine(images: Tensor, draw: Tensor, bounds: Augmentation, fill: float) -> Tensor:
    """Map each of `[n, c, h, w]` by its row of `draw`; what comes in from outside has the value `fill`."""
    angle = draw[:, 0] * math.radians(bounds.rotation_degrees)
    scale = 1 / (1 + draw[:, 3] * bounds.scale)
    shear = torch.tan(draw[:, 4:6] * math.radians(bounds.shear_degrees))
    cos, sin, shift = torch.cos(angle) * scale, torch.sin(angle) * scale, draw[:, 1:3] * 2 * bounds.translation
    theta = torch.stack(
        [
            torch.stack([cos - sin * shear[:, 1], cos * shear[:, 0] - sin, shift[:, 0]], dim=1),
            torch.stack([sin + cos * shear[:, 1], sin * shear[:, 0] + cos, shift[:, 1]], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images - fill, grid, align_corners=False) + fill


def generator(seed: int, epoch: int, stream: int) -> torch.Generator:
    """A generator of its own for each (seed, epoch, stream)."""
    return torch.Generator().manual_seed(((seed * 1_000_003 + epoch) * 7 + stream) % 2**63)
