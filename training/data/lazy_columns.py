"""Columns: rows of texts and of images that are made or read one at a time, so that a data set costs little memory."""

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
    """A sequence without slices; a list is one too."""

    def __len__(self) -> int:
        """How many rows."""

    def __getitem__(self, index: SupportsIndex, /) -> T_co:
        """The row at this position. Raises IndexError."""

    def __iter__(self) -> Iterator[T_co]:
        return (self[index] for index in range(len(self)))


class TextColumn(LazyColumn[str]):
    """Texts as one block of bytes: a list of them would be copied by each worker process, page by page (pytorch#13246)."""

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = [text.encode(errors="surrogateescape") for text in texts]
        self._bounds = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        self._block = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: SupportsIndex, /) -> str:
        position = range(len(self))[index]
        return self._block[self._bounds[position] : self._bounds[position + 1]].decode(
            errors="surrogateescape"
        )


class FileColumn(LazyColumn[bytes]):
    """The content of files, read when it is asked for. Raises OSError."""

    def __init__(self, locations: LazyColumn[str]) -> None:
        self._locations = locations

    def __len__(self) -> int:
        return len(self._locations)

    def __getitem__(self, index: SupportsIndex, /) -> bytes:
        with open(self._locations[index], "rb") as file:
            return file.read()


class PngColumn(LazyColumn[bytes]):
    """Images in memory, uint8 `[n, height, width]` or `[n, height, width, 3]`, each encoded as PNG when it is asked for."""

    def __init__(self, images: Pixels) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: SupportsIndex, /) -> bytes:
        return encode(Image.fromarray(self._images[operator.index(index)]), "PNG")


class ConcatenatedColumn(LazyColumn[T_co]):
    """Columns one after the other."""

    def __init__(self, parts: Sequence[LazyColumn[T_co]]) -> None:
        self._parts = parts
        self._bounds = [0, *accumulate(map(len, parts))]

    def __len__(self) -> int:
        return self._bounds[-1]

    def __getitem__(self, index: SupportsIndex, /) -> T_co:
        position = range(len(self))[index]
        part = bisect_right(self._bounds, position) - 1
        return self._parts[part][position - self._bounds[part]]


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """The image as the bytes of a file of this kind (PNG, JPEG, …), with Pillow's own options for it."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
