"""From input tensors to the images of a request: pixels, or encoded images."""

from collections.abc import Sequence
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_store.manifest import MODEL_INPUT
from model_store.preprocessing import Pixels
from service.engine.loaded_version import LoadedVersion
from service.errors import BadRequestError, check_image_count, shorten
from service.prediction.request import EncodedImage
from service.protocols.open_inference.tensors import (
    BYTES,
    UINT8,
    InputTensor,
    decode_bytes,
    malformed,
)

MAX_DIMENSIONS: Final = 8


def read_images(
    inputs: Sequence[InputTensor], loaded: LoadedVersion, max_images: int
) -> Sequence[EncodedImage] | Pixels:
    """The images of a request.

    Returns:
        Pixels of the model's size, uint8 `[images, height, width, 3]`, or encoded images.

    Raises:
        BadRequestError: The inputs are not those of the model.
        TooLargeError: There are more than `max_images` images.
    """
    _check_names([each.name for each in inputs])
    (tensor,) = inputs
    shape, expected = list(tensor.shape), _describe_shapes(loaded)
    if len(shape) > MAX_DIMENSIONS:
        raise malformed(f"{expected}, got {len(shape)} dimensions")
    if tensor.datatype == UINT8:
        if shape[1:] != pixel_shape(loaded):
            raise malformed(f"{expected}, got {shape} as {UINT8}")
        _check_count(shape[0], max_images)
        return _read_pixels(tensor)
    if tensor.datatype == BYTES:
        if len(shape) not in {1, 2} or shape[1:] not in ([], [1]):
            raise malformed(f"{expected}, got {shape} as {BYTES}")
        _check_count(shape[0], max_images)
        return _read_encoded(tensor)
    raise malformed(f"{expected}, got the datatype {shorten(tensor.datatype, 40)!r}")


def pixel_shape(loaded: LoadedVersion) -> list[int]:
    """Height, width and channels of the model's input."""
    model_input = loaded.version.manifest.input
    return [model_input.height, model_input.width, 3]


def _describe_shapes(loaded: LoadedVersion) -> str:
    sides = ", ".join(map(str, pixel_shape(loaded)))
    return (
        f"the input {MODEL_INPUT!r} must have the shape [n, {sides}] as {UINT8} (pixels), or [n] "
        f"as {BYTES} (encoded images)"
    )


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if name != MODEL_INPUT:
            raise malformed(
                f"there is no input {shorten(name, 40)!r}: the only one is {MODEL_INPUT!r}"
            )
    if len(names) != 1:
        raise malformed(f"the input {MODEL_INPUT!r} must be given once, got {len(names)} inputs")


def _check_count(count: int, max_images: int) -> None:
    if count < 1:
        raise BadRequestError(f"{MODEL_INPUT!r} must have at least one image", code="no_images")
    check_image_count(count, max_images)


def _read_pixels(tensor: InputTensor) -> Pixels:
    size = prod(tensor.shape)
    values = (
        np.frombuffer(tensor.raw, np.uint8) if tensor.raw is not None else _to_pixels(tensor.values)
    )
    if len(values) != size:
        raise malformed(
            f"input {tensor.name!r}: the shape {list(tensor.shape)} states {size:,} values, and "
            f"the content has {len(values):,}"
        )
    return values.reshape(tensor.shape)


def _to_pixels(values: Sequence[Any] | NDArray[np.uint8]) -> NDArray[np.uint8]:
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):
        array = np.asarray(None)
    if array.dtype == np.uint8 or (
        array.dtype.kind in "iu" and array.size and array.min() >= 0 and array.max() <= 255
    ):
        return array.astype(np.uint8, copy=False).reshape(-1)
    if array.size == 0:
        return np.empty(0, np.uint8)
    raise malformed(
        f"the input {MODEL_INPUT!r} has the datatype {UINT8}, so each value must be a whole number "
        "from 0 to 255, in a flat list or in lists of equal lengths"
    )


def _read_encoded(tensor: InputTensor) -> Sequence[EncodedImage]:
    count = prod(tensor.shape)
    if tensor.raw is None:
        images = list(tensor.values)
        if len(images) != count:
            raise malformed(
                f"input {tensor.name!r}: the shape states {count} elements, and the content has "
                f"{len(images)}"
            )
    else:
        images = decode_bytes(tensor.name, tensor.raw, count)
    return [image or BadRequestError("the image is empty", code="empty_image") for image in images]
