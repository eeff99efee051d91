"""Augmentation of whole batches on the device, drawn from (seed, epoch, image) alone.

An image gets the same pixels whatever batch it is in, however many workers decode and however many processes train, so a
resumed run continues as if it had not stopped. Everything happens after normalisation, on floats `[n, 3, h, w]`.
"""

import math
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from training.learning.recipe import Augmentation, Mixing

_COLUMNS: Final = (
    "crop_x",
    "crop_y",
    "area",
    "aspect",
    "rotation",
    "shear_x",
    "shear_y",
    "shift_x",
    "shift_y",
    "brightness",
    "contrast",
    "saturation",
    "blur",
    "erase",
    "erase_area",
    "erase_aspect",
    "erase_x",
    "erase_y",
    "mix",
    "box_x",
    "box_y",
)
_ORDER, _DRAWS, _FLIPS, _MIXES = range(4)
_ERASED_AREA: Final = (0.02, 1 / 3)  # Zhong et al. 2017, random erasing
_ERASED_ASPECT: Final = (0.3, 3.3)


class AugmentationDraws:
    """Uniform draws in [0, 1), a row an image and a named column a use; row i belongs to image i in this epoch."""

    def __init__(self, table: Tensor, flips: Tensor, mixes: Tensor) -> None:
        self._table, self.flips, self.mixes = table, flips, mixes

    @classmethod
    def of_epoch(
        cls, count: int, seed: int, epoch: int, flip: str = "random", mixing: Mixing | None = None
    ) -> Self:
        """The draws of `count` images in this epoch."""
        table = generator(seed, epoch, _DRAWS).random((count, len(_COLUMNS)), dtype=np.float32)
        if (
            flip == "alternate"
        ):  # each image as it is in one epoch and mirrored in the next: no epoch shows the same side again
            flips = (generator(seed, 0, _FLIPS).random(count) < 0.5) ^ bool(epoch % 2)
        else:
            flips = generator(seed, epoch, _FLIPS).random(count) < (0.5 if flip == "random" else 0)
        return cls(
            torch.from_numpy(table),
            torch.from_numpy(flips),
            torch.from_numpy(_shares(count, seed, epoch, mixing)),
        )

    def take(self, images: Tensor, device: torch.device | None = None) -> "AugmentationDraws":
        """The rows of these images (int64 `[n]`), on a device."""
        return AugmentationDraws(
            *(rows[images].to(device) for rows in (self._table, self.flips, self.mixes))
        )

    def __getitem__(self, column: str) -> Tensor:
        return self._table[:, _COLUMNS.index(column)]

    def between(self, column: str, low: float, high: float) -> Tensor:
        """The column stretched to [low, high)."""
        return low + (high - low) * self[column]


def shuffled_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of the images in this epoch, int64 `[count]`."""
    return torch.from_numpy(generator(seed, epoch, _ORDER).permutation(count))


def generator(seed: int, epoch: int, stream: int) -> np.random.Generator:
    """A generator of its own for each (seed, epoch, stream)."""
    return np.random.default_rng([seed, epoch, stream])


def augment(
    images: Tensor, draws: AugmentationDraws, bounds: Augmentation, size: int, fill: Tensor
) -> Tensor:
    """Float `[n, 3, s, s]`, normalised, to `[n, 3, size, size]`, channels_last in memory: geometry, colour, erasing.

    `fill` (`[3, 1, 1]`) is what comes in from outside the image where the recipe does not reflect it.
    """
    # Plane by plane in between: with three channels side by side these cost about twice as much (LOG.md).
    images = (
        _warped(images.contiguous(), draws, bounds, size, fill)
        if bounds.warps
        else _cropped(images, draws, bounds, size, fill)
    )
    if bounds.blur or bounds.sharpen:
        images = _blurred(images.contiguous(), draws.between("blur", -bounds.sharpen, bounds.blur))
    if bounds.brightness or bounds.contrast or bounds.saturation:
        images = _coloured(images.contiguous(), draws, bounds)
    if bounds.erase:
        images = _erased(images, draws, bounds.erase)
    return images.contiguous(memory_format=torch.channels_last)


def mix_pairs(
    images: Tensor, labels: Tensor, draws: AugmentationDraws, mixing: Mixing, classes: int
) -> tuple[Tensor, Tensor]:
    """Each image with its neighbour in the batch (0 with 1, 2 with 3, …): mixup (Zhang 2017) or cutmix (Yun 2019).

    Returns the images and soft labels, float `[n, classes]`. Neighbours in the epoch's order are never in two batches, so the
    pixels are the same for any number of processes.
    """
    neighbour = torch.arange(len(images), device=images.device) ^ 1
    neighbour = neighbour.clamp(
        max=len(images) - 1
    )  # the last of an odd number is mixed with itself
    cuts = draws["mix"] < mixing.cutmix_share
    inside = _boxes(
        images.shape,
        draws["box_x"],
        draws["box_y"],
        (1 - draws.mixes).sqrt(),
        (1 - draws.mixes).sqrt(),
    )
    kept = torch.where(cuts, 1 - inside.mean((1, 2, 3)), draws.mixes)
    weight = torch.where(cuts[:, None, None, None], 1 - inside, draws.mixes[:, None, None, None])
    mixed = images * weight + images[neighbour] * (1 - weight)
    own = functional.one_hot(labels, classes).float()
    return mixed.contiguous(memory_format=torch.channels_last), own * kept[:, None] + own[
        neighbour
    ] * (1 - kept[:, None])


def resize(images: Tensor, size: int) -> Tensor:
    """Float `[n, 3, size, size]` with antialias, for epochs that train on smaller images."""
    if images.shape[-1] == size:
        return images
    small = functional.interpolate(
        images, size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )
    return small.contiguous(memory_format=torch.channels_last)


def _shares(count: int, seed: int, epoch: int, mixing: Mixing | None) -> NDArray[np.float32]:
    """The split_micro_batches that each image keeps of itself when it is mixed."""
    if mixing is None or not mixing.enabled:
        return np.ones(count, np.float32)
    drawn = generator(seed, epoch, _MIXES)
    by_kind = [
        drawn.beta(alpha, alpha, count) if alpha else np.ones(count)
        for alpha in (mixing.cutmix, mixing.mixup)
    ]
    table = generator(seed, epoch, _DRAWS).random((count, len(_COLUMNS)), dtype=np.float32)
    return np.where(table[:, _COLUMNS.index("mix")] < mixing.cutmix_share, *by_kind).astype(
        np.float32
    )


def _cropped(
    images: Tensor, draws: AugmentationDraws, bounds: Augmentation, size: int, fill: Tensor
) -> Tensor:
    """Pad, split_batches a window of `size` and mirror, by one gather: much cheaper than resampling."""
    pad, side = bounds.pad, images.shape[-1]
    if pad and bounds.fill == "reflect":
        images = functional.pad(images, (pad,) * 4, mode="reflect")
    elif pad:
        images = functional.pad(images - fill, (pad,) * 4) + fill
    room = side + 2 * pad - size
    top, left = (_offset(draws[axis], room, anywhere=pad > 0) for axis in ("crop_y", "crop_x"))
    steps = torch.arange(size, device=images.device)
    rows = top[:, None] + steps
    columns = left[:, None] + torch.where(draws.flips[:, None], steps.flip(0), steps)
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def _offset(draw: Tensor, room: int, *, anywhere: bool) -> Tensor:
    """Where a window begins, int64 `[n]`: anywhere, or in the middle."""
    return (draw * (room + 1)).long() if anywhere else torch.full_like(draw, room // 2).long()


def _warped(
    images: Tensor, draws: AugmentationDraws, bounds: Augmentation, size: int, fill: Tensor
) -> Tensor:
    """One affine map an image: a window of some area and aspect, mirrored, rotated, sheared, shifted, resampled to `size`."""
    area = draws.between("area", *bounds.crop_area)
    aspect = torch.exp(
        draws.between("aspect", -math.log(bounds.crop_aspect), math.log(bounds.crop_aspect))
    )
    width, height = (area * aspect).sqrt(), (area / aspect).sqrt()
    angle = draws.between("rotation", -1, 1) * math.radians(bounds.rotation_degrees)
    shear = math.radians(bounds.shear_degrees)
    shear_x, shear_y = (
        torch.tan(draws.between(column, -shear, shear)) for column in ("shear_x", "shear_y")
    )
    cos, sin = torch.cos(angle), torch.sin(angle)
    mirrored = torch.where(draws.flips, -width, width)
    place = [
        draws.between(crop, -1, 1) * (1 - extent).abs()
        + 2 * draws.between(shift, -bounds.translation, bounds.translation)
        for crop, shift, extent in (("crop_x", "shift_x", width), ("crop_y", "shift_y", height))
    ]
    theta = torch.stack(
        [
            torch.stack(
                [mirrored * (cos - sin * shear_y), height * (cos * shear_x - sin), place[0]], dim=1
            ),
            torch.stack(
                [mirrored * (sin + cos * shear_y), height * (sin * shear_x + cos), place[1]], dim=1
            ),
        ],
        dim=1,
    )
    grid = functional.affine_grid(theta, [len(images), 3, size, size], align_corners=False)
    if bounds.fill == "reflect":
        return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return functional.grid_sample(images - fill, grid, align_corners=False) + fill


def _blurred(images: Tensor, amount: Tensor) -> Tensor:
    """Between the image (0), its 3x3 mean (1) and the opposite of that, sharpened (below 0)."""
    smooth = _mean_of_three(_mean_of_three(images, 2), 3)
    return torch.lerp(images, smooth, amount[:, None, None, None])


def _mean_of_three(images: Tensor, dim: int) -> Tensor:
    """The mean of each value and its neighbours along a side, of two at the ends: on a CPU much cheaper than avg_pool2d."""
    total, size = images.clone(), images.shape[dim]
    total.narrow(dim, 1, size - 1).add_(images.narrow(dim, 0, size - 1))
    total.narrow(dim, 0, size - 1).add_(images.narrow(dim, 1, size - 1))
    split_micro_batches = torch.full((size,), 1 / 3, device=images.device)
    split_micro_batches[0] = split_micro_batches[-1] = 1 / 2
    return total.mul_(split_micro_batches.reshape(-1, *(1,) * (3 - dim)))


def _coloured(images: Tensor, draws: AugmentationDraws, bounds: Augmentation) -> Tensor:
    """Saturation, then contrast about the image's mean, then brightness in units of the normalised deviation."""
    saturation, contrast, brightness = (
        draws.between(name, -bound, bound)[:, None, None, None]
        for name, bound in (
            ("saturation", bounds.saturation),
            ("contrast", bounds.contrast),
            ("brightness", bounds.brightness),
        )
    )
    grey = images.mean(1, keepdim=True)
    images = images + saturation * (images - grey)
    centre = images.mean((1, 2, 3), keepdim=True)
    return centre + (1 + contrast) * (images - centre) + brightness


def _erased(images: Tensor, draws: AugmentationDraws, probability: float) -> Tensor:
    """A box of the image set to zero, which is the mean colour (random erasing, Zhong et al. 2017)."""
    area = draws.between("erase_area", *_ERASED_AREA)
    aspect = torch.exp(
        draws.between("erase_aspect", *(math.log(bound) for bound in _ERASED_ASPECT))
    )
    inside = _boxes(
        images.shape,
        draws["erase_x"],
        draws["erase_y"],
        (area * aspect).sqrt(),
        (area / aspect).sqrt(),
    )
    return images * (1 - inside * (draws["erase"] < probability)[:, None, None, None])


def _boxes(shape: torch.Size, x: Tensor, y: Tensor, width: Tensor, height: Tensor) -> Tensor:
    """Float `[n, 1, h, w]`: 1 inside the box whose centre and size are given as fractions of the image, 0 outside."""
    spans = []
    for centre, extent, side in ((y, height, shape[-2]), (x, width, shape[-1])):
        places = (torch.arange(side, device=x.device) + 0.5) / side
        spans.append(((places - centre[:, None]).abs() * 2 < extent[:, None]).float())
    return spans[0][:, None, :, None] * spans[1][:, None, None, :]
