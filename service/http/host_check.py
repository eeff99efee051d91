"""Checks the name in the `Host` header, to protect a local service against DNS rebinding.

An attacker's web page can make its own name resolve to 127.0.0.1. The browser then lets the page
read responses of the local service. The `Host` header of such requests has the name of the page.
"""

import re
from collections.abc import Iterable
from typing import Final

from starlette.types import Scope

from service.errors import HostNotAllowedError, shorten
from service.public_address import LOOPBACK_NAMES, is_loopback, parse_host_names
from service.settings import Settings

MAX_NAMES: Final = 1000
"""Header values that are remembered."""
_HOST_AND_PORT: Final = re.compile(r"(\[[^\]]*\]|[^:\[]*)(?::[0-9]*)?")


class HostCheck:
    """Remembers the values of the header that it has allowed."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._allowed: set[bytes] = set()

    def check(self, scope: Scope) -> None:
        """Raise HostNotAllowedError unless every `Host` is allowed. Browsers always send one."""
        for name, value in scope["headers"]:
            if name == b"host" and value not in self._allowed:
                self._check_value(value)

    def _check_value(self, value: bytes) -> None:
        text = value.decode("latin-1").strip().lower()
        match = _HOST_AND_PORT.fullmatch(text)
        if match is None or not self._is_allowed(match[1].removesuffix(".")):
            raise HostNotAllowedError(
                f"this service does not answer for the host {shorten(text)!r}; expected "
                f"{', '.join(sorted(self._names))} (SERVICE_ALLOWED_HOSTS adds names)"
            )
        if len(self._allowed) < MAX_NAMES:
            self._allowed.add(value)

    def _is_allowed(self, name: str) -> bool:
        return name in self._names or is_loopback(name.strip("[]"))


def build_host_check(settings: Settings) -> HostCheck | None:
    """Return the check, or None if any host is allowed."""
    names = parse_host_names(settings.allowed_hosts)
    if "*" in names or settings.uds:
        return None
    if not names and not is_loopback(settings.host):
        return None
    return HostCheck((*LOOPBACK_NAMES, *names))
