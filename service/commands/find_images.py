"""Find the images that a command line names: files, folders, patterns and labelled folders."""

import glob
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import click

STDIN: Final = "-"
SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"}
)


def find_images(paths: Sequence[str]) -> Iterator[str]:
    """Yield the images of files, folders and patterns. Raises click.UsageError if one has none."""
    for path in paths:
        if path == STDIN or Path(path).is_file():
            yield path
            continue
        if Path(path).is_dir():
            found = _images_in(Path(path))
        else:
            found = sorted(name for name in glob.glob(path, recursive=True) if Path(name).is_file())
        if not found:
            raise click.UsageError(_no_images(path))
        yield from found


def labelled_images(folder: Path) -> dict[str, str]:
    """The label of each image: the name of the folder in `folder` that contains it.

    Raises:
        click.UsageError: There are no such images.
    """
    labels = {
        image: unicodedata.normalize("NFC", class_folder.name)
        for class_folder in sorted(folder.iterdir())
        if class_folder.is_dir() and not class_folder.name.startswith(".")
        for image in _images_in(class_folder)
    }
    if not labels:
        raise click.UsageError(
            f"--labels {folder} has no labelled images: expected one folder per class, named as "
            "the class, with its images."
        )
    return labels


def check_labels(labels: Mapping[str, str], class_names: Sequence[str], folder: Path) -> None:
    """Raise click.UsageError if a folder is not named as a class of the model."""
    unknown = sorted(set(labels.values()) - set(class_names))
    if unknown:
        shown = ", ".join(class_names[:20]) + (" …" if len(class_names) > 20 else "")
        raise click.UsageError(
            f"--labels {folder}: the model has no class {', '.join(map(repr, unknown[:5]))}. "
            f"Name each folder as one of its {len(class_names)} classes: {shown}"
        )


def _images_in(folder: Path) -> list[str]:
    return [
        str(file)
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in SUFFIXES and file.is_file()
    ]


def _no_images(path: str) -> str:
    if Path(path).is_dir():
        return f"{path!r} contains no images: expected files like {', '.join(sorted(SUFFIXES))}."
    if glob.has_magic(path):
        return f"no file matches {path!r}: expected a file, a folder or a pattern."
    return f"{path!r} does not exist: expected a file, a folder or a pattern."
