"""Data sources, as `--data` takes them: a known data set, a folder of class folders, or a CSV."""

import os
from pathlib import Path

from training.data.csv_file import load_image_list
from training.data.folders import load_folder
from training.data.image_set import ImageSet, Indices, merge, with_classes
from training.data.known_data import KNOWN_DATASETS, load_known
from training.data.lazy_columns import encode
from training.errors import DataError

__all__ = [
    "ImageSet",
    "Indices",
    "encode",
    "is_known",
    "load_data",
    "merge",
    "resolve_source",
    "with_classes",
]


def is_known(source: str) -> bool:
    """Whether a resolved source is a known data set, not a path."""
    return source in KNOWN_DATASETS


def resolve_source(name: str, data_dir: Path | None = None) -> str:
    """Return the known data set or the absolute path that `--data NAME` names. Reads no images.

    Args:
        name: A known data set, a folder of class folders, or a CSV of path,label.
        data_dir: Folder with the files of a known data set.

    Raises:
        DataError: There is no such data, or it is a known data set and a folder too.
    """
    if data_dir is not None and not data_dir.is_dir():
        raise DataError(f"--data-dir {data_dir} is not a folder")
    path = Path(name)
    if name in KNOWN_DATASETS:
        if path.is_dir() and data_dir is None:
            raise DataError(
                f"{name} is a known data set, and there is a folder {name} here. Write ./{name} "
                "for the folder. For the data set, run the command in another directory"
            )
        return name
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".csv"):
        return os.path.abspath(path)  # not `resolve()`: a link gives its own name to the data
    if path.is_file():
        raise DataError(
            f"{name} is a file, but not a .csv; unpack an archive and give the folder, "
            "or list the images in a CSV"
        )
    raise DataError(
        f"there is no data {name!r}; use one of {', '.join(KNOWN_DATASETS)}, "
        "a folder of class folders, or a CSV of path,label"
    )


def load_data(source: str, data_dir: Path | None = None) -> ImageSet:
    """Load a data set.

    Args:
        source: What `resolve_source` returned: a known data set, or a path.
        data_dir: Folder with the files of a known data set; ignored for folders and CSVs.

    Raises:
        DataError: The data is missing or invalid.
    """
    if is_known(source):
        return load_known(source, data_dir)
    path = Path(resolve_source(source))
    return load_folder(path) if path.is_dir() else load_image_list(path)
