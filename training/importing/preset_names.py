"""Names of the presets of `import`, for its `--help`. It imports no torch."""

from typing import Final

TIMM: Final = "timm"
PRESET_NAMES: Final = ("torchvision", "caffe", "tf", "zero-one", "minus-one-one", TIMM)
"""The keys of `presets.PRESETS`, and timm's, whose preset is in its config."""
