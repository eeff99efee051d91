"""Data as folders: one subfolder per class, or train, val and test folders with those inside."""

import operator
import os
import tomllib
from dataclasses import replace
from pathlib import Path

from training.data.folder_layout import has_splits, refuse_other_layouts
from training.data.folder_tree import CARD, FolderTree
from training.data.image_set import (
    FREE,
    SPLIT_WORDS,
    ImageFile,
    ImageSet,
    class_name,
    in_natural_order,
    set_of_files,
)
from training.errors import DataError


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
    tree = FolderTree(root)
    class_folders = [(FREE, folder) for folder in tree.folders("")]
    if not has_splits(tree):
        refuse_other_layouts(root, tree)
    else:
        class_folders = [
            (split, folder)
            for split, split_folder in _split_folders(tree)
            for folder in tree.folders(split_folder)
        ]
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


def _split_folders(tree: FolderTree) -> list[tuple[int, str]]:
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
