"""Labels: the names of a foreign network's classes, from the kinds of file that they come in."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from training.data.image_set import class_name
from training.errors import ForeignModelError
from training.importing.import_report import ImportReport


def read_labels(path: Path) -> tuple[str, ...]:
    """The names in the order of the network's outputs.

    A text file with a name a line, a JSON list, or a JSON object from index to name or to [id, name] (Keras's
    `imagenet_class_index.json`). Raises ForeignModelError.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = (
            _from_json(json.loads(text))
            if text.lstrip()[:1] in {"[", "{"}
            else text.rstrip().splitlines()
        )
    except (OSError, UnicodeDecodeError) as error:
        raise ForeignModelError(f"the labels {path} can not be read as text: {error}") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ForeignModelError(
            f"the labels {path} are no JSON list of names or object from 0, 1, … to names: {error}"
        ) from None
    labels = [class_name(name) for name in names]
    if None in labels:
        raise ForeignModelError(
            f"the labels {path} have a blank or unprintable name in place {labels.index(None)} (from 0)"
        )
    if len(labels) < 2:
        raise ForeignModelError(
            f"the labels {path} hold {len(labels)} names; a classifier has at least two classes"
        )
    return tuple(label for label in labels if label is not None)


def told_apart(labels: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """The labels with their index behind each that stands there twice (ImageNet has two cranes), and the names that did."""
    repeated = [name for name, number in Counter(labels).items() if number > 1]
    apart = tuple(
        f"{name} ({index})" if name in repeated else name for index, name in enumerate(labels)
    )
    if len(set(apart)) != len(apart):
        raise ForeignModelError(
            f"the labels can not be told apart: {', '.join(repeated[:5])} stand there several times"
        )
    return apart, repeated


def name_classes(
    labels: Sequence[str],
    report: ImportReport,
    certainty: Literal["given", "found", "assumed"] = "given",
) -> tuple[str, ...]:
    """The labels, told apart; whether their order is the network's, only labelled images can say."""
    class_names, repeated = told_apart(labels)
    report.add(
        "classes",
        f"{len(class_names)}: {', '.join(class_names[:3])}, …",
        certainty,
        "their order can not be seen in a network",
    )
    if repeated:
        report.add(
            "repeated names", ", ".join(repeated), "changed", "their index stands behind each"
        )
    return class_names


def wrong_classes(origin: object, scores: object, class_names: Sequence[str]) -> ForeignModelError:
    """Labels that are not the network's."""
    return ForeignModelError(
        f"{origin} answers with {scores} scores, the labels name {len(class_names)} classes; they must fit"
    )


def _from_json(values: Any) -> list[str]:
    if isinstance(values, dict):
        if sorted(map(int, values)) != list(range(len(values))):
            raise ValueError("its keys are not 0, 1, 2, …")
        values = [values[key] for key in sorted(values, key=int)]
    names = [value[-1] if isinstance(value, list) and value else value for value in values]
    if not all(isinstance(name, str) for name in names):
        raise TypeError("a name is no text")
    return names
