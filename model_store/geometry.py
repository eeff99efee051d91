"""Computes the size of an image at each step of preprocessing. It changes no pixels.

Decoder processes use it without importing pydantic, so it only reads the fields of a spec.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from model_store.manifest import Preprocessing, ResizeMode


def resize_target(spec: Preprocessing) -> tuple[int, int]:
    """Height and width that the resize aims at: before the crop, and at least as large."""
    if not isinstance(spec.resize, int):
        return spec.resize
    if spec.resize_mode == "exact":
        return spec.crop_height, spec.crop_width
    return spec.resize, spec.resize


def resized_size(width: int, height: int, spec: Preprocessing) -> tuple[int, int]:
    """Width and height of an upright image after the resize and before the crop.

    For a square target, `shorter_side` rounds the longer side down, as torchvision's `Resize` does.
    Otherwise both sides are rounded, as in timm's `ResizeKeepRatio`.
    """
    target_height, target_width = resize_target(spec)
    if spec.resize_mode == "exact":
        return target_width, target_height
    if spec.resize_mode == "shorter_side" and target_height == target_width:
        if width <= height:
            return target_width, int(target_width * height / width)
        return int(target_height * width / height), target_height
    ratios = (height / target_height, width / target_width)
    ratio = min(ratios) if spec.resize_mode == "shorter_side" else max(ratios)
    return max(1, round(width / ratio)), max(1, round(height / ratio))


class Region(NamedTuple):
    """A rectangle in an upright image, in its pixels. It may reach beyond the image."""

    left: float
    top: float
    width: float
    height: float


def visible_region(width: int, height: int, spec: Preprocessing) -> Region:
    """The part of an upright image that resize and crop leave for the model.

    With a letterbox, the region extends beyond the image, because it includes the padding.
    """
    resized = resized_size(width, height, spec)
    padded = _padded_size(width, height, spec)
    crop = (spec.crop_width, spec.crop_height)
    left, top = (  # as `preprocessing.crop` and its padding round
        round((outer - inner) / 2) - (outer - middle) // 2
        for outer, middle, inner in zip(padded, resized, crop, strict=True)
    )
    x, y = width / resized[0], height / resized[1]
    return Region(left * x, top * y, crop[0] * x, crop[1] * y)


def largest_resized_size(width: int, height: int, spec: Preprocessing) -> tuple[int, int]:
    """The larger of two sizes before the crop: of the image as stored, and turned by 90 degrees.

    EXIF says which one applies, and it can come after the pixels. The padding of a letterbox
    counts, because it is allocated too.
    """
    sizes = (_padded_size(*size, spec) for size in ((width, height), (height, width)))
    return max(sizes, key=math.prod)


def _padded_size(width: int, height: int, spec: Preprocessing) -> tuple[int, int]:
    resized_width, resized_height = resized_size(width, height, spec)
    if not spec.letterbox:
        return resized_width, resized_height
    return max(resized_width, spec.crop_width), max(resized_height, spec.crop_height)


def resize_value(
    mode: ResizeMode, target: tuple[int, int], crop: tuple[int, int]
) -> int | tuple[int, int]:
    """The manifest's `resize` for a target and a crop, both (height, width).

    It is one number if that has the same effect: older versions of the service read only numbers.
    """
    if mode == "shorter_side" and target[0] == target[1]:
        return target[0]
    return max(crop) if mode == "exact" and target == crop else target


def without_crop(spec: Preprocessing) -> Preprocessing:
    """The same preprocessing without its last step, the crop."""
    height, width = resize_target(spec)
    return spec.model_copy(update={"crop_height": height, "crop_width": width})


def describe_geometry(spec: Preprocessing) -> str:
    """How an image is resized and cropped, in a few words: `shorter_side to 256, crop 224x224`."""
    target = resize_target(spec)
    size = f"{target[0]}x{target[1]}"
    if spec.resize_mode == "shorter_side":
        size = f"{spec.resize}" if isinstance(spec.resize, int) else f"cover {size}"
    words = f"{spec.resize_mode} to {size}"
    if spec.letterbox:
        words += f" on {','.join(map(str, spec.letterbox.padding))}"
    if target != (spec.crop_height, spec.crop_width):
        words += f", crop {spec.crop_height}x{spec.crop_width}"
    return words
