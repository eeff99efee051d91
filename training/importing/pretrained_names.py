"""Names of the networks of `--pretrained`, for its `--help`. It imports no torch."""

from typing import Final

EFFICIENTNET_LITE0: Final = "efficientnet-lite0"
PRETRAINED_NAMES: Final = (EFFICIENTNET_LITE0,)
