"""Data as folders: one subfolder per class, or train, val and test folders with those inside."""

import operator
import os
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from training.data.image_set import (
    FREE,
    SPLIT_WORDS,
    TRAIN,
    ImageFile,
    ImageSet,
    class_name,
    escape_unprintable,
    in_natural_order,
    is_printable,
    natural_key,
    set_of_files,
)
from training.errors import DataError

CARD: Final = "data.toml"
EXTENSIONS: Final = frozenset(
    {"jpg", "jpeg", "jpe", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"}
)
_HEIC_EXTENSIONS: Final = frozenset({"heic", "heif", "hif"})


def load_folder(root: Path) -> ImageSet:
    """Load all images under `root`, in natural order of split, class and path.

    Images in deeper folders belong to the class folder that contains them. Folders named train,
    val and test (or training, valid, validation, testing) are splits if the train folder contains
    folders and no images. `data.toml` may set `name`, `source` and `licence`, which are copied to
    manifests.

    Raises:
        DataError: There are no classes, the folders are ambiguous, or `data.toml` is invalid.
    """
    card = _read_card(root)
    tree = _FolderTree(root)
    class_folders = [(FREE, folder) for folder in tree.folders("")]
    if _has_splits(tree):
        class_folders = [
            (split, folder)
            for split, split_folder in _split_folders(tree)
            for folder in tree.folders(split_folder)
        ]
    if not class_folders:
        raise DataError(
            f"{root} contains no subfolders; expected one per class, or train, val and test "
            "with those inside"
        )
    labels = {folder: _label(root, folder) for _, folder in class_folders}
    files = [
        ImageFile(path, f"{tree.root}/{path}", stamp, labels[folder], split)
        for split, folder in class_folders
        for path, stamp in tree.images_under(folder)
    ]
    # Not `resolve()`: a link gives the name, not its target.
    folder_name = Path(os.path.abspath(root)).name or "data"
    images = set_of_files(
        card.get("name", folder_name),
        card.get("source", "a folder of images"),
        files,
        in_natural_order(set(labels.values())),
        tree.ignored,
    )
    return replace(images, licence=card.get("licence", ""))


def _read_card(root: Path) -> dict[str, str]:
    path = root / CARD
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not valid TOML: {error}") from None
    known = ("name", "source", "licence")
    for key, value in values.items():
        if key not in known or not isinstance(value, str) or not value.strip():
            raise DataError(
                f"{path} is invalid at `{key}`: expected non-empty strings for {', '.join(known)}"
            )
    return values


def _label(root: Path, folder: str) -> str:
    name = class_name(Path(folder).name)
    if name is None:
        raise DataError(f"{root} contains a folder with a blank name; a class needs a name")
    return name


def _has_splits(tree: "_FolderTree") -> bool:
    """Whether the top-level folders are splits. A `train` folder with images in it is a class."""
    train_folders = [
        folder for folder in tree.folders("") if SPLIT_WORDS.get(folder.lower()) == TRAIN
    ]
    return any(tree.folders(folder) and not tree.images(folder) for folder in train_folders)


def _split_folders(tree: "_FolderTree") -> list[tuple[int, str]]:
    """Return (split, folder), train first. Raises DataError if class folders are beside them."""
    splits = [
        (SPLIT_WORDS[folder.lower()], folder)
        for folder in tree.folders("")
        if folder.lower() in SPLIT_WORDS
    ]
    names = [folder for _, folder in splits]
    for folder in tree.folders(""):
        if folder in names:
            tree.ignored += [(path, "not in a class folder") for path, _ in tree.images(folder)]
        elif any(tree.images_under(folder)):
            raise DataError(
                f"{tree.root} contains the splits {', '.join(names)} and beside them {folder}; "
                f"move {folder} away, or use a CSV of path,label,split"
            )
    return sorted(splits, key=operator.itemgetter(0))


StampedPath = tuple[str, tuple[int, ...]]
"""Path of an image relative to the root, and the file's stamp."""


class _FolderTree:
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
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            return "hidden"
        if entry.is_symlink() and not Path(entry.path).exists():
            return "a broken link"
        if entry.is_dir():
            is_loop = entry.is_symlink() and self._is_loop(entry.path, folder)
            return "a link to a folder that contains it" if is_loop else None
        _, dot, extension = entry.name.rpartition(".")
        if not dot:
            return "no file extension"
        if extension.lower() in _HEIC_EXTENSIONS:
            return "HEIC is not supported; convert it: magick mogrify -format jpg FILE"
        if extension.lower() not in EXTENSIONS:
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
