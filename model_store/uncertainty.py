"""How certain a model is: margins, energy and prediction sets.

Training measures them and the service returns them with the same functions.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_store.session import Logits

CLEAR_MARGIN: Final = 0.5
"""With at least this margin, every variant of a model must give the same top-1."""


def margins(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Difference between the two largest probabilities of each image.

    Args:
        probabilities: float32 `[batch, classes]`.

    Returns:
        float32 `[batch]`, 0 to 1.
    """
    ranked = np.sort(probabilities, axis=-1)
    return np.asarray(ranked[..., -1] - ranked[..., -2])


def energy(logits: Logits) -> NDArray[np.float32]:
    """Energy score of each image; lower means more typical of the training data.

    The temperature is always 1, so recalibrating a model does not change from which images it
    abstains.

    Args:
        logits: float32 `[batch, classes]`.

    Returns:
        float32 `[batch]`, `-logsumexp(logits)`.

    Source: Liu et al. 2020, "Energy-based Out-of-distribution Detection", eq. 4 with T = 1.
    """
    highest = logits.max(axis=-1)
    return np.asarray(
        -highest - np.log(np.exp(logits - highest[..., np.newaxis]).sum(axis=-1)), np.float32
    )


def set_sizes(
    probabilities: NDArray[np.float32], thresholds: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Number of labels in the prediction sets of each image, one for each threshold.

    A set holds every label whose probability is at least its threshold. It always holds the most
    probable label, so it is never empty; this cannot lower the coverage.

    Args:
        probabilities: float32 `[batch, classes]`.
        thresholds: The smallest probability in each set, 0 to 1, float32 `[sets]`.

    Returns:
        int64 `[batch, sets]`, from 1 to the number of classes.

    Source: Sadinle, Lei and Wasserman 2019, "Least Ambiguous Set-Valued Classifiers with Bounded
    Error Levels".
    """
    is_in_set = probabilities[:, np.newaxis] >= thresholds[:, np.newaxis]
    return np.asarray(np.maximum(is_in_set.sum(axis=-1), 1), np.int64)
