"""What is answered of each image: ranked predictions, abstention, a set of labels."""

from collections.abc import Sequence
from typing import Any

from service.engine.classification import Classification


def answer(
    row: Classification, class_names: Sequence[str], top_k: int, set_index: int | None = None
) -> dict[str, Any]:
    """What is said of one image: its `top_k` most probable classes; with `set_index` also the set of labels of that threshold."""
    best = zip(row.indices[:top_k], row.scores[:top_k], strict=True)
    said: dict[str, Any] = {
        "predictions": [
            {"label": class_names[index], "index": index, "score": score} for index, score in best
        ]
    }
    if set_index is not None:
        said["labels"] = [class_names[index] for index in row.indices[: row.set_sizes[set_index]]]
    if row.abstention_reason is not None:
        said["abstained"] = bool(row.abstention_reason)
        if row.abstention_reason:
            said["reason"] = row.abstention_reason
    return said
