"""From a batch's logits to what is answered of each image: ranked predictions, abstention, a set of labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.manifest import Calibration, Outputs
from model_store.session import Logits, probabilities
from model_store.uncertainty import energy, set_sizes

SCORE_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class Row:
    """One image's calibrated probabilities, float32 `[classes]`.

    `unlike` says why the image is refused: empty where it is not, None where the model can not tell. `set_sizes` are the sizes
    of the sets of labels, in the order of the manifest's thresholds.
    """

    probabilities: NDArray[np.float32]
    unlike: str | None = None
    set_sizes: tuple[int, ...] = ()


def to_rows(scores: Logits, outputs: Outputs, calibration: Calibration) -> list[Row]:
    """A row an image of what the model gave, float32 `[batch, classes]`: all arithmetic is on the whole batch."""
    of_classes = probabilities(scores, outputs, calibration.temperature)
    images, threshold = len(of_classes), calibration.energy_threshold
    unlike: list[str | None] = [None] * images
    if threshold is not None:
        unlike = [_reason(value, threshold) if value > threshold else "" for value in energy(scores).tolist()]
    thresholds = calibration.conformal_thresholds.values()
    sizes = np.array([set_sizes(of_classes, least) for least in thresholds], np.int64).reshape(len(thresholds), images)
    return [Row(*row) for row in zip(of_classes, unlike, map(tuple, sizes.T.tolist()), strict=True)]


def _reason(value: float, threshold: float) -> str:
    return f"unlike what the model was trained on: its energy is {value:.2f}, over the threshold of {threshold:.2f}"


def answer(row: Row, class_names: Sequence[str], top_k: int, set_index: int | None = None) -> dict[str, Any]:
    """What is said of one image; with `set_index` also the set of labels by the threshold at this place."""
    size = 0 if set_index is None else row.set_sizes[set_index]
    ranked = rank(row.probabilities, class_names, max(top_k, size))
    said: dict[str, Any] = {"predictions": ranked[:top_k]}
    if set_index is not None:
        said["labels"] = [prediction["label"] for prediction in ranked[:size]]
    if row.unlike is not None:
        said["abstained"] = bool(row.unlike)
        if row.unlike:
            said["reason"] = row.unlike
    return said


def rank(probabilities: NDArray[np.float32], class_names: Sequence[str], top_k: int) -> list[dict[str, Any]]:
    """The `top_k` most probable classes of float32 `[classes]`, best first, as {label, index, score}; equal ones by index."""
    order = np.argsort(-probabilities, kind="stable")[:top_k].tolist()
    scores = probabilities[order].astype(float).round(SCORE_DECIMALS).tolist()
    return [{"label": class_names[index], "index": index, "score": score} for index, score in zip(order, scores, strict=True)]
