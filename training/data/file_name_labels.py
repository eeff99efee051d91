"""Labels in file names, as in `cat.0.jpg`: counts them and writes them to a CSV."""

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from training.data.folder_tree import FolderTree, split_of
from training.data.image_set import SPLIT_NAMES, class_name
from training.errors import DataError

_NUMBERED: Final = re.compile(r"(.*?)[\s._-]*\(?[0-9]+\)?", re.DOTALL)
_SHOWN: Final = 4


@dataclass(frozen=True)
class NamedImages:
    """Number of images with a label in their names, and of the others."""

    labelled: int
    others: int


def label_in_name(path: str) -> str | None:
    """Return the label of `cat.0.jpg`, `cat_12.png` or `cat (3).jpg`; None for `12.jpg`."""
    match = _NUMBERED.fullmatch(PurePosixPath(path).stem)
    label = class_name(match[1]) if match else None
    return label if label and any(character.isalpha() for character in label) else None


def count_labels(paths: Iterable[str]) -> Counter[str]:
    """Count the labels in the names of these files."""
    return Counter(label for path in paths if (label := label_in_name(path)))


def describe_counts(counts: Counter[str]) -> str:
    """Return the most frequent labels with their counts, as one line."""
    shown = ", ".join(f"{label} {count:,}" for label, count in counts.most_common(_SHOWN))
    return f"{shown}, and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else shown


def write_labels(root: Path, target: Path) -> NamedImages:
    """Write a CSV of path,label,split for all images under `root` with a label in their name.

    The split is that of the first folder, if it is named after one.

    Raises:
        DataError: `target` exists or cannot be written, or fewer than two labels were found.
    """
    tree = FolderTree(root)
    paths = [path for path, _ in tree.images_under("")]
    labelled = [(path, label) for path in paths if (label := label_in_name(path))]
    if len({label for _, label in labelled}) < 2:
        raise DataError(
            f"the names of the images in {root} contain fewer than two labels; expected names "
            "such as cat.0.jpg and dog_12.png"
        )
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("path", "label", "split"))
    for path, label in labelled:
        first, _, rest = path.partition("/")
        split = split_of(first, numbered=True) if rest else None
        place = os.path.relpath(tree.root / path, target.parent.resolve())
        rows.writerow((place, label, "" if split is None else SPLIT_NAMES[split]))
    try:
        with open(target, "xb") as file:
            file.write(text.getvalue().encode())
    except FileExistsError:
        raise DataError(f"{target} exists; remove it, or write another file") from None
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error.strerror}") from None
    return NamedImages(len(labelled), len(paths) - len(labelled))
