"""Class-activation maps: which parts of an image support a class.

They are exact for networks that end in global average pooling and one linear layer: the mean of a
map plus the bias of its class is the logit (Zhou et al. 2016, "Learning Deep Features for
Discriminative Localization", section 2).
"""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model_store.errors import VersionCorruptError
from model_store.geometry import Region
from model_store.version import Version

OVERLAY_SIDE: Final = 256
"""Longer side of an overlay in pixels. It is smooth, so that a browser may enlarge it."""
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


def render_overlay(
    activation_map: NDArray[np.float32], size: tuple[int, int], region: Region
) -> bytes:
    """Draw a map as a picture to lay over the image that it explains.

    Parts that do not support the class, or that the crop removed, are transparent.

    Args:
        activation_map: float32 `[height, width]`.
        size: Width and height of the upright image.
        region: The part of the image that the model saw.

    Returns:
        A PNG with transparency and the aspect ratio of the image.
    """
    scale = min(1.0, OVERLAY_SIDE / max(size))
    width, height = (max(1, round(side * scale)) for side in size)
    left, top = round(region.left * scale), round(region.top * scale)
    seen = (max(1, round(region.width * scale)), max(1, round(region.height * scale)))
    peak = max(float(activation_map.max()), 1e-12)
    share = Image.fromarray((activation_map / peak).clip(0, 1).astype(np.float32))
    smooth = np.asarray(share.resize(seen, Image.Resampling.BILINEAR)).clip(0, 1)
    steps = np.linspace(0, 1, len(_COLOURS))
    levels = np.round(smooth * 255).astype(np.uint8)
    palette = np.stack(
        [
            *(np.interp(np.arange(256) / 255, steps, channel) for channel in _COLOURS.T),
            np.arange(256) / 255 * _MAX_ALPHA,
        ],
        axis=1,
    ).astype(np.uint8)
    overlay = Image.new("RGBA", (width, height))
    overlay.paste(Image.fromarray(palette[levels]), (left, top))
    buffer = io.BytesIO()
    overlay.save(buffer, "PNG", compress_level=1)  # the default takes four times as long
    return buffer.getvalue()
