"""Data as a CSV with the columns `path`, `label` and, optionally, `split`."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from training.data.folder_tree import file_stamp
from training.data.image_set import (
    FREE,
    SPLIT_WORDS,
    ImageFile,
    ImageSet,
    class_name,
    in_natural_order,
    is_printable,
    set_of_files,
)
from training.errors import DataError

MAX_LISTED_ERRORS: Final = 5


def load_image_list(path: Path) -> ImageSet:
    """Load the images that a CSV lists, in its order.

    The first line names the columns; columns other than `path`, `label` and `split` are ignored.
    Paths are absolute or relative to the CSV. The split is train, val or test. If it is empty,
    `make_split` draws one.

    Raises:
        DataError: The file or some lines are invalid; the message names the lines.
    """
    files: list[ImageFile] = []
    errors: list[str] = []
    lines: dict[str, int] = {}
    for line, header, values in _rows(path):
        try:
            file = _image_file(path.parent, _row(header, values))
            if file.location in lines:
                raise DataError(f"{file.path} is listed in line {lines[file.location]} already")
        except DataError as error:
            errors.append(f"line {line}: {error}")
        else:
            lines[file.location] = line
            files.append(file)
    if errors:
        hidden = len(errors) - MAX_LISTED_ERRORS
        more = f"; and {hidden:,} more" if hidden > 0 else ""
        raise DataError(f"{path} is invalid: {'; '.join(errors[:MAX_LISTED_ERRORS])}{more}")
    if not files:
        raise DataError(f"{path} lists no images")
    return set_of_files(
        path.stem, "a CSV of images", files, in_natural_order({file.label for file in files})
    )


def _rows(path: Path) -> Iterator[tuple[int, list[str], list[str]]]:
    """Yield the line number (from 1), the names of the columns and the fields of each row."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise DataError(f"{path} is not UTF-8: line {line}; save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        if missing := [name for name in ("path", "label") if header.count(name) != 1]:
            raise DataError(
                f"{path} needs one column {' and one '.join(missing)}; "
                f"its first line is {','.join(header)[:80]!r}"
            )
        if header.count("split") > 1:
            raise DataError(f"{path} has several columns split; remove all but one")
        for values in reader:
            if values:
                yield reader.line_num, header, values
    except csv.Error as error:
        raise DataError(f"{path} is not a valid CSV: line {reader.line_num}: {error}") from None


def _row(header: list[str], values: list[str]) -> dict[str, str]:
    """Return the fields by column. Empty fields after the last column are ignored."""
    if any(field.strip() for field in values[len(header) :]):
        raise DataError(
            f"it has {len(values)} fields, expected {len(header)} ({','.join(header)[:80]}); put "
            "double quotes around a field that contains a comma"
        )
    return dict(zip(header, values, strict=False))


def _image_file(folder: Path, row: dict[str, str]) -> ImageFile:
    path, label = row.get("path", ""), row.get("label", "")
    split = row.get("split", "").strip().lower()
    name = class_name(label)
    if not path.strip() or not is_printable(path):
        raise DataError("the path is empty or contains control characters")
    if name is None:
        raise DataError("the label is empty or contains control characters")
    if split and split not in SPLIT_WORDS:
        raise DataError(f"there is no split {split!r}; use train, val or test, or leave it empty")
    location = folder.resolve() / path
    try:
        status = location.stat()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    if not location.is_file():
        raise DataError(f"{path} is not a file")
    return ImageFile(path, str(location), file_stamp(status), name, SPLIT_WORDS.get(split, FREE))
