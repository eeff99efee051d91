"""The address of the client behind trusted proxies, from `X-Forwarded-For`."""

import ipaddress
import os
from functools import lru_cache
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from service.settings.access import parse_proxies

LOOPBACK: Final = "127.0.0.1,::1"
_UNIX_CLIENT: Final = ("127.0.0.1", 0)


class TrustedProxies:
    """Tells which addresses belong to trusted proxies."""

    def __init__(self, proxies: list[str]) -> None:
        self._all = "*" in proxies
        self._networks = [ipaddress.ip_network(proxy) for proxy in proxies if proxy != "*"]
        self._is_trusted = lru_cache(maxsize=1024)(self._find)

    def __contains__(self, address: object) -> bool:
        return self._all or self._is_trusted(str(address))

    def _find(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)


def find_trusted_proxies(setting: str | None) -> list[str]:
    """The setting, or the variable that uvicorn reads, or loopback addresses."""
    if setting is not None:
        return parse_proxies(setting)
    names = os.environ.get("FORWARDED_ALLOW_IPS", LOOPBACK).split(",")
    return [name.strip() for name in names if _is_proxy(name)]  # uvicorn also accepts other text


def _is_proxy(text: str) -> bool:
    try:
        return bool(parse_proxies(text))
    except ValueError:
        return False


def forward_clients(app: ASGIApp, proxies: list[str], *, unix_socket: bool) -> ASGIApp:
    """Set the client of each request to the newest address that no trusted proxy has.

    The client may have invented the addresses further left.

    Args:
        app: The application.
        proxies: Addresses and networks of trusted proxies.
        unix_socket: Whether every client is a proxy on this machine, which is trusted too.
    """
    trusted = "*" if "*" in proxies else [*proxies, *([_UNIX_CLIENT[0]] if unix_socket else [])]
    # uvicorn has own names for the same types.
    forwarded: ASGIApp = ProxyHeadersMiddleware(app, trusted)  # type: ignore[arg-type,assignment]
    if not unix_socket:
        return forwarded

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["client"] = _UNIX_CLIENT
        await forwarded(scope, receive, send)

    return call
