"""From a row of probabilities to ranked predictions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCORE_DECIMALS = 6


def rank(probabilities: NDArray[np.float32], class_names: Sequence[str], top_k: int) -> list[dict[str, Any]]:
    """The `top_k` most probable classes of float32 `[classes]`, best first, as {label, index, score}; equal ones by index."""
    order = np.argsort(-probabilities, kind="stable")[:top_k].tolist()
    scores = probabilities[order].astype(float).round(SCORE_DECIMALS).tolist()
    return [{"label": class_names[index], "index": index, "score": score} for index, score in zip(order, scores, strict=True)]
