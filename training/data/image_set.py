"""`ImageSet`: labeled, encoded images. Every data source is loaded into one.

In training and in serving, pixels come from `model_store.preprocessing.prepare`. There is no second
decoder whose pixels could differ.
"""

import hashlib
import re
import unicodedata
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count, cycle
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_store.errors import ImageError
from model_store.manifest import Preprocessing
from model_store.preprocessing import Pixels, prepare
from training.data.lazy_columns import ConcatenatedColumn, FileColumn, LazyColumn, TextColumn
from training.errors import DataError

Indices = NDArray[np.int64]

SPLIT_NAMES: Final = ("train", "validation", "test")
FREE, TRAIN, VALIDATION, TEST = -1, 0, 1, 2
SPLIT_WORDS: Final = MappingProxyType(
    {
        "train": TRAIN,
        "training": TRAIN,
        "val": VALIDATION,
        "valid": VALIDATION,
        "validation": VALIDATION,
        "test": TEST,
        "testing": TEST,
    }
)
"""Names of splits in folders and CSVs, in lower case."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class ImageSet:
    """Encoded images with labels.

    Attributes:
        name: Name of the data set, as manifests state it.
        source: Where the data comes from.
        licence: License of the data; empty if unknown.
        paths: Name of each image, relative to the data set.
        locations: Path of each file; equal to `paths` if the images are in memory.
        encoded: The bytes of each image file.
        labels: int64 `[n]`, positions in `class_names`.
        class_names: Names of all classes.
        given_splits: int8 `[n]`: FREE, TRAIN, VALIDATION or TEST.
        identity: Cache key that changes when a file changes; empty if caching is not worthwhile.
        preprocessing: Native size and background of known data; None if unknown or ambiguous.
        ignored: (path, reason) of files that are not images.
    """

    name: str
    source: str
    licence: str
    paths: LazyColumn[str]
    locations: LazyColumn[str]
    encoded: LazyColumn[bytes]
    labels: Indices
    class_names: tuple[str, ...]
    given_splits: NDArray[np.int8]
    identity: str
    preprocessing: Preprocessing | None = None
    ignored: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def label(self, index: int) -> str:
        """The name of this image's class."""
        return self.class_names[int(self.labels[index])]

    def pixels(self, indices: Indices, spec: Preprocessing, workers: int = 1) -> Pixels:
        """Decode images as the service does, with `workers` threads.

        Returns:
            uint8 `[len(indices), height, width, 3]`, RGB.

        Raises:
            DataError: An image is unreadable; the message names it.
        """
        pixels = np.empty((len(indices), spec.crop_height, spec.crop_width, 3), np.uint8)

        def fill(row: int) -> None:
            pixels[row] = self._prepared(indices[row], spec)

        with ThreadPoolExecutor(workers) as pool:
            deque(pool.map(fill, range(len(indices))), maxlen=0)
        return pixels

    def _prepared(self, index: int, spec: Preprocessing) -> Pixels:
        try:
            return prepare(self.encoded[index], spec)
        except OSError as error:
            raise DataError(f"{self.paths[index]} cannot be read: {error.strerror}") from None
        except ImageError as error:
            raise DataError(f"{self.paths[index]}: {error}") from None


class ImageFile(NamedTuple):
    """A file of a folder or a CSV. `stamp` changes when the file does."""

    path: str
    location: str
    stamp: tuple[int, ...]
    label: str
    split: int


def set_of_files(
    name: str,
    source: str,
    files: Sequence[ImageFile],
    class_names: tuple[str, ...],
    ignored: Iterable[tuple[str, str]] = (),
) -> ImageSet:
    position = {label: index for index, label in enumerate(class_names)}
    locations = TextColumn(file.location for file in files)
    return ImageSet(
        name=name,
        source=source,
        licence="",
        paths=TextColumn(file.path for file in files),
        locations=locations,
        encoded=FileColumn(locations),
        labels=np.array([position[file.label] for file in files], np.int64),
        class_names=class_names,
        given_splits=np.array([file.split for file in files], np.int8),
        identity=digest_of_texts(map(repr, (class_names, *files))),
        ignored=tuple(ignored),
    )


