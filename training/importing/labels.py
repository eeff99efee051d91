"""The class names of an imported network, from the usual kinds of label file."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from training.data.image_set import class_name
from training.errors import ForeignModelError
from training.importing.import_report import ImportReport


def read_labels(path: Path) -> tuple[str, ...]:
    """Read the class names in the order of the network's outputs.

    Args:
        path: A text file with one name per line, a JSON list, or a JSON object from index to name
            or to [id, name] (Keras's `imagenet_class_index.json`).

    Raises:
        ForeignModelError: If the file is none of these, or has fewer than two names.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        is_json = text.lstrip()[:1] in {"[", "{"}
        names = _from_json(json.loads(text)) if is_json else text.rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ForeignModelError(f"the labels {path} cannot be read as text: {error}") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ForeignModelError(
            f"the labels {path} are not a JSON list of names or a JSON object from 0, 1, … to "
            f"names: {error}"
        ) from None
    labels = [class_name(name) for name in names]
    if None in labels:
        raise ForeignModelError(
            f"the labels {path} have a blank or unprintable name at index {labels.index(None)} "
            "(from 0); each class needs a name"
        )
    if len(labels) < 2:
        raise ForeignModelError(
            f"the labels {path} have {len(labels)} names, expected at least 2, one per class"
        )
    return tuple(label for label in labels if label is not None)


def make_unique(labels: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Append the index to each name that occurs twice, such as ImageNet's `crane`.

    Returns the names, and those that were repeated. Raises ForeignModelError if the result still
    repeats a name.
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


def _from_json(values: Any) -> list[str]:
    if isinstance(values, dict):
        if sorted(map(int, values)) != list(range(len(values))):
            raise ValueError("its keys are not 0, 1, 2, …")
        values = [values[key] for key in sorted(values, key=int)]
    names = [value[-1] if isinstance(value, list) and value else value for value in values]
    if not all(isinstance(name, str) for name in names):
        raise TypeError("a name is not a string")
    return names
