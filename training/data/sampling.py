"""Deterministic samples of images."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item", bound=np.generic)


def evenly_spaced(values: NDArray[Item], count: int) -> NDArray[Item]:
    """Return at most `count` of the values, evenly spaced, with the first and the last."""
    positions = np.linspace(0, len(values) - 1, min(count, len(values))).astype(np.int64)
    return values[positions]
