"""Settings of a service behind a proxy or for web pages of other hosts: path prefix and origins."""

import re
from typing import Final

_ROOT_PATH: Final = re.compile("(/[A-Za-z0-9._~-]+)*")
_HOST: Final = r"([a-z0-9._-]+|\[[0-9a-f:.]+\])"
_ORIGIN: Final = re.compile(rf"https?://{_HOST}(:[0-9]{{1,5}})?")


def parse_root_path(text: str) -> str:
    """Return a path prefix without a slash at its end. Raises ValueError."""
    path = text.rstrip("/")
    if not _ROOT_PATH.fullmatch(path):
        raise ValueError(f"{text!r} is not a path prefix; expected one like /resident")
    return path


def parse_origins(text: str) -> tuple[str, ...]:
    """Split comma-separated origins. Raises ValueError for text that no browser sends."""
    origins = tuple(origin.strip() for origin in text.split(",")) if text.strip() else ()
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ValueError(
                f"{origin!r} is not an origin; expected scheme and host in lower case, without a "
                "path or a slash at the end, like https://app.example.com, or *"
            )
    return origins
