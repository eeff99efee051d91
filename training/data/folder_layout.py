"""Recognizes folders of splits and of classes, and explains what to do with other layouts."""

import shlex
from pathlib import Path, PurePosixPath

from model_store.command_line import as_called
from training.data.file_name_labels import count_labels, describe_counts
from training.data.folder_tree import FolderTree, split_of
from training.data.image_set import TRAIN
from training.errors import DataError


def has_splits(tree: FolderTree, folder: str = "") -> bool:
    """Whether the folders in `folder` are splits. A `train` folder with images in it is a class."""
    return any(
        split_of(path) == TRAIN and tree.folders(path) and not tree.images(path)
        for path in tree.folders(folder)
    )


def refuse_other_layouts(root: Path, tree: FolderTree) -> None:
    """Raise DataError if the folders in `root` are not classes, and say what to do instead."""
    folders, shown = tree.folders(""), _shorten(root)
    if not folders:
        raise DataError(
            f"{shown} contains no subfolders; expected one per class, or train, val and test "
            f"folders with one subfolder per class{_offer_labels(root, tree)}"
        )
    if all(split_of(folder, numbered=True) is not None for folder in folders):
        raise DataError(
            f"{shown} contains only {_list(folders)}: these are names of splits, not of classes; "
            "expected a train folder with one folder per class and no images beside them"
            f"{_offer_labels(root, tree)}"
        )
    if deeper := _find_deeper(tree):
        inner = _shorten(root / deeper)
        raise DataError(
            f"{shown} contains only the folder {deeper}, and that contains "
            f"{_list([PurePosixPath(path).name for path in tree.folders(deeper)])}; give "
            f"{inner}. If {folders[0]} is one class, move its images out of the folders "
            "in it"
        )


def _find_deeper(tree: FolderTree) -> str | None:
    """The folder below a chain of single folders that contains splits or several folders."""
    folder = ""
    while len(tree.folders(folder)) == 1:
        (folder,) = tree.folders(folder)
        if tree.images(folder):
            return None
        if has_splits(tree, folder):
            return folder
    return folder if folder and tree.folders(folder) else None


def _offer_labels(root: Path, tree: FolderTree) -> str:
    counts = count_labels(path for path, _ in tree.images_under(""))
    if len(counts) < 2 or min(counts.values()) < 2:
        return ""
    return (
        f". The names of the files look like labels ({describe_counts(counts)}). This command "
        f"writes them to a CSV, which you can train on: {as_called('training check')} "
        f"{shlex.quote(str(_shorten(root)))} --labels-from-names labels.csv"
    )


def _shorten(path: Path) -> Path:
    """The path relative to the current directory, if it is below that."""
    place = Path.cwd()
    return path.relative_to(place) if path.is_relative_to(place) else path


def _list(names: list[str]) -> str:
    return f"{', '.join(names[:4])}{f' and {len(names) - 4} more' if names[4:] else ''}"
