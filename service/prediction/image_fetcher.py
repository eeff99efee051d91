"""Fetch images by their URL, for requests that name URLs instead of sending bytes.

A request chooses the URLs, so everything about them is checked: see `fetch_targets`. The address
that was checked is the one that is connected to, whatever the name resolves to later.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from service.errors import (
    BadGatewayError,
    BadRequestError,
    ImageUrlError,
    ServiceError,
    TooLargeError,
)
from service.fetch_targets import (
    FetchHost,
    check_url,
    is_public_address,
    join_redirect,
    url_not_allowed,
)
from service.prediction.request import EncodedImage

if TYPE_CHECKING:
    import httpx

CONCURRENT_PER_REQUEST: Final = 8
MAX_CONNECTIONS: Final = 64
MAX_REDIRECTS: Final = 3
MAX_ADDRESSES: Final = 3
"""Addresses of one host that are tried."""
_REDIRECTS: Final = (301, 302, 303, 307, 308)


@dataclass(slots=True)
class _Download:
    """The limit and the headers that all images of a request share."""

    max_bytes: int
    reserve: Callable[[int], None]
    headers: Mapping[str, str]
    received: int = 0

    def add(self, count: int) -> None:
        self.received += count
        if self.received > self.max_bytes:
            raise TooLargeError(
                f"the images behind the URLs of a request may have at most {self.max_bytes:,} "
                "bytes (SERVICE_MAX_BODY_BYTES)"
            )
        self.reserve(count)


class ImageFetcher:
    """Fetches images from allowed hosts over HTTPS. Use it on one event loop.

    No cookies, proxies or passwords are used, and each connection serves one request, because two
    hosts may share an address.
    """

    def __init__(
        self, allowed: frozenset[FetchHost], max_bytes: int, timeout_seconds: float
    ) -> None:
        """Create a fetcher.

        Args:
            allowed: The only hosts that are fetched from, also after redirects.
            max_bytes: Limit of all images of one request together.
            timeout_seconds: Time for one image, with its redirects.
        """
        self._allowed = allowed
        self._max_bytes = max_bytes
        self._timeout_seconds = timeout_seconds
        self._transport: httpx.AsyncHTTPTransport | None = None

    async def fetch_urls(
        self,
        images: Sequence[EncodedImage],
        reserve: Callable[[int], None],
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> list[EncodedImage]:
        """Replace each `ImageUrlError` by the image behind it, or by the error of fetching it.

        Args:
            images: All images of a request.
            reserve: Called with the length of each piece that arrives; may raise ServiceError.
            headers: Sent with each request, besides those that it needs.
        """
        download = _Download(self._max_bytes, reserve, headers)
        places = asyncio.Semaphore(CONCURRENT_PER_REQUEST)

        async def fetch(image: EncodedImage) -> EncodedImage:
            if not isinstance(image, ImageUrlError):
                return image
            async with places:
                return await self._fetch(image.url, download)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(fetch(image)) for image in images]
        return [task.result() for task in tasks]

    async def _fetch(self, url: str, download: _Download) -> EncodedImage:
        import httpx  # noqa: PLC0415  an extra

        try:
            async with asyncio.timeout(self._timeout_seconds):
                for _ in range(1 + MAX_REDIRECTS):
                    data = await self._get(url, download)
                    if not isinstance(data, str):
                        return data or BadRequestError("the image is empty", code="empty_image")
                    url = data
            return _failed("it redirects too often")
        except TimeoutError:
            return _failed(f"it did not arrive within {self._timeout_seconds:g} s")
        except httpx.InvalidURL:
            return url_not_allowed("it cannot be parsed")
        except httpx.HTTPError as error:
            return _failed(f"the connection failed ({type(error).__name__})")
        except ServiceError as error:
            return error

    async def _get(self, url: str, download: _Download) -> bytes | str:
        """The body behind a URL, or the URL that it redirects to."""
        host = check_url(url, self._allowed)
        response = await self._connect(url, host, download.headers)
        try:
            if response.status_code in _REDIRECTS and "location" in response.headers:
                return join_redirect(url, response.headers["location"])
            if response.status_code != 200:
                raise _failed(f"{host} answered with status {response.status_code}")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise _failed(f"{host} answered with a Content-Encoding")
            pieces = []
            async for piece in response.aiter_raw():
                download.add(len(piece))
                pieces.append(piece)
            return b"".join(pieces)
        finally:
            await response.aclose()

    async def _connect(
        self, url: str, host: FetchHost, headers: Mapping[str, str]
    ) -> "httpx.Response":
        """Send the request to the first address of the host that accepts a connection."""
        import httpx  # noqa: PLC0415

        if self._transport is None:
            self._transport = httpx.AsyncHTTPTransport(
                verify=httpx.create_ssl_context(),
                trust_env=False,
                limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=0),
            )
        failure: httpx.TransportError | None = None
        for address in (await _public_addresses(host))[:MAX_ADDRESSES]:
            request = httpx.Request(
                "GET",
                httpx.URL(url).copy_with(host=address, port=host.port, userinfo=b"", fragment=None),
                headers={
                    **headers,
                    "host": str(host),
                    "user-agent": "resident",
                    "accept": "image/*",
                    "accept-encoding": "identity",
                },
                extensions={
                    "sni_hostname": host.name,  # also the name that the certificate must have
                    "timeout": httpx.Timeout(self._timeout_seconds).as_dict(),
                },
            )
            try:
                return await self._transport.handle_async_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        raise _failed(f"{host} accepts no connection, or has no valid certificate") from failure


async def _public_addresses(host: FetchHost) -> list[str]:
    """The addresses of a host. Raises ServiceError if one of them is not public."""
    try:
        addresses = await resolve(host)
    except OSError:
        raise _failed(f"the host {host} is not known") from None
    if not addresses or not all(is_public_address(address) for address in addresses):
        raise url_not_allowed(f"the host {host} has no public address, or also a private one")
    return addresses


async def resolve(host: FetchHost) -> list[str]:
    """The IP addresses of a host, best first. Raises OSError."""
    loop = asyncio.get_running_loop()
    found: list[Any] = await loop.getaddrinfo(host.name, host.port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(address[0] for *_, address in found))


def _failed(reason: str) -> BadGatewayError:
    return BadGatewayError(f"the image cannot be fetched: {reason}")
