"""Names of the networks of `--torchvision` and `--pretrained`. It imports no torch."""

from typing import Final

from training.errors import ForeignModelError
from training.learning.architectures import TORCHVISION_NETWORKS

EFFICIENTNET_LITE0: Final = "efficientnet-lite0"
PRETRAINED_NAMES: Final = (EFFICIENTNET_LITE0,)


def require_torchvision_network(name: str) -> None:
    """Raise ForeignModelError if torchvision has no such residual classifier."""
    if name not in TORCHVISION_NETWORKS:
        raise ForeignModelError(
            f"torchvision has no residual classifier {name!r}; --torchvision must be one of "
            f"{', '.join(TORCHVISION_NETWORKS)}"
        )
