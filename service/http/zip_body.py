"""Read the images of a ZIP archive, within limits and in memory.

The sizes in an archive's directory are claims. They are checked before anything is decompressed,
and no entry is decompressed beyond its size.
"""

import io
import struct
import zipfile
import zlib
from functools import partial
from pathlib import PurePosixPath
from typing import Final

from service.errors import BadRequestError, TooLargeError, check_image_count, shorten
from service.prediction.request import EncodedImage, RequestImages

ZIP_TYPES: Final = ("application/zip", "application/x-zip-compressed")
MAX_OTHER_ENTRIES: Final = 1000
"""Folders and files of the operating system, which are skipped."""
MAX_RATIO: Final = 100
"""An entry of more than `MIN_CHECKED_BYTES` may be so many times larger than its compressed form.

Images in compressed formats hardly shrink in an archive, and photos as BMP shrink to a half.
"""
MIN_CHECKED_BYTES: Final = 1024 * 1024
PIECE_BYTES: Final = 256 * 1024
MAX_NAME_LENGTH: Final = 255
_SIGNATURES: Final = (b"PK\x03\x04", b"PK\x05\x06")  # the second one is of an empty archive
_DIRECTORY_SIGNATURE: Final = b"PK\x01\x02"
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED: Final = 1  # APPNOTE.TXT 4.4.4, bit 0
_SKIPPED_FILES: Final = frozenset({"thumbs.db", "desktop.ini"})
_DAMAGE: Final = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(EOFError, OSError, ValueError, IndexError, RuntimeError),
)
"""What zipfile raises for archives that are damaged or that it does not support."""


def starts_like_zip(body: bytes) -> bool:
    return body.startswith(_SIGNATURES)


class ZipBody:
    """The images of an archive, in the order of its directory.

    Attributes:
        total_bytes: Their size after decompression, according to the directory.
    """

    def __init__(self, body: bytes, max_images: int, max_bytes: int) -> None:
        """Read the directory of an archive and check it. Takes long for a large one.

        Raises:
            BadRequestError: It is not a ZIP archive, or a damaged one.
            TooLargeError: It has too many entries, or they are too large.
        """
        if body.count(_DIRECTORY_SIGNATURE) > max_images + MAX_OTHER_ENTRIES:
            raise TooLargeError(
                f"a ZIP archive may have at most {max_images} images and {MAX_OTHER_ENTRIES} other "
                "entries, and this one has more",
                code="too_many_images",
            )
        try:
            self._archive = zipfile.ZipFile(io.BytesIO(body))
        except _DAMAGE:
            raise BadRequestError(
                "the ZIP archive is damaged or incomplete", code="malformed_zip"
            ) from None
        self._entries = [entry for entry in self._archive.infolist() if not _is_skipped(entry)]
        check_image_count(len(self._entries), max_images)
        self.total_bytes = sum(entry.file_size for entry in self._entries)
        if self.total_bytes > max_bytes:
            raise TooLargeError(
                f"the images of a ZIP archive may have at most {max_bytes:,} bytes after "
                f"decompression (SERVICE_MAX_BODY_BYTES), and these have {self.total_bytes:,}"
            )

    def read(self) -> RequestImages:
        """Decompress the images. One that cannot be read is replaced by its error."""
        names = [shorten(entry.filename, MAX_NAME_LENGTH) for entry in self._entries]
        return RequestImages([self._read(entry) for entry in self._entries], names)

    def _read(self, entry: zipfile.ZipInfo) -> EncodedImage:
        if entry.flag_bits & _ENCRYPTED:
            return _unreadable("encrypted")
        if entry.compress_type not in _METHODS:
            return _unreadable("compressed by another method than deflate")
        if entry.file_size > max(MIN_CHECKED_BYTES, entry.compress_size * MAX_RATIO):
            return TooLargeError(
                f"the image is more than {MAX_RATIO} times larger than its compressed form"
            )
        try:
            data = self._decompress(entry)
        except _DAMAGE:
            return _unreadable("damaged")
        return data or BadRequestError("the image is empty", code="empty_image")

    def _decompress(self, entry: zipfile.ZipInfo) -> bytes:
        """In pieces: `ZipFile.read` would inflate all of the data, and then cut it to its size."""
        with self._archive.open(entry) as file:
            return b"".join(iter(partial(file.read, PIECE_BYTES), b""))


def _is_skipped(entry: zipfile.ZipInfo) -> bool:
    """Whether an entry is a folder, or a file that an operating system adds."""
    path = PurePosixPath(entry.filename)
    return (
        entry.filename.endswith("/")
        or path.name.startswith(".")
        or path.name.lower() in _SKIPPED_FILES
        or "__MACOSX" in path.parts
    )


def _unreadable(how: str) -> BadRequestError:
    return BadRequestError(f"the entry of the ZIP archive is {how}", code="malformed_zip")
