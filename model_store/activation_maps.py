"""Class-activation maps: which parts of an image support a class.

They are exact for networks that end in global average pooling and one linear layer: the mean of a
map plus the bias of its class is the logit (Zhou et al. 2016, "Learning Deep Features for
Discriminative Localization", section 2).
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_store.errors import VersionCorruptError
from model_store.geometry import Region
from model_store.version import Version

OVERLAY_SIDE: Final = 64
"""Longer side of an overlay in pixels. It is smooth, so a browser can enlarge it."""
_LEVELS: Final = 64
_MAX_ALPHA: Final = 200
_COLOURS: Final = np.array(  # of the values 0, 1/3, 2/3 and 1
    [[13, 8, 135], [156, 23, 158], [237, 121, 83], [240, 249, 33]], np.float32
)


@dataclass(frozen=True)
class ClassifierWeights:
    """The last layer of a version.

    Attributes:
        weight: float32 `[classes, channels]`.
        bias: float32 `[classes]`.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


def has_activation_maps(version: Version) -> bool:
    """Whether the version has what activation maps need."""
    manifest = version.manifest
    return manifest.classifier is not None and manifest.outputs.features is not None


def read_classifier(version: Version) -> ClassifierWeights:
    """Read the last layer of a version that `has_activation_maps`.

    Raises:
        VersionCorruptError: The file is altered, or has no valid weight and bias.
        StoreUnreadableError: It cannot be read.
    """
    assert version.manifest.classifier  # noqa: S101  the caller has checked it
    path = version.manifest.classifier.file
    data = io.BytesIO(version.read_file(path))
    try:
        with np.load(data, allow_pickle=False) as arrays:
            weight, bias = (np.asarray(arrays[name], np.float32) for name in ("weight", "bias"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise VersionCorruptError(f"{version}: {path} must hold weight and bias") from None
    if weight.ndim != 2 or (len(weight),) != bias.shape:
        raise VersionCorruptError(f"{version}: {path} has weight and bias of different lengths")
    return ClassifierWeights(weight, bias)


def activation_maps(
    features: NDArray[np.float32], classifier: ClassifierWeights, classes: Sequence[int]
) -> NDArray[np.float32]:
    """The activation map of each class.

    Args:
        features: The last feature map of one image, float32 `[channels, height, width]`.
        classifier: The last layer.
        classes: Indices of classes.

    Returns:
        float32 `[len(classes), height, width]`.
    """
    return np.tensordot(classifier.weight[list(classes)], features, axes=1)


def render_overlays(
    activation_maps: NDArray[np.float32], size: tuple[int, int], region: Region
) -> list[bytes]:
    """Draw each map as a picture to lay over the image that it explains.

    Parts that do not support the class, or that the crop removed, are transparent.

    Args:
        activation_maps: float32 `[labels, height, width]`.
        size: Width and height of the upright image.
        region: The part of the image that the model saw.

    Returns:
        PNGs with transparency and the aspect ratio of the image.
    """
    scale = min(1.0, OVERLAY_SIDE / max(size))
    width, height = (max(1, round(side * scale)) for side in size)
    rows = _interpolation(height, size[1], region.top, region.height, activation_maps.shape[1])
    columns = _interpolation(width, size[0], region.left, region.width, activation_maps.shape[2])
    peaks = activation_maps.max(axis=(1, 2), keepdims=True).clip(min=1e-12)
    shares = (activation_maps / peaks).clip(0, 1)
    levels = np.rint(rows @ shares @ columns.T * (_LEVELS - 1)).astype(np.uint8)
    return [_encode(each) for each in levels]


@lru_cache(maxsize=64)  # most clients send images of few sizes
def _interpolation(
    pixels: int, side: int, start: float, length: float, cells: int
) -> NDArray[np.float32]:
    """Weights `[pixels, cells]` that interpolate linearly along one side of the image.

    Args:
        pixels: Pixels of the overlay.
        side: Pixels of the image.
        start: Where the cells begin in the image.
        length: What the cells cover of the image.
        cells: Cells of the map.
    """
    centers = (np.arange(pixels, dtype=np.float32) + 0.5) * (side / pixels)
    at = (centers - start) * (cells / length) - 0.5
    inside = (at >= -0.5) & (at <= cells - 0.5)
    distances = np.abs(at.clip(0, cells - 1)[:, None] - np.arange(cells, dtype=np.float32))
    return np.asarray((1 - distances).clip(0) * inside[:, None], np.float32)


def _encode(levels: NDArray[np.uint8]) -> bytes:
    """A PNG with a palette (PNG, third edition, section 5). Pillow takes four times as long."""
    height, width = levels.shape
    lines = np.zeros((height, 1 + width), np.uint8)  # each line begins with a filter byte: 0, none
    lines[:, 1:] = levels
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)  # 3: colours of a palette
    data = zlib.compress(lines.tobytes(), 1)
    chunks = (_chunk(b"IHDR", header), _palette(), _chunk(b"IDAT", data), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(data, zlib.crc32(kind))
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


@cache
def _palette() -> bytes:
    """The chunks with the colours and the alphas of all levels."""
    shares = np.linspace(0, 1, _LEVELS)
    steps = np.linspace(0, 1, len(_COLOURS))
    colours = np.stack([np.interp(shares, steps, channel) for channel in _COLOURS.T], axis=1)
    alphas = shares * _MAX_ALPHA
    return _chunk(b"PLTE", colours.astype(np.uint8).tobytes()) + _chunk(
        b"tRNS", alphas.astype(np.uint8).tobytes()
    )
