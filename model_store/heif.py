"""HEIC images, which pillow-heif decodes if the extra `heif` is installed.

It is imported for the first such image only, because its code takes 28 MiB of memory.
"""

import importlib.util
from functools import cache
from typing import Final

HEIF: Final = "HEIF"
SUPPORTED: Final = importlib.util.find_spec("pillow_heif") is not None
CODE_BYTES: Final = 48 * 1024 * 1024
"""Address space that `load_heif_plugin` needs, for its code and what that allocates at import."""


@cache
def load_heif_plugin() -> None:
    """Let Pillow open HEIC images. Call it only if they are `SUPPORTED`.

    One thread decodes an image, because several images are decoded at the same time. The small
    preview in the file is never used.
    """
    import pillow_heif  # noqa: PLC0415  an extra

    pillow_heif.register_heif_opener(
        thumbnails=False, depth_images=False, aux_images=False, decode_threads=1
    )


def is_heif_plugin_loaded() -> bool:
    """Whether this process has imported the code."""
    return load_heif_plugin.cache_info().currsize > 0
