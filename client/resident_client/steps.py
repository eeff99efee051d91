"""The steps of a call of the API, which `Client` and `AsyncClient` do in their own way."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx

from resident_client.images import ImageInput

T = TypeVar("T")


@dataclass(frozen=True)
class Send:
    """Send a request to the service; the outcome is an httpx.Response."""

    method: str
    path: str
    params: Mapping[str, str | int | float] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    files: Sequence[tuple[str, tuple[str, bytes, str]]] | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of httpx's `request`."""
        return {
            "method": self.method,
            "url": self.path,
            "params": self.params,
            "headers": self.headers,
            "content": self.content,
            "files": self.files,
        }


@dataclass(frozen=True)
class Download:
    """Get a URL of another server, without the API key; the outcome is an httpx.Response."""

    url: str


@dataclass(frozen=True)
class Encode:
    """Read and encode an image; the outcome is its bytes."""

    image: ImageInput


@dataclass(frozen=True)
class Wait:
    """Do nothing for some seconds."""

    seconds: float


Step = Send | Download | Encode | Wait
Flow = Generator[Step, Any, T]


def download_request(step: Download, timeout: httpx.Timeout) -> httpx.Request:
    """Build a request to another server, which gets neither the key nor the client's headers."""
    return httpx.Request("GET", step.url, extensions={"timeout": timeout.as_dict()})
