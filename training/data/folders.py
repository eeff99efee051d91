"""A folder of folders: one subfolder for each class, or train, val and test with those inside."""

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
EXTENSIONS: Final = frozenset({"jpg", "jpeg", "jpe", "png", "webp", "gif", "bmp", "tif", "tiff"})


def load_folder(root: Path) -> ImageSet:
    """Every image under `root`, sorted naturally by split, class and path. Deeper folders belong to their class.

    Folders called train, val and test (or training, valid, validation, testing) are splits where train holds folders and no
    images. A `data.toml` may say what the data is: name, source, licence, which go into manifests. Raises DataError where there
    are no classes, where it is not clear what is a class, and where the card is wrong.
    """
    card = _read_card(root)
    survey = _Survey(root)
    places = [(FREE, folder) for folder in survey.folders("")]
    if _has_splits(survey):
        places = [
            (split, folder)
            for split, part in _split_folders(survey)
            for folder in survey.folders(part)
        ]
    if not places:
        raise DataError(
            f"{root} holds no subfolders; expected one for each class, or train, val and test with those inside"
        )
    labels = {folder: _label(root, folder) for _, folder in places}
    files = [
        ImageFile(path, f"{survey.root}/{path}", stamp, labels[folder], split)
        for split, folder in places
        for path, stamp in survey.images_under(folder)
    ]
    classes = in_natural_order(set(labels.values()))
    folder_name = (
        Path(os.path.abspath(root)).name or "data"
    )  # as the person calls it, wherever a link leads
    images = set_of_files(
        card.get("name", folder_name),
        card.get("source", "a folder of images"),
        files,
        classes,
        survey.ignored,
    )
    return replace(images, licence=card.get("licence", ""))


def _read_card(root: Path) -> dict[str, str]:
    path = root / CARD
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not TOML: {error}") from None
    known = ("name", "source", "licence")
    if wrong := [
        key
        for key, value in values.items()
        if key not in known or not isinstance(value, str) or not value.strip()
    ]:
        raise DataError(f"{path} is wrong at {wrong[0]}: expected texts for {', '.join(known)}")
    return values


def _label(root: Path, folder: str) -> str:
    name = class_name(Path(folder).name)
    if name is None:
        raise DataError(f"{root} holds a folder whose name is blank; a class needs a name")
    return name


def _has_splits(survey: "_Survey") -> bool:
    """Whether the folders at the top are splits. A class may be called train: it holds images then."""
    training = [folder for folder in survey.folders("") if SPLIT_WORDS.get(folder.lower()) == TRAIN]
    return any(survey.folders(folder) and not survey.images(folder) for folder in training)


def _split_folders(survey: "_Survey") -> list[tuple[int, str]]:
    """The splits with their folders, train first. Raises DataError where classes stand beside them."""
    splits = [
        (SPLIT_WORDS[folder.lower()], folder)
        for folder in survey.folders("")
        if folder.lower() in SPLIT_WORDS
    ]
    names = [folder for _, folder in splits]
    for folder in survey.folders(""):
        if folder in names:
            survey.ignored += [(path, "in no class's folder") for path, _ in survey.images(folder)]
        elif any(survey.images_under(folder)):
            raise DataError(
                f"{survey.root} holds {', '.join(names)} with classes inside, and {folder} beside them; "
                f"move {folder} away, or give a CSV of path,label,split"
            )
    return sorted(splits, key=operator.itemgetter(0))


Image = tuple[str, tuple[int, ...]]
"""A path relative to the root, and the file's stamp."""


class _Survey:
    """Looks at each folder once, in natural order, and notes what it passes over."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.ignored: list[tuple[str, str]] = []
        self._seen: dict[str, tuple[list[str], list[Image]]] = {}
        self.ignored += [(path, "in no class's folder") for path, _ in self.images("")]

    def folders(self, folder: str) -> list[str]:
        """The folders in this one."""
        return self._look_into(folder)[0]

    def images(self, folder: str) -> list[Image]:
        """The images in this folder itself."""
        return self._look_into(folder)[1]

    def images_under(self, folder: str) -> Iterator[Image]:
        """The images in this folder and in those that it holds."""
        yield from self.images(folder)
        for deeper in self.folders(folder):
            yield from self.images_under(deeper)

    def _look_into(self, folder: str) -> tuple[list[str], list[Image]]:
        if folder not in self._seen:
            folders: list[str] = []
            images: list[Image] = []
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
            self._seen[folder] = folders, images
        return self._seen[folder]

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.root / folder) as entries:
                found = sorted(entries, key=lambda entry: natural_key(entry.name))
        except OSError as error:
            raise DataError(f"{error.filename} can not be listed: {error.strerror}") from None
        if not found:
            self.ignored.append((folder, "an empty folder"))
        return found

    def _reason_to_ignore(self, entry: os.DirEntry[str], folder: str) -> str | None:
        if not is_printable(entry.name):
            return "its name holds control characters, or is not UTF-8"
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            return "hidden"
        if entry.is_symlink() and not Path(entry.path).exists():
            return "a broken link"
        if entry.is_dir():
            return (
                "a link back to a folder that holds it"
                if entry.is_symlink() and self._is_loop(entry.path, folder)
                else None
            )
        _, dot, extension = entry.name.rpartition(".")
        if extension.lower() not in EXTENSIONS or not dot:
            return f"no image by its name ({dot}{extension})" if dot else "no image by its name"
        return None if entry.is_file() else "no plain file"

    def _is_loop(self, link: str, folder: str) -> bool:
        target = Path(link).resolve()
        here = self.root / folder
        chain = [here, *here.parents]
        return any(
            step.resolve().is_relative_to(target)
            for step in chain
            if step.is_relative_to(self.root)
        )


def file_stamp(status: os.stat_result) -> tuple[int, int, int]:
    """What changes when a file does: size and the times of its content and of its inode."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
