"""What `--data` takes: a known data set, a folder of folders, or a CSV of path,label."""

from pathlib import Path

from training.data.csv_file import load_image_list
from training.data.folders import load_folder
from training.data.image_set import ImageSet, Indices, merge, with_classes
from training.data.known_data import KNOWN_DATASETS, load_known
from training.data.lazy_columns import encode
from training.errors import DataError

__all__ = ["ImageSet", "Indices", "check_data", "encode", "load_data", "merge", "with_classes"]


def load_data(name: str, data_dir: Path | None = None) -> ImageSet:
    """The data that a person means by `name`; a known name goes before a folder (write ./digits for a folder called so).

    `data_dir` is where the files of a known set lie, and is not looked at for others. Raises DataError that says what was
    expected, what came and what to do.
    """
    check_data(name, data_dir)
    if name in KNOWN_DATASETS:
        return load_known(name, data_dir)
    path = Path(name)
    return load_folder(path) if path.is_dir() else load_image_list(path)


def check_data(name: str, data_dir: Path | None = None) -> None:
    """Raise DataError for a name that stands for no data, before any work is done."""
    if data_dir is not None and not data_dir.is_dir():
        raise DataError(f"--data-dir {data_dir} is no folder")
    path = Path(name)
    if (
        name in KNOWN_DATASETS
        or path.is_dir()
        or (path.is_file() and path.suffix.lower() == ".csv")
    ):
        return
    if path.is_file():
        raise DataError(
            f"{name} is a file, but no .csv; unpack an archive and give the folder, or list the images in a CSV"
        )
    raise DataError(
        f"there is no data {name!r}; there are {', '.join(KNOWN_DATASETS)}, or give a folder of folders or a CSV of path,label"
    )
