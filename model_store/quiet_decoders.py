"""Stops image decoders from printing about the images that clients send."""

import ctypes
import logging
import warnings
from contextlib import suppress
from typing import Final

from PIL import _imaging

_LIBTIFF_HANDLERS: Final = ("TIFFSetErrorHandler", "TIFFSetWarningHandler")


def silence_decoders() -> None:
    """Turn off the messages of Pillow and libtiff. Errors are still raised.

    libtiff writes to the process's stderr, several lines per tag. Pillow has no option for that,
    so this calls its copy of libtiff directly. Where that copy is not a shared library (Windows),
    libtiff continues to print.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(_imaging.__file__)
        for name in _LIBTIFF_HANDLERS:
            handler = getattr(library, name)
            handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            handler(None)
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
