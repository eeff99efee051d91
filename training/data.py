"""Data sets as encoded images with labels, their digest, and splits that stay the same for a seed.

Images stay encoded and become pixels through `model_store.preprocessing.prepare` alone, for training as for evaluation and
serving, so there is no second decode path that could differ.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold, train_test_split

from model_store.manifest import Preprocessing
from model_store.preprocessing import Pixels, prepare
from training.errors import DataError

Indices = NDArray[np.int64]
SPLIT_SEED: Final = 0
VALIDATION_FRACTION: Final = 0.1
TEST_FRACTION: Final = 0.2


@dataclass(frozen=True)
class ImageSet:
    """Encoded images with their labels (int64 `[n]`, positions in `class_names`)."""

    name: str
    source: str
    licence: str
    encoded: Sequence[bytes]
    labels: Indices
    class_names: tuple[str, ...]
    digest: str
    preprocessing: Preprocessing

    def pixels(self, indices: Indices) -> Pixels:
        """uint8 `[len(indices), height, width, 3]`, RGB, as the service would see these images."""
        return np.stack([prepare(self.encoded[index], self.preprocessing) for index in indices])


@dataclass(frozen=True)
class Split:
    """Positions in an ImageSet, each sorted; no image is in two of them."""

    train: Indices
    validation: Indices
    test: Indices


def load_data(name: str) -> ImageSet:
    """The data set of this name. Raises DataError."""
    check_data(name)
    return _load_digits()


def check_data(name: str) -> None:
    """Raise DataError for a name that stands for no data set."""
    if name != "digits":
        raise DataError(f"there is no data set {name!r}; there is digits")


def stratified_split(labels: Indices, seed: int = SPLIT_SEED) -> Split:
    """70 % train, 10 % validation, 20 % test, each with the classes in the same proportion; the same for the same seed."""
    everything = np.arange(len(labels))
    rest, test = train_test_split(everything, test_size=TEST_FRACTION, stratify=labels, random_state=seed)
    train, validation = train_test_split(
        rest, test_size=VALIDATION_FRACTION / (1 - TEST_FRACTION), stratify=labels[rest], random_state=seed
    )
    return Split(np.sort(train), np.sort(validation), np.sort(test))


def stratified_folds(labels: Indices, folds: int, seed: int = SPLIT_SEED) -> list[Split]:
    """Cross-validation: each image is in exactly one fold's test; validation is taken out of the fold's training part."""
    splits = []
    for rest, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(np.zeros(len(labels)), labels):
        share = VALIDATION_FRACTION * len(labels) / len(rest)
        train, validation = train_test_split(rest, test_size=share, stratify=labels[rest], random_state=seed)
        splits.append(Split(np.sort(train), np.sort(validation), np.sort(test)))
    return splits


def digest_of(images: Pixels, labels: Indices) -> str:
    """Hex sha256 over every image's decoded pixels and label, in order."""
    digest = hashlib.sha256()
    for image, label in zip(images, labels, strict=True):
        digest.update(f"{image.shape} {label}\n".encode())
        digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def _load_digits() -> ImageSet:
    """scikit-learn's digits: 1,797 handwritten digits of 43 people, 8x8 pixels of 0 to 16, bright ink on black."""
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    return ImageSet(
        name="digits",
        source="scikit-learn load_digits: the test part of UCI's Optical Recognition of Handwritten Digits",
        licence="CC BY 4.0",
        encoded=[encode(Image.fromarray(image), "PNG") for image in images],
        labels=labels,
        class_names=tuple(str(digit) for digit in range(10)),
        digest=digest_of(images, labels),
        preprocessing=Preprocessing(resize=32, crop_height=32, crop_width=32, interpolation="bilinear", background=(0, 0, 0)),
    )


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """The image as the bytes of a file of this kind (PNG, JPEG, …), with Pillow's own options for it."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
