"""Defaults of `quantize`, for its `--help`. It imports no torch."""

from typing import Final

DEFAULT_MAX_LOSS: Final = 0.5
"""Default of `--max-loss`, in percentage points of top-1."""
DEFAULT_CALIBRATION_IMAGES: Final = 512
SWEEP_LAYERS: Final = 40
"""Networks of at most this many layers are always swept."""
