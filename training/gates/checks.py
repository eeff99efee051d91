"""Builds checks: a measured value against a threshold."""

import math
import sys
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_store.manifest import Check
from model_store.session import Logits

LOGIT_TOLERANCE: Final = 1e-3
"""Largest allowed difference of a logit of usual size between the export and torch."""
_USUAL_LOGIT: Final = 10.0
SCALE_DETAIL: Final = "divided by a tenth of the image's largest |logit| if that is above 10"
"""For the details of checks that use `scaled_difference`."""
EXPLODED_LOGIT: Final = 1e4
"""Logits above this come from a network that has diverged, or nearly has."""


def logit_scales(logits: Logits) -> NDArray[np.float64]:
    """Return float `[n, 1]`: for each image 1, or a tenth of its largest |logit| above 10.

    Float32 has about seven digits, so that rounding alone changes logits of 1e4 by more than 1e-3.
    """
    largest = np.abs(logits.astype(np.float64)).max(axis=1, keepdims=True)
    return np.asarray(np.maximum(1.0, largest / _USUAL_LOGIT))


def logit_tolerance(logits: Logits) -> float:
    """Return one allowed difference for all of these logits, `LOGIT_TOLERANCE` or more."""
    return LOGIT_TOLERANCE * float(logit_scales(logits).max())


def scaled_difference(logits: Logits, expected: Logits) -> float:
    """Return the largest difference of a logit divided by the scale of its image.

    At most `LOGIT_TOLERANCE` is allowed. Scales differ by image, so huge logits of one
    image do not hide wrong logits of another.
    """
    return float((np.abs(logits - expected) / logit_scales(expected)).max())


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
