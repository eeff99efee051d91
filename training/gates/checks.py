"""One check of a gate: a value held against a threshold."""

import math
import sys
from typing import Final

import numpy as np

from model_store.manifest import Check
from model_store.session import Logits

LOGIT_TOLERANCE: Final = 1e-3
"""How far an export's logits may be from torch's."""


def at_least(name: str, value: float, threshold: float, detail: str = "") -> Check:
    """A check that passes from `threshold` up."""
    value = (
        value if math.isfinite(value) else -sys.float_info.max
    )  # NaN passes nothing, and JSON can hold this
    return Check(
        check=name,
        passed=value >= threshold,
        value=value,
        threshold=threshold,
        comparison="at_least",
        detail=detail,
    )


def at_most(name: str, value: float, threshold: float, detail: str = "") -> Check:
    """A check that passes up to `threshold`."""
    value = value if math.isfinite(value) else sys.float_info.max
    return Check(
        check=name,
        passed=value <= threshold,
        value=value,
        threshold=threshold,
        comparison="at_most",
        detail=detail,
    )


def max_abs(difference: Logits) -> float:
    """The largest absolute value."""
    return float(np.abs(difference).max())
