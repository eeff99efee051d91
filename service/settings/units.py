"""Units of the settings."""

from typing import Final

MEBIBYTE: Final = 1024 * 1024
