"""A CSV of path,label, with a column for the split where there is one."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from training.data.folders import file_stamp
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

SHOWN: Final = 5


def load_image_list(path: Path) -> ImageSet:
    """The images that a CSV lists, in its order. Its first line names the columns `path`, `label` and, if any, `split`.

    Paths are absolute or relative to the CSV; a split is train, val or test, or empty where it is to be drawn; other columns
    are not read. Raises DataError that names the lines.
    """
    files: list[ImageFile] = []
    problems: list[str] = []
    lines: dict[str, int] = {}
    for line, row in _rows(path):
        try:
            file = _image_file(path.parent, row)
            if file.location in lines:
                raise DataError(f"{file.path} stands already in line {lines[file.location]}")
        except DataError as error:
            problems.append(f"line {line}: {error}")
        else:
            lines[file.location] = line
            files.append(file)
    if problems:
        more = f"; and {len(problems) - SHOWN:,} more" if len(problems) > SHOWN else ""
        raise DataError(f"{path} can not be used: {'; '.join(problems[:SHOWN])}{more}")
    if not files:
        raise DataError(f"{path} lists no images")
    return set_of_files(
        path.stem, "a CSV of images", files, in_natural_order({file.label for file in files})
    )


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row with its line's number (from 1)."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise DataError(f"{path} is not UTF-8: line {line}; save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path} can not be read: {error.strerror}") from None
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        if missing := [name for name in ("path", "label") if header.count(name) != 1]:
            raise DataError(
                f"{path} needs one column {' and one '.join(missing)}; its first line is {','.join(header)[:80]!r}"
            )
        for values in reader:
            if values:
                yield reader.line_num, dict(zip(header, values, strict=False))
    except csv.Error as error:
        raise DataError(f"{path} is not CSV: line {reader.line_num}: {error}") from None


def _image_file(folder: Path, row: dict[str, str]) -> ImageFile:
    path, label, split = (
        row.get("path", ""),
        row.get("label", ""),
        row.get("split", "").strip().lower(),
    )
    name = class_name(label)
    if not path.strip() or not is_printable(path):
        raise DataError("the path is empty or holds control characters")
    if name is None:
        raise DataError("the label is empty or holds control characters")
    if split and split not in SPLIT_WORDS:
        raise DataError(
            f"there is no split {split!r}; there are train, val and test, or nothing where it is to be drawn"
        )
    location = folder.resolve() / path
    try:
        status = location.stat()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    if not location.is_file():
        raise DataError(f"{path} is no file")
    return ImageFile(path, str(location), file_stamp(status), name, SPLIT_WORDS.get(split, FREE))
