"""Reads the class names of an imported network from the usual kinds of label file."""

import ast
import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

from training.data.image_set import class_name
from training.errors import ForeignModelError
from training.importing.import_report import ImportReport

_FORMS: Final = (
    "one name per line; CSV with the columns index and name; or JSON or a Python literal: a list "
    "of names, an object from 0, 1, … to names or from names to 0, 1, …, or a Hugging Face "
    "config.json with id2label"
)
_HEADERS: Final = frozenset({"", "class", "id", "idx", "index", "label", "name"})


def read_labels(path: Path) -> tuple[str, ...]:
    """Read the class names in the order of the network's outputs.

    Args:
        path: One of these files:

            - text with one name per line, or CSV with an index and a name;
            - JSON or a Python literal with a list of names;
            - an object from index to name, or to [id, name] (Keras's `imagenet_class_index.json`);
            - an object from name to index (Keras's `class_indices`, torchvision's `class_to_idx`);
            - an object with `id2label` (Hugging Face's `config.json`).

    Raises:
        ForeignModelError: If the file is none of these, or has fewer than two names.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        is_literal = text.lstrip()[:1] in {"[", "{", "("}
        names = _from_values(_parse_literal(text)) if is_literal else _from_lines(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ForeignModelError(f"the labels {path} cannot be read as text: {error}") from None
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ForeignModelError(
            f"the labels {path} cannot be used: {reason}; expected {_FORMS}"
        ) from None
    labels = [class_name(name) for name in names]
    if None in labels:
        raise ForeignModelError(
            f"the labels {path} have a blank or unprintable name at index {labels.index(None)} "
            "(from 0); each class needs a name"
        )
    if len(labels) < 2:
        raise ForeignModelError(
            f"the labels {path} have {len(labels)} names, expected at least 2, one per class; the "
            f"forms are {_FORMS}"
        )
    return tuple(label for label in labels if label is not None)


def make_unique(labels: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Append the index to each name that occurs twice, such as ImageNet's `crane`.

    Returns all names, and the names that were repeated. Raises ForeignModelError if the result
    still repeats a name.
    """
    repeated = [name for name, count in Counter(labels).items() if count > 1]
    unique = tuple(
        f"{name} ({index})" if name in repeated else name for index, name in enumerate(labels)
    )
    if len(set(unique)) != len(unique):
        raise ForeignModelError(
            f"the labels repeat {', '.join(repeated[:5])}, and so do the names with an index; "
            "rename them in the labels file"
        )
    return unique, repeated


def name_classes(
    labels: Sequence[str],
    report: ImportReport,
    certainty: Literal["given", "found", "assumed"] = "given",
) -> tuple[str, ...]:
    """Make the labels unique and report them."""
    class_names, repeated = make_unique(labels)
    summary = f"{len(class_names)}: {', '.join(class_names[:3])}, …"
    report.add("classes", summary, certainty, "a network does not state their order")
    if repeated:
        evidence = "each has its index appended"
        report.add("repeated names", ", ".join(repeated), "changed", evidence)
    return class_names


def class_count_error(
    source: object, scores: object, class_names: Sequence[str]
) -> ForeignModelError:
    return ForeignModelError(
        f"{source} returns {scores} scores, but there are {len(class_names)} labels; give one "
        "label per score"
    )


def _parse_literal(text: str) -> Any:
    """Parse JSON, or else a Python literal. Never runs code."""
    try:
        return json.loads(text)
    except ValueError as error:
        try:
            return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError):
            raise error from None


def _from_values(values: Any) -> list[str]:
    if isinstance(values, dict) and isinstance(values.get("id2label"), dict):
        values = values["id2label"]
    if isinstance(values, dict):
        if values and all(isinstance(value, int) for value in values.values()):
            values = {index: name for name, index in _unique_items(values)}
        values = _in_order({_as_index(key): value for key, value in values.items()})
    names = [value[-1] if isinstance(value, list | tuple) and value else value for value in values]
    if not all(isinstance(name, str) for name in names):
        raise TypeError("a name is not a string")
    return names


def _unique_items(indices: dict[Any, int]) -> list[tuple[Any, int]]:
    """Pairs of (name, index). Raises ValueError if two names have the same index."""
    if len(set(indices.values())) != len(indices):
        repeated = Counter(indices.values()).most_common(1)[0][0]
        raise ValueError(f"two names have the index {repeated}")
    return list(indices.items())


def _as_index(key: object) -> int:
    if isinstance(key, int | str) and not isinstance(key, bool):
        try:
            return int(key)
        except ValueError:
            pass
    raise ValueError(f"its key {key!r} is not an index")


def _in_order(names: dict[int, Any]) -> list[Any]:
    if sorted(names) != list(range(len(names))):
        raise ValueError("its indices (or keys) are not 0, 1, 2, …")
    return [names[index] for index in range(len(names))]


def _from_lines(text: str) -> list[str]:
    """One name per line. If one of two columns holds 0, 1, 2, …, the names are in the other."""
    lines = text.rstrip().splitlines()
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
    header = rows and len(rows[0]) == 2 and {cell.lower() for cell in rows[0]} <= _HEADERS
    body = rows[1:] if header else rows
    if body and all(len(row) == 2 for row in body):
        for column in (0, 1):
            if sorted(row[column] for row in body) == sorted(map(str, range(len(body)))):
                names = {int(row[column]): row[1 - column] for row in body}
                return _in_order(names)
        if header:
            raise ValueError("neither of its columns holds the indices 0, 1, 2, …")
    return lines
