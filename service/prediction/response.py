"""From a batch's logits to what is answered of each image: ranked predictions, abstention, a set of labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_store.manifest import Calibration, Outputs
from model_store.session import Logits, probabilities
from model_store.uncertainty import energy, set_sizes

SCORE_DECIMALS = 6


@dataclass(slots=True)  # not frozen: that would double the time to make one
class Row:
    """One image's classes from the most probable to the least, equal ones by index, and the calibrated probability of each.

    `unlike` says why the image is refused: empty where it is not, None where the model can not tell. `set_sizes` are the sizes
    of the sets of labels, in the order of the manifest's thresholds.
    """

    indices: list[int]
    scores: list[float]
    unlike: str | None = None
    set_sizes: tuple[int, ...] = ()


def to_rows(scores: Logits, outputs: Outputs, calibration: Calibration) -> list[Row]:
    """A row an image of what the model gave, float32 `[batch, classes]`: all arithmetic is on the whole batch."""
    of_classes = probabilities(scores, outputs, calibration.temperature)
    images, threshold = len(of_classes), calibration.energy_threshold
    unlike: list[str | None] = [None] * images
    if threshold is not None:
        unlike = [
            _reason(value, threshold) if value > threshold else ""
            for value in energy(scores).tolist()
        ]
    thresholds = calibration.conformal_thresholds.values()
    sizes = np.array([set_sizes(of_classes, least) for least in thresholds], np.int64).reshape(
        len(thresholds), images
    )
    order = np.argsort(-of_classes, axis=1, kind="stable")
    ranked = np.take_along_axis(of_classes, order, axis=1).astype(float).round(SCORE_DECIMALS)
    return [
        Row(*row)
        for row in zip(
            order.tolist(), ranked.tolist(), unlike, map(tuple, sizes.T.tolist()), strict=True
        )
    ]


def _reason(value: float, threshold: float) -> str:
    return f"unlike what the model was trained on: its energy is {value:.2f}, over the threshold of {threshold:.2f}"


def answer(
    row: Row, class_names: Sequence[str], top_k: int, set_index: int | None = None
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
    if row.unlike is not None:
        said["abstained"] = bool(row.unlike)
        if row.unlike:
            said["reason"] = row.unlike
    return said
