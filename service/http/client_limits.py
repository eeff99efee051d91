"""Limits of one client address: requests per second, and open connections."""

import ipaddress
from collections import Counter
from collections.abc import Container
from typing import Final

from service.http.rate_limit import RateLimit

MAX_CLIENTS: Final = 10_000
"""Clients whose requests are counted at the same time."""
_IPV6_PREFIX: Final = 64  # what one subscriber usually has


class ClientRateLimits:
    """Counts the requests of each address. Holds at most `MAX_CLIENTS`, the newest ones."""

    def __init__(self, requests_per_second: float) -> None:
        self._requests_per_second = requests_per_second
        self._limits: dict[str, RateLimit] = {}

    def check(self, address: str) -> None:
        """Count a request. Raises OverloadedError with `Retry-After` beyond the limit."""
        client = network_of(address)
        limit = self._limits.get(client)
        if limit is None:
            if len(self._limits) >= MAX_CLIENTS:
                self._forget()
            limit = self._limits[client] = RateLimit(self._requests_per_second)
        limit.check("one client address")

    def _forget(self) -> None:
        """Forget clients whose limit is unused. If these are too few, forget the oldest ones."""
        kept = [(client, limit) for client, limit in self._limits.items() if not limit.unused]
        self._limits = dict(kept[-(MAX_CLIENTS // 2) :])


class ConnectionLimit:
    """Counts the open connections of each address. Those of trusted proxies have no limit."""

    def __init__(self, max_connections: int, trusted: Container[str]) -> None:
        self.max_connections = max_connections
        self._trusted = trusted
        self._open: Counter[str] = Counter()

    def open(self, address: str) -> bool:
        """Count a new connection. Returns False, and does not count it, beyond the limit."""
        if address in self._trusted:
            return True
        client = network_of(address)
        if self._open[client] >= self.max_connections:
            return False
        self._open[client] += 1
        return True

    def close(self, address: str) -> None:
        """Count the end of a connection that `open` allowed."""
        client = network_of(address)
        if self._open[client] > 1:
            self._open[client] -= 1
        else:
            del self._open[client]  # removes the zero of a trusted proxy too


def network_of(address: str) -> str:
    """An IPv4 address, or the /64 network of an IPv6 address."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address  # any text that a trusted proxy has forwarded
    if parsed.ipv4_mapped:  # an IPv4 address, as an IPv6 proxy writes it
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, _IPV6_PREFIX), strict=False))
