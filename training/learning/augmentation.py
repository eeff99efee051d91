"""Augmentation of whole batches on the device.

All randomness is a function of (seed, epoch, image). An image gets the same pixels in any batch and
with any number of processes, so a resumed run is bit-identical to an uninterrupted one. Images are
normalized floats `[n, 3, h, w]`.
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
    *("crop_x", "crop_y", "area", "aspect", "rotation", "shear_x", "shear_y", "shift_x"),
    *("shift_y", "brightness", "contrast", "saturation", "blur", "erase", "erase_area"),
    *("erase_aspect", "erase_x", "erase_y", "mix", "box_x", "box_y"),
)
_ORDER, _DRAWS, _FLIPS, _MIXES = range(4)  # streams of random numbers
_ERASED_AREA: Final = (0.02, 1 / 3)  # Zhong et al. 2017, section 4.1
_ERASED_ASPECT: Final = (0.3, 3.3)


class AugmentationDraws:
    """Random numbers of the images in one epoch; row i belongs to image i.

    Attributes:
        flips: bool `[n]`, whether the image is mirrored.
        mixes: float32 `[n]`, the weight that the image keeps when it is mixed with another.
    """

    def __init__(self, table: Tensor, flips: Tensor, mixes: Tensor) -> None:
        self._table, self.flips, self.mixes = table, flips, mixes

    @classmethod
    def of_epoch(
        cls, count: int, seed: int, epoch: int, flip: str = "random", mixing: Mixing | None = None
    ) -> Self:
        table = _uniform_table(count, seed, epoch)
        if flip == "alternate":
            flips = (make_generator(seed, 0, _FLIPS).random(count) < 0.5) ^ bool(epoch % 2)
        else:
            probability = 0.5 if flip == "random" else 0.0
            flips = make_generator(seed, epoch, _FLIPS).random(count) < probability
        mixes = _draw_mixes(table, seed, epoch, mixing)
        return cls(torch.from_numpy(table), torch.from_numpy(flips), torch.from_numpy(mixes))

    def take(self, images: Tensor, device: torch.device | None = None) -> "AugmentationDraws":
        """The rows of these images (int64 `[n]`), on a device."""
        return AugmentationDraws(
            *(rows[images].to(device) for rows in (self._table, self.flips, self.mixes))
        )

    def __getitem__(self, column: str) -> Tensor:
        """Uniform draws in [0, 1), float32 `[n]`."""
        return self._table[:, _COLUMNS.index(column)]

    def between(self, column: str, low: float, high: float) -> Tensor:
        """Uniform draws in [low, high), float32 `[n]`."""
        return low + (high - low) * self[column]


def shuffled_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of the images in this epoch, int64 `[count]`."""
    return torch.from_numpy(make_generator(seed, epoch, _ORDER).permutation(count))


def make_generator(seed: int, epoch: int, stream: int) -> np.random.Generator:
    """An independent generator for each (seed, epoch, stream)."""
    return np.random.default_rng([seed, epoch, stream])


def augment(
    images: Tensor,
    draws: AugmentationDraws,
    settings: Augmentation,
    size: tuple[int, int],
    fill: Tensor,
) -> Tensor:
    """Apply geometry, blur, color and erasing, in this order.

    Args:
        images: float `[n, 3, h, w]`, normalized.
        draws: One row per image.
        settings: Bounds of all changes.
        size: Height and width of the result in pixels.
        fill: float `[3, 1, 1]`, the color outside the image unless the recipe reflects it.

    Returns:
        float `[n, 3, *size]`, channels_last in memory.
    """
    # The steps work on contiguous planes: channels_last inputs make them about twice as slow.
    if settings.is_resampling:
        images = _warp(images.contiguous(), draws, settings, size, fill)
    else:
        images = _crop(images, draws, settings, size, fill)
    if settings.blur or settings.sharpen:
        amounts = draws.between("blur", -settings.sharpen, settings.blur)
        images = _blur(images.contiguous(), amounts)
    if settings.brightness or settings.contrast or settings.saturation:
        images = _change_color(images.contiguous(), draws, settings)
    if settings.erase:
        images = _erase(images, draws, settings.erase)
    return images.contiguous(memory_format=torch.channels_last)


