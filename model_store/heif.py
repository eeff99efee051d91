"""HEIC images, which pillow-heif decodes if the extra `heif` is installed.

It is imported for the first such image only, because its code takes 28 MiB of memory.
"""

import importlib.util
from functools import cache
from typing import Final

HEIF: Final = "HEIF"
SUPPORTED: Final = importlib.util.find_spec("pillow_heif") is not None
CODE_BYTES: Final = 48 * 1024 * 1024
"""Address space of the code that `load_heif_plugin` imports, and of what it allocates once."""


@cache
def load_heif_plugin() -> None:
    """Let Pillow open HEIC images. Call it only if they are `SUPPORTED`.

    Images are decoded by one thread, because several are decoded at once already, and never from
    the small preview in the file.
    """
    import pillow_heif  # noqa: PLC0415  an extra

    pillow_heif.register_heif_opener(
        thumbnails=False, depth_images=False, aux_images=False, decode_threads=1
    )


def is_heif_plugin_loaded() -> bool:
    """Whether this process has imported the code."""
    return load_heif_plugin.cache_info().currsize > 0
