"""How sure a model is: margins, the energy of its logits, and the set of labels that holds the right one with a given probability.

All are plain functions of arrays, so that the figures of training and the answers of the service come from the same lines.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_store.session import Logits

CLEAR_MARGIN: Final = 0.5
"""From this margin on an answer is clear: another file of the model must give the same."""


def margins(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far the most probable label is ahead of the second, float32 `[batch]`."""
    ranked = np.sort(probabilities, axis=-1)
    return np.asarray(ranked[..., -1] - ranked[..., -2])


def energy(logits: Logits) -> NDArray[np.float32]:
    """The energy score (Liu et al. 2020), float32 `[batch]`: -T logsumexp(logits / T) at their T of 1.

    Low where the model knows an image's like, high where it does not, so an image *above* a threshold is refused. T is not
    the calibration's temperature: what is refused does not change when that is fitted anew.
    """
    highest = logits.max(axis=-1)
    return np.asarray(
        -highest - np.log(np.exp(logits - highest[..., np.newaxis]).sum(axis=-1)), np.float32
    )


def set_sizes(probabilities: NDArray[np.float32], threshold: float) -> NDArray[np.int64]:
    """How many labels, from the most probable down, make each image's prediction set, int64 `[batch]`.

    Every label of at least `threshold` (Sadinle, Lei, Wasserman 2019), and always the most probable one: a set of nothing
    would be of no use to anyone, and a larger set holds the right label no less often.
    """
    return np.asarray(np.maximum((probabilities >= threshold).sum(axis=-1), 1), np.int64)
