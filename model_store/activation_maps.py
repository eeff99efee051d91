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
from functools import lru_cache
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
    """Whether the version has the feature maps and weights that activation maps need."""
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
        raise VersionCorruptError(
            f"{version}: {path} must contain the arrays weight and bias"
        ) from None
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
    channels, height, width = features.shape
    maps = classifier.weight[list(classes)] @ features.reshape(channels, height * width)
    return maps.reshape(-1, height, width)


def render_overlays(
    activation_maps: NDArray[np.float32], size: tuple[int, int], region: Region
) -> list[bytes]:
    """Draw each map as an overlay for the image that it explains.

    Parts that do not support the class, or that the crop removed, are transparent.

    Args:
        activation_maps: float32 `[labels, height, width]`.
        size: Width and height of the upright image.
        region: The part of the image that the model saw.

    Returns:
        PNGs with transparency and the aspect ratio of the image.
    """
    canvas = _canvas(size, region, activation_maps.shape[1:])
    peaks = activation_maps.max(axis=(1, 2), keepdims=True)
    levels = activation_maps * (_LEVELS - 1) / np.maximum(peaks, 1e-12)
    wide = np.maximum(levels, 0).dot(canvas.columns)
    return [canvas.encode(canvas.rows.dot(each)) for each in wide]


@dataclass(frozen=True)
class _Canvas:
    """The parts of an overlay that do not depend on the values of its map.

    Attributes:
        rows: Interpolates the rows of a map, float32 `[height, rows of the map]`.
        columns: Interpolates its columns, float32 `[columns of the map, 1 + width]`. The first
            of them is 0: each line of the PNG begins with this byte, which means no filter.
        head: The PNG before its pixels.
    """

    rows: NDArray[np.float32]
    columns: NDArray[np.float32]
    head: bytes

    def encode(self, levels: NDArray[np.float32]) -> bytes:
        """A PNG with a palette. Compression or Pillow would take as long as all other steps."""
        lines = (levels + 0.5).astype(np.uint8)
        return self.head + _chunk(b"IDAT", zlib.compress(lines.data, 0)) + _PNG_END


@lru_cache(maxsize=64)  # most clients send images of few sizes
def _canvas(size: tuple[int, int], region: Region, cells: tuple[int, int]) -> _Canvas:
    """The canvas of an image.

    Args:
        size: Width and height of the image.
        region: The part of it that the map covers.
        cells: Height and width of the map.

    Source of the format: PNG, third edition, section 5.
    """
    scale = min(1.0, OVERLAY_SIDE / max(size))
    width, height = (max(1, round(side * scale)) for side in size)
    rows = _interpolation(height, size[1], region.top, region.height, cells[0])
    columns = _interpolation(width, size[0], region.left, region.width, cells[1])
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)  # 3: colours of a palette
    head = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _palette()
    return _Canvas(rows, np.pad(columns, ((1, 0), (0, 0))).T.copy(), head)


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


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(data, zlib.crc32(kind))
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def _palette() -> bytes:
    """The chunks with the colours and the alphas of all levels."""
    shares = np.linspace(0, 1, _LEVELS)
    steps = np.linspace(0, 1, len(_COLOURS))
    colours = np.stack([np.interp(shares, steps, channel) for channel in _COLOURS.T], axis=1)
    alphas = shares * _MAX_ALPHA
    return _chunk(b"PLTE", colours.astype(np.uint8).tobytes()) + _chunk(
        b"tRNS", alphas.astype(np.uint8).tobytes()
    )


_PNG_END: Final = _chunk(b"IEND", b"")
