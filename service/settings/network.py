"""Settings of the listener, its clients and the log."""

import importlib.util
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from service.fetch_targets import parse_fetch_hosts
from service.key_file import default_key_file
from service.log_format import LogFormat
from service.public_address import parse_origins, parse_root_path

MAX_WORKERS: Final = 256


def _check_origins(text: str) -> str:
    parse_origins(text)
    return text


def _check_fetch_hosts(text: str) -> str:
    if parse_fetch_hosts(text) and importlib.util.find_spec("httpx") is None:
        raise ValueError("fetching images needs httpx: pip install '.[fetch]'")
    return text


def _check_otlp_endpoint(text: str) -> str:
    url = urlsplit(text)
    if text and (url.scheme not in {"http", "https"} or not url.hostname or url.query):
        raise ValueError(f"{text!r} is not a base URL like http://127.0.0.1:4318")
    if text and not _has_otlp_exporter():
        raise ValueError("sending traces needs OpenTelemetry: pip install '.[otel]'")
    return text


def _has_otlp_exporter() -> bool:
    with suppress(ModuleNotFoundError):  # a part of its package's name
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    return False


class NetworkSettings(BaseModel):
    """Where the service listens, who may call it, and how long connections may take."""

    host: Annotated[
        str,
        Field(
            description="Address to listen on. 0.0.0.0 accepts clients from the network, :: those "
            "of IPv4 and IPv6."
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Field(
            ge=0,
            le=65535,
            description="TCP port to listen on. 0 picks a free port and prints it. Also "
            "--http-port, and the variable PORT of hosting platforms if SERVICE_PORT is unset.",
        ),
    ] = 8000
    uds: Annotated[
        Path | None,
        BeforeValidator(lambda path: path or None),  # an empty variable is unset
        Field(description="Unix socket to listen on, instead of --host and --port."),
    ] = None
    grpc_port: Annotated[
        int | None,
        Field(
            ge=0,
            le=65535,
            description="TCP port for the Open Inference Protocol over gRPC, on --host. 0 picks a "
            "free port and logs it. Needs pip install '.[grpc]'. Unset: no gRPC.",
        ),
    ] = None
    root_path: Annotated[
        str,
        AfterValidator(parse_root_path),
        Field(
            description="Path under which a proxy publishes the service, like /resident. Requests "
            "are answered with and without it. Links in /docs include it."
        ),
    ] = ""
    torchserve_api: Annotated[
        bool,
        Field(
            description="Also answer TorchServe's inference API: /predictions, /ping and /models."
        ),
    ] = False
    cors_origins: Annotated[
        str,
        AfterValidator(_check_origins),
        Field(
            description="Comma-separated origins whose web pages may call the service, like "
            "https://app.example.com, or * for any. Empty: none."
        ),
    ] = ""
    fetch_allow: Annotated[
        str,
        AfterValidator(_check_fetch_hosts),
        Field(
            description="Comma-separated hosts from which images are fetched by URL, like "
            "images.example.com. HTTPS and public addresses only. Empty: none. Needs the extra "
            "fetch."
        ),
    ] = ""
    page: Annotated[
        bool,
        Field(
            description="Serve the web page at /, on which people try the models. Otherwise / "
            "redirects to /docs."
        ),
    ] = True
    keys: Annotated[
        Path,
        Field(
            description="File of API keys, written by python -m service keys. It must exist. "
            "Unset or empty: `resident/keys.json` in $XDG_CONFIG_HOME, else in ~/.config, if it "
            "exists; without keys, everyone may predict."
        ),
    ] = Field(default_factory=default_key_file)
    body_timeout_seconds: Annotated[
        float,
        Field(
            gt=0,
            description="Seconds for a client to send its headers, and again to send its body; "
            "slower clients get 408.",
        ),
    ] = 30.0
    workers: Annotated[
        Annotated[int, Field(ge=1, le=MAX_WORKERS)] | Literal["auto"],
        Field(
            description="Server processes, which share the port, the CPUs and the limits; auto is "
            "one per CPU of the container. With 1 there is no supervisor. Use 1 with a GPU."
        ),
    ] = 1
    drain_delay_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=3600,
            description="Seconds between SIGTERM and closing the listener. Meanwhile /health/ready "
            "is 503, so that load balancers stop sending requests, and requests are answered.",
        ),
    ] = 0.0
    shutdown_seconds: Annotated[
        int,
        Field(
            ge=0,
            description="Seconds that open requests may take to finish after the listener closed. "
            "Set the kill timeout of your supervisor above this plus the drain delay.",
        ),
    ] = 20
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Field(description="Least severe level that is logged to stderr."),
    ] = "info"
    log_format: Annotated[
        LogFormat,
        Field(description="Lines for people, or one JSON object per line for log collectors."),
    ] = "console"
    triton_metrics: Annotated[
        bool,
        Field(
            description="Also expose the metrics of inference under Triton's names (nv_*), for "
            "dashboards made for it."
        ),
    ] = False
    otlp_endpoint: Annotated[
        str,
        AfterValidator(_check_otlp_endpoint),
        Field(
            description="Base URL of an OpenTelemetry collector (OTLP over HTTP), like "
            "http://127.0.0.1:4318, to which traces are sent. Empty: none. Needs the extra otel."
        ),
    ] = ""
    access_log: Annotated[
        bool,
        Field(description="Log one line per request; costs some throughput at full load."),
    ] = True
    access_log_rate: Annotated[
        int,
        Field(
            ge=1,
            description="Most lines per second for requests that were answered, or rejected with "
            "429. How many were left out is logged.",
        ),
    ] = 200
