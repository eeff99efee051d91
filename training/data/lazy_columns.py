"""Sequences whose rows are decoded or read on access, so that a data set uses little memory."""

import io
import operator
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Protocol, SupportsIndex, TypeVar

import numpy as np
from PIL import Image

from model_store.preprocessing import Pixels

T_co = TypeVar("T_co", covariant=True)


class LazyColumn(Protocol[T_co]):
    """A sequence that need not support slices. A list is a LazyColumn."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: SupportsIndex, /) -> T_co: ...

    def __iter__(self) -> Iterator[T_co]:
        return (self[index] for index in range(len(self)))


class TextColumn(LazyColumn[str]):
    """Strings in one block of bytes.

    Worker processes would copy a list of strings page by page, because reading an object changes
    its reference count (pytorch#13246).
    """

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = [text.encode(errors="surrogateescape") for text in texts]
        self._bounds = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        self._block = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: SupportsIndex, /) -> str:
        position = range(len(self))[index]
        start, end = self._bounds[position : position + 2]
        return self._block[start:end].decode(errors="surrogateescape")


class FileColumn(LazyColumn[bytes]):
    """The content of files; access raises OSError if a file cannot be read."""

    def __init__(self, locations: LazyColumn[str]) -> None:
        self._locations = locations

    def __len__(self) -> int:
        return len(self._locations)

    def __getitem__(self, index: SupportsIndex, /) -> bytes:
        with open(self._locations[index], "rb") as file:
            return file.read()


class PngColumn(LazyColumn[bytes]):
    """Images in memory, encoded as PNG on access.

    Args:
        images: uint8 `[n, height, width]` or `[n, height, width, 3]`.
    """

    def __init__(self, images: Pixels) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: SupportsIndex, /) -> bytes:
        return encode(Image.fromarray(self._images[operator.index(index)]), "PNG")


class ConcatenatedColumn(LazyColumn[T_co]):
    def __init__(self, columns: Sequence[LazyColumn[T_co]]) -> None:
        self._columns = columns
        self._bounds = [0, *accumulate(map(len, columns))]

    def __len__(self) -> int:
        return self._bounds[-1]

    def __getitem__(self, index: SupportsIndex, /) -> T_co:
        position = range(len(self))[index]
        column = bisect_right(self._bounds, position) - 1
        return self._columns[column][position - self._bounds[column]]


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """Encode an image in a format of Pillow (`PNG`, `JPEG`); `options` go to Pillow's writer."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
