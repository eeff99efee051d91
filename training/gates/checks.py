"""Builds checks: a measured value against a threshold."""

import math
import sys
from typing import Final

import numpy as np

from model_store.manifest import Check
from model_store.session import Logits

LOGIT_TOLERANCE: Final = 1e-3
"""Largest allowed difference between a logit of the export and torch's, of usual size."""
_USUAL_LOGIT: Final = 10.0
EXPLODED_LOGIT: Final = 1e4
"""Logits above this come from a network that has diverged, or nearly has."""


def logit_tolerance(logits: Logits) -> float:
    """Largest allowed difference from these logits: 1e-3, or 1e-4 of the largest one above 10.

    Float32 has about seven digits, so that rounding alone changes logits of 1e4 by more than 1e-3.
    """
    scale = max(1.0, float(np.abs(logits).max()) / _USUAL_LOGIT)
    return LOGIT_TOLERANCE * scale


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
