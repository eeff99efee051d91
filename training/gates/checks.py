"""Builds checks: a measured value against a threshold."""

import math
import sys
from typing import Final

import numpy as np

from model_store.manifest import Check
from model_store.session import Logits

LOGIT_TOLERANCE: Final = 1e-3
"""Largest allowed difference between a logit of the export and torch's."""


def at_least(name: str, value: float, threshold: float, detail: str = "") -> Check:
    """Return a check that passes if `value >= threshold`. NaN and infinity fail."""
    # JSON cannot hold NaN and infinity
    value = value if math.isfinite(value) else -sys.float_info.max
    return Check(
        check=name,
        passed=value >= threshold,
        value=value,
        threshold=threshold,
        comparison="at_least",
        detail=detail,
    )


def at_most(name: str, value: float, threshold: float, detail: str = "") -> Check:
    """Return a check that passes if `value <= threshold`. NaN and infinity fail."""
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
    return float(np.abs(difference).max())
