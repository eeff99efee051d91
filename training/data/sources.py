"""Data sources, as `--data` takes them: a known data set, a folder of class folders, or a CSV."""

from pathlib import Path

from training.data.csv_file import load_image_list
from training.data.folders import load_folder
from training.data.image_set import ImageSet, Indices, merge, with_classes
from training.data.known_data import KNOWN_DATASETS, load_known
from training.data.lazy_columns import encode
from training.errors import DataError

__all__ = ["ImageSet", "Indices", "check_data", "encode", "load_data", "merge", "with_classes"]


def load_data(name: str, data_dir: Path | None = None) -> ImageSet:
    """Load a data set.

    Args:
        name: A known data set, a folder of class folders, or a CSV of path,label. A known name has
            precedence over a folder of the same name; write `./digits` for the folder.
        data_dir: Folder with the files of a known data set; ignored for folders and CSVs.

    Raises:
        DataError: The data is missing or invalid.
    """
    check_data(name, data_dir)
    if name in KNOWN_DATASETS:
        return load_known(name, data_dir)
    path = Path(name)
    return load_folder(path) if path.is_dir() else load_image_list(path)


def check_data(name: str, data_dir: Path | None = None) -> None:
    """Raise DataError if there is no data of this name. Reads no images."""
    if data_dir is not None and not data_dir.is_dir():
        raise DataError(f"--data-dir {data_dir} is not a folder")
    path = Path(name)
    if (
        name in KNOWN_DATASETS
        or path.is_dir()
        or (path.is_file() and path.suffix.lower() == ".csv")
    ):
        return
    if path.is_file():
        raise DataError(
            f"{name} is a file, but not a .csv; unpack an archive and give the folder, "
            "or list the images in a CSV"
        )
    raise DataError(
        f"there is no data {name!r}; use one of {', '.join(KNOWN_DATASETS)}, "
        "a folder of class folders, or a CSV of path,label"
    )