def mix_pairs(
    images: Tensor, labels: Tensor, draws: AugmentationDraws, mixing: Mixing, classes: int
) -> tuple[Tensor, Tensor]:
    """Mix each image with its neighbor in the batch (0 with 1, 2 with 3, ...).

    A pair is never split over two micro-batches, so the pixels are the same for any number of
    processes. The last image of an odd number is mixed with itself.

    Returns:
        Images of the same shape, and soft labels, float `[n, classes]`.

    Source: mixup, Zhang et al. 2017, eq. 1; cutmix, Yun et al. 2019, section 3.1.
    """
    neighbor = torch.arange(len(images), device=images.device) ^ 1
    neighbor = neighbor.clamp(max=len(images) - 1)
    is_cutmix = draws["mix"] < mixing.cutmix_probability
    side = (1 - draws.mixes).sqrt()
    inside_box = _box_masks(images.shape, draws["box_x"], draws["box_y"], side, side)
    # A box that is cut off at the border is smaller than drawn: count the pixels that are kept.
    label_weight = torch.where(is_cutmix, 1 - inside_box.mean((1, 2, 3)), draws.mixes)[:, None]
    pixel_weight = torch.where(
        is_cutmix[:, None, None, None], 1 - inside_box, draws.mixes[:, None, None, None]
    )
    mixed = images * pixel_weight + images[neighbor] * (1 - pixel_weight)
    one_hot = functional.one_hot(labels, classes).float()
    targets = one_hot * label_weight + one_hot[neighbor] * (1 - label_weight)
    return mixed.contiguous(memory_format=torch.channels_last), targets


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Float `[n, 3, *size]`, bilinear with antialiasing."""
    if images.shape[-2:] == size:
        return images
    resized = functional.interpolate(
        images, size=size, mode="bilinear", antialias=True, align_corners=False
    )
    return resized.contiguous(memory_format=torch.channels_last)


def _uniform_table(count: int, seed: int, epoch: int) -> NDArray[np.float32]:
    """Uniform draws in [0, 1), float32 `[count, columns]`."""
    return make_generator(seed, epoch, _DRAWS).random((count, len(_COLUMNS)), dtype=np.float32)


def _draw_mixes(
    table: NDArray[np.float32], seed: int, epoch: int, mixing: Mixing | None
) -> NDArray[np.float32]:
    """Return the weight of each image in its mix, from Beta(alpha, alpha): float32 `[n]`."""
    count = len(table)
    if mixing is None or not mixing.enabled:
        return np.ones(count, np.float32)
    generator = make_generator(seed, epoch, _MIXES)
    cutmix, mixup = (
        generator.beta(alpha, alpha, count) if alpha else np.ones(count)
        for alpha in (mixing.cutmix, mixing.mixup)
    )
    is_cutmix = table[:, _COLUMNS.index("mix")] < mixing.cutmix_probability
    return np.where(is_cutmix, cutmix, mixup).astype(np.float32)


def _crop(
    images: Tensor,
    draws: AugmentationDraws,
    settings: Augmentation,
    size: tuple[int, int],
    fill: Tensor,
) -> Tensor:
    """Pad, crop a window of `size` and mirror it. One gather is much cheaper than resampling.

    Source: He et al. 2015, section 4.2 (4 pixels of padding, random crop, horizontal flip).
    """
    pad, (height, width) = settings.pad, size
    if pad and settings.fill == "reflect":
        images = functional.pad(images, (pad,) * 4, mode="reflect")
    elif pad:
        images = functional.pad(images - fill, (pad,) * 4) + fill
    margins = {"crop_y": images.shape[-2] - height, "crop_x": images.shape[-1] - width}
    top, left = (
        (draws[axis] * (margin + 1)).long()
        if pad
        else torch.full_like(draws[axis], margin // 2).long()
        for axis, margin in margins.items()
    )
    rows = top[:, None] + torch.arange(height, device=images.device)
    offsets = torch.arange(width, device=images.device)
    columns = left[:, None] + torch.where(draws.flips[:, None], offsets.flip(0), offsets)
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    windows = images.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
    return windows.permute(0, 3, 1, 2)


def _warp(
    images: Tensor,
    draws: AugmentationDraws,
    settings: Augmentation,
    size: tuple[int, int],
    fill: Tensor,
) -> Tensor:
    """Resample with one affine map per image: crop, mirror, rotate, shear and shift.

    The map takes output coordinates in [-1, 1] to input coordinates: `R(angle) @ shear @ scale`,
    plus the position of the window's center. Rotation and shear are those of pixels, so the aspect
    ratio of the image is divided out between the axes.
    """
    area = draws.between("area", *settings.crop_area)
    log_aspect = math.log(settings.crop_aspect)
    aspect = torch.exp(draws.between("aspect", -log_aspect, log_aspect))
    width, height = (area * aspect).sqrt(), (area / aspect).sqrt()
    angle = draws.between("rotation", -1, 1) * math.radians(settings.rotation_degrees)
    cos, sin = torch.cos(angle), torch.sin(angle)
    shear = math.radians(settings.shear_degrees)
    shear_x = torch.tan(draws.between("shear_x", -shear, shear))
    shear_y = torch.tan(draws.between("shear_y", -shear, shear))
    signed_width = torch.where(draws.flips, -width, width)
    shift = settings.translation
    center_x, center_y = (
        draws.between(crop, -1, 1) * (1 - extent).abs() + 2 * draws.between(axis, -shift, shift)
        for crop, axis, extent in (("crop_x", "shift_x", width), ("crop_y", "shift_y", height))
    )
    ratio = images.shape[-1] / images.shape[-2]
    row_x = [signed_width * (cos - sin * shear_y), height * (cos * shear_x - sin) / ratio, center_x]
    row_y = [signed_width * (sin + cos * shear_y) * ratio, height * (sin * shear_x + cos), center_y]
    theta = torch.stack([torch.stack(row_x, dim=1), torch.stack(row_y, dim=1)], dim=1)
    grid = functional.affine_grid(theta, [len(images), 3, *size], align_corners=False)
    if settings.fill == "reflect":
        return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return functional.grid_sample(images - fill, grid, align_corners=False) + fill


def _blur(images: Tensor, amounts: Tensor) -> Tensor:
    """Blend with the 3x3 mean by `amounts` `[n]`; negative amounts sharpen."""
    mean = _mean_of_three(_mean_of_three(images, 2), 3)
    return torch.lerp(images, mean, amounts[:, None, None, None])


def _mean_of_three(images: Tensor, dim: int) -> Tensor:
    """Average each value with its neighbors along `dim`. A border value has one neighbor.

    On CPUs this is much faster than `avg_pool2d(count_include_pad=False)`, with the same result.
    """
    total, size = images.clone(), images.shape[dim]
    total.narrow(dim, 1, size - 1).add_(images.narrow(dim, 0, size - 1))
    total.narrow(dim, 0, size - 1).add_(images.narrow(dim, 1, size - 1))
    weight = torch.full((size,), 1 / 3, device=images.device)
    weight[0] = weight[-1] = 1 / 2
    return total.mul_(weight.reshape(-1, *(1,) * (3 - dim)))


def _change_color(images: Tensor, draws: AugmentationDraws, settings: Augmentation) -> Tensor:
    """Scale distances to the gray value, then to the image's mean, then add the brightness."""
    saturation, contrast, brightness = (
        draws.between(name, -bound, bound)[:, None, None, None]
        for name, bound in (
            ("saturation", settings.saturation),
            ("contrast", settings.contrast),
            ("brightness", settings.brightness),
        )
    )
    gray = images.mean(1, keepdim=True)
    images = images + saturation * (images - gray)
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (1 + contrast) * (images - mean) + brightness


def _erase(images: Tensor, draws: AugmentationDraws, probability: float) -> Tensor:
    """Set a random box to zero, the mean color. Source: Zhong et al. 2017, algorithm 1."""
    area = draws.between("erase_area", *_ERASED_AREA)
    aspect = torch.exp(
        draws.between("erase_aspect", *(math.log(bound) for bound in _ERASED_ASPECT))
    )
    width, height = (area * aspect).sqrt(), (area / aspect).sqrt()
    inside_box = _box_masks(images.shape, draws["erase_x"], draws["erase_y"], width, height)
    return images * (1 - inside_box * (draws["erase"] < probability)[:, None, None, None])


def _box_masks(shape: torch.Size, x: Tensor, y: Tensor, width: Tensor, height: Tensor) -> Tensor:
    """Float `[n, 1, h, w]`: 1 inside each box. Centers and sizes are fractions of the image."""
    masks = []
    for center, extent, side in ((y, height, shape[-2]), (x, width, shape[-1])):
        pixel_centers = (torch.arange(side, device=x.device) + 0.5) / side
        masks.append(((pixel_centers - center[:, None]).abs() * 2 < extent[:, None]).float())
    return masks[0][:, None, :, None] * masks[1][:, None, None, :]
