"""Which URLs the service may fetch: HTTPS, hosts that are allowed, and public addresses only."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin, urlsplit

from service.errors import BadRequestError, shorten

HTTPS_PORT: Final = 443
MAX_URL_LENGTH: Final = 2048
_HOST: Final = re.compile(r"([a-z0-9._-]+)(?::([0-9]{1,5}))?")
_URL: Final = re.compile(r"[!-~]+")  # printable ASCII without spaces
_TRANSLATED: Final = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
"""IPv6 addresses that lead to an IPv4 address in their last 32 bits (RFC 6052, RFC 8215)."""


@dataclass(frozen=True, slots=True)
class FetchHost:
    """A host and a port. The name is in lower case."""

    name: str
    port: int = HTTPS_PORT

    def __str__(self) -> str:
        return self.name if self.port == HTTPS_PORT else f"{self.name}:{self.port}"


def parse_fetch_hosts(text: str) -> frozenset[FetchHost]:
    """Split comma-separated hosts, like `images.example.com` or `cdn.example.com:8443`.

    Raises:
        ValueError: One of them is not a host.
    """
    hosts = set()
    for part in text.split(",") if text.strip() else ():
        match = _HOST.fullmatch(part.strip())
        if not match or int(match[2] or HTTPS_PORT) not in range(1, 65536):
            raise ValueError(
                f"{part.strip()!r} is not a host; expected names in lower case without a scheme, "
                "like images.example.com or cdn.example.com:8443"
            )
        hosts.add(FetchHost(match[1], int(match[2] or HTTPS_PORT)))
    return frozenset(hosts)


def check_url(url: str, allowed: frozenset[FetchHost]) -> FetchHost:
    """Return the host of a URL that may be fetched.

    Raises:
        BadRequestError: It is not an HTTPS URL, or its host is not allowed.
    """
    if len(url) > MAX_URL_LENGTH or not _URL.fullmatch(url):
        raise url_not_allowed(
            f"expected at most {MAX_URL_LENGTH} characters of printable ASCII without spaces"
        )
    try:
        parts = urlsplit(url)
        host = FetchHost((parts.hostname or "").lower(), parts.port or HTTPS_PORT)
    except ValueError:
        raise url_not_allowed("it cannot be parsed") from None
    if parts.scheme.lower() != "https":
        raise url_not_allowed("it must begin with https://")
    if "@" in parts.netloc or "\\" in url:
        raise url_not_allowed("it must have no user name, password or backslash")
    if host not in allowed:
        raise url_not_allowed(
            f"the host {shorten(str(host))!r} is not in SERVICE_FETCH_ALLOW of the service"
        )
    return host


def join_redirect(url: str, location: str) -> str:
    """The target of a redirect. Raises BadRequestError if it cannot be parsed."""
    try:
        return urljoin(url, location)
    except ValueError:
        raise url_not_allowed("it redirects to a target that is not a URL") from None


def url_not_allowed(reason: str) -> BadRequestError:
    return BadRequestError(f"the image URL is not allowed: {reason}", code="url_not_allowed")


def is_public_address(text: str) -> bool:
    """Whether an IP address is reached over the internet: not private, local or reserved."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if any(address in network for network in _TRANSLATED):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public_address(str(inner))
        if address.teredo is not None or address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved
