"""Parses the path, origins and host names under which clients reach the service."""

import ipaddress
import re
from typing import Final

_ROOT_PATH: Final = re.compile("(/[A-Za-z0-9._~-]+)*")
_HOST: Final = r"([a-z0-9._-]+|\[[0-9a-f:.]+\])"
_HOST_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\]")
LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")
"""Names that always reach this machine."""
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


def parse_host_names(text: str) -> tuple[str, ...]:
    """Split comma-separated host names and addresses, in lower case. Raises ValueError."""
    names = tuple(name.strip().lower() for name in text.split(",")) if text.strip() else ()
    for name in names:
        if name != "*" and not _HOST_NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} is not a host name; expected one without a scheme and a port, like "
                "models.example.com, or *"
            )
    return names


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine can connect to an address to listen on."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"  # a name of another address is public; empty is any address
