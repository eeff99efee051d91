"""Settings of who may connect: TLS, host names, trusted proxies and limits per client."""

import ipaddress
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from service.public_address import parse_host_names

_UNSET: Final = BeforeValidator(lambda value: None if value == "" else value)


def parse_proxies(text: str) -> list[str]:
    """Split comma-separated addresses and networks. Raises ValueError."""
    proxies = [proxy.strip() for proxy in text.split(",")] if text.strip() else []
    for proxy in proxies:
        if proxy != "*":
            try:
                ipaddress.ip_network(proxy)
            except ValueError as error:
                raise ValueError(
                    f"{proxy!r} is not an address or a network: {error}; expected one like "
                    "10.0.0.5 or 10.0.0.0/8"
                ) from None
    return proxies


def _check_proxies(text: str) -> str:
    parse_proxies(text)
    return text


def _check_host_names(text: str) -> str:
    parse_host_names(text)
    return text


class AccessSettings(BaseModel):
    """Which connections and requests are accepted, before any key is checked."""

    ssl_certfile: Annotated[
        Path | None,
        Field(
            description="File with the TLS certificate and its chain (PEM); HTTP and gRPC then use "
            "TLS. A renewed file is read within a minute."
        ),
        _UNSET,
    ] = None
    ssl_keyfile: Annotated[
        Path | None,
        Field(
            description="File with the private key of --ssl-certfile (PEM), not encrypted. Unset: "
            "the key is in the same file."
        ),
        _UNSET,
    ] = None
    allowed_hosts: Annotated[
        str,
        AfterValidator(_check_host_names),
        Field(
            description="Comma-separated names that the Host header of a request may have, beside "
            "localhost and loopback addresses; other requests get 421. Empty: on a loopback "
            "address only these, otherwise any. *: any."
        ),
    ] = ""
    trusted_proxies: Annotated[
        str | None,
        AfterValidator(lambda text: text if text is None else _check_proxies(text)),
        Field(
            description="Comma-separated addresses and networks of proxies whose X-Forwarded-For "
            "tells the client's address; empty: none. Unset: FORWARDED_ALLOW_IPS, else 127.0.0.1 "
            "and ::1."
        ),
    ] = None
    client_requests_per_second: Annotated[
        float | None,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="Most requests per second of one client address (IPv6: one /64 network), "
            "on average; beyond that, it gets 429. Unset: no limit.",
        ),
        _UNSET,
    ] = None
    max_connections_per_client: Annotated[
        int | None,
        Field(
            ge=1,
            description="Most open connections of one client address, except of trusted proxies; "
            "further ones get 429 and are closed. Unset: no limit.",
        ),
        _UNSET,
    ] = None
    keep_alive_seconds: Annotated[
        int,
        Field(
            ge=1,
            description="Seconds until an idle connection is closed. Keep it above the idle time "
            "of your proxy, which is 60 s for most.",
        ),
    ] = 75
