"""Lists a folder of images: its folders and images in natural order, and what is ignored."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from model_store import heif
from training.data.image_set import SPLIT_WORDS, escape_unprintable, is_printable, natural_key
from training.errors import DataError

CARD: Final = "data.toml"
EXTENSIONS: Final = frozenset(
    {"jpg", "jpeg", "jpe", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"}
)
_SYSTEM_FOLDERS: Final = frozenset(
    {
        *("@eaDir", "@Recently-Snapshot", "@Recycle", "#recycle", "#snapshot"),
        *("$RECYCLE.BIN", "System Volume Information", "__MACOSX", "lost+found"),
    }
)
"""Folders of Synology, QNAP, Windows, macOS and ext4: thumbnails, deleted images, metadata."""
_HEIC_EXTENSIONS: Final = frozenset({"heic", "heif", "hif"})


StampedPath = tuple[str, tuple[int, ...]]
"""Path of an image relative to the root, and the file's stamp."""


class FolderTree:
    """Lists each folder once, in natural order, and collects the files that it ignores."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.ignored: list[tuple[str, str]] = []
        self._listed: dict[str, tuple[list[str], list[StampedPath]]] = {}
        self.ignored += [(path, "not in a class folder") for path, _ in self.images("")]

    def folders(self, folder: str) -> list[str]:
        return self._list(folder)[0]

    def images(self, folder: str) -> list[StampedPath]:
        """Images directly in this folder."""
        return self._list(folder)[1]

    def images_under(self, folder: str) -> Iterator[StampedPath]:
        yield from self.images(folder)
        for subfolder in self.folders(folder):
            yield from self.images_under(subfolder)

    def _list(self, folder: str) -> tuple[list[str], list[StampedPath]]:
        if folder not in self._listed:
            folders: list[str] = []
            images: list[StampedPath] = []
            for entry in self._entries(folder):
                if not folder and entry.name == CARD:
                    continue
                path = f"{folder}/{entry.name}".lstrip("/")
                if reason := self._reason_to_ignore(entry, folder):
                    self.ignored.append((escape_unprintable(path), reason))
                elif entry.is_dir():
                    folders.append(path)
                else:
                    images.append((path, file_stamp(entry.stat())))
            self._listed[folder] = folders, images
        return self._listed[folder]

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.root / folder) as iterator:
                entries = sorted(iterator, key=lambda entry: natural_key(entry.name))
        except OSError as error:
            raise DataError(f"{error.filename} cannot be listed: {error.strerror}") from None
        if not entries:
            self.ignored.append((folder, "an empty folder"))
        return entries

    def _reason_to_ignore(self, entry: os.DirEntry[str], folder: str) -> str | None:
        if not is_printable(entry.name):
            return "its name contains control characters or is not UTF-8"
        if entry.name.startswith(".") or entry.name in _SYSTEM_FOLDERS:
            return "hidden" if entry.name.startswith(".") else "made by the system"
        if entry.is_symlink() and not Path(entry.path).exists():
            return "a broken link"
        if entry.is_dir():
            is_loop = entry.is_symlink() and self._is_loop(entry.path, folder)
            return "a link to a folder that contains it" if is_loop else None
        _, dot, extension = entry.name.rpartition(".")
        if not dot:
            return "no file extension"
        if extension.lower() in _HEIC_EXTENSIONS:
            if not heif.SUPPORTED:
                return (
                    "HEIC needs the extra heif: pip install '.[heif]'. Or convert it: magick "
                    "mogrify -format jpg FILE"
                )
        elif extension.lower() not in EXTENSIONS:
            return f"not an image extension (.{extension})"
        return None if entry.is_file() else "not a regular file"

    def _is_loop(self, link: str, folder: str) -> bool:
        target = Path(link).resolve()
        parent = self.root / folder
        return any(
            step.resolve().is_relative_to(target)
            for step in (parent, *parent.parents)
            if step.is_relative_to(self.root)
        )


def file_stamp(status: os.stat_result) -> tuple[int, int, int]:
    """Return size (bytes), mtime and ctime (ns). They change when the file does."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def split_of(folder: str, *, numbered: bool = False) -> int | None:
    """Return the split that a folder is named after; None if it has another name.

    Args:
        folder: A path in the tree.
        numbered: Whether `test1` counts as `test`.
    """
    name = PurePosixPath(folder).name.lower()
    return SPLIT_WORDS.get(name.rstrip("0123456789").rstrip("_- ") if numbered else name)