def merge(sets: Sequence[ImageSet]) -> ImageSet:
    """Merge several sets. Classes are matched by name, and paths start with the set's name."""
    if len(sets) == 1:
        return sets[0]
    class_names = _merge_classes([part.class_names for part in sets])
    named = list(zip(_make_unique([part.name for part in sets]), sets, strict=True))
    geometries = {part.preprocessing for part in sets if part.preprocessing}
    return ImageSet(
        name="+".join(name for name, _ in named),
        source="; ".join(dict.fromkeys(part.source for part in sets)),
        licence="; ".join(dict.fromkeys(part.licence for part in sets if part.licence)),
        paths=TextColumn(f"{name}/{path}" for name, part in named for path in part.paths),
        locations=ConcatenatedColumn([part.locations for part in sets]),
        encoded=ConcatenatedColumn([part.encoded for part in sets]),
        labels=np.concatenate(
            [
                np.array([class_names.index(name) for name in part.class_names])[part.labels]
                for part in sets
            ]
        ),
        class_names=class_names,
        given_splits=np.concatenate([part.given_splits for part in sets]),
        identity=digest_of_texts(f"{part.name} {part.identity}" for part in sets)
        if any(part.identity for part in sets)
        else "",
        preprocessing=geometries.pop() if len(geometries) == 1 else None,
        ignored=tuple(
            (f"{name}/{path}", reason) for name, part in named for path, reason in part.ignored
        ),
    )


def with_classes(data: ImageSet, class_names: tuple[str, ...]) -> ImageSet:
    """Return the images with labels that are positions in `class_names`.

    Raises:
        DataError: The data has a class that is not in `class_names`.
    """
    if unknown := [name for name in data.class_names if name not in class_names]:
        raise DataError(
            f"{data.name} has classes that the run does not have: {', '.join(unknown[:5])}; "
            "start a new run"
        )
    new_labels = np.array([class_names.index(name) for name in data.class_names], np.int64)
    return replace(data, labels=new_labels[data.labels], class_names=class_names)


def _merge_classes(orders: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the union of all classes.

    The order is that of a set that has all classes, so a known data set keeps its official order.
    If there is no such set, the order is natural.
    """
    union = {name for order in orders for name in order}
    return next((order for order in orders if len(order) == len(union)), in_natural_order(union))


def _make_unique(names: Sequence[str]) -> list[str]:
    """Append `-2`, `-3`, ... to repeated names."""
    unique: list[str] = []
    for name in names:
        candidates = (name if number == 1 else f"{name}-{number}" for number in count(1))
        unique.append(next(candidate for candidate in candidates if candidate not in unique))
    return unique


def in_natural_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sort names of classes and files: 2 before 10, a next to A (torchvision sorts 1, 10, 2)."""
    return tuple(sorted(names, key=natural_key))


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key of `in_natural_order`: runs of digits compare as numbers, of any length."""
    runs = re.split("([0-9]+)", name.casefold())
    numbers = [run.lstrip("0") for run in runs[1::2]]
    runs[1::2] = numbers
    return [
        (len(run) if odd else 0, run) for run, odd in zip(runs, cycle((False, True)), strict=False)
    ], name


def class_name(text: str) -> str | None:
    """Normalize the name of a class to Unicode NFC; None if it is empty or unprintable."""
    name = unicodedata.normalize("NFC", text.strip())
    return name if name and is_printable(name) else None


def is_printable(text: str) -> bool:
    """Whether the text has no control characters and no bytes that are not UTF-8."""
    return _CONTROL.search(text) is None


def escape_unprintable(text: str) -> str:
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


def digest_of_texts(texts: Iterable[str]) -> str:
    """Hex SHA-256 of the texts, one per line."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{text}\n".encode())
    return digest.hexdigest()
