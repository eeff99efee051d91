"""Run the application with uvicorn, and print at startup what is served."""

import asyncio
import gc
import logging
import shlex
import signal
import socket
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import uvicorn

from model_store import __version__
from service.app import create_app
from service.host.malloc import bound_malloc
from service.http import access_log
from service.http.protocol import BoundedHttpProtocol, start_draining
from service.log_format import FORMATTERS
from service.settings import Settings
from service.sockets import check_can_listen, listen
from service.stderr_log import StderrHandler
from service.versions.registry import Registry
from service.versions.served_model import ServedModel

LISTENERS_PER_SOCKET: Final = 8
DRAIN_POLL_SECONDS: Final = 0.1
KEEP_ALIVE_SECONDS: Final = (
    75  # longer than the 60 s of proxies, which may reuse an idle connection
)
GC_THRESHOLD: Final = 10_000
"""Objects between two garbage collections. Requests leave no cycles, so few need one."""
TERMINAL_COLUMNS: Final = 80
logger = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """Prints what it serves once it listens and its models are loaded."""

    registry: Registry | None = None
    on_stop: Callable[[], None] | None = None
    drain_delay_seconds = 0.0
    uds: Path | None = None
    has_page = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        logger.info("Uvicorn running on %s (Press CTRL+C to quit)", self.uds or self.address)
        await self._add_listeners()
        self.announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain for `drain_delay_seconds`, then stop listening and finish open requests."""
        if self.on_stop:
            self.on_stop()
        start_draining(self.server_state)
        ends = time.monotonic() + self.drain_delay_seconds
        if self.drain_delay_seconds:
            logger.info("draining seconds=%g", self.drain_delay_seconds)
        while time.monotonic() < ends and not self.force_exit:  # noqa: ASYNC110  set by a signal
            await asyncio.sleep(DRAIN_POLL_SECONDS)
        if self.uds:
            self.uds.unlink(missing_ok=True)  # before it closes: then the next server may own it
        await super().shutdown(sockets)

    async def _add_listeners(self) -> None:
        """Listen several times on each socket.

        With uvloop (since libuv 1.48), a listener accepts one connection per iteration of the event
        loop. Under overload iterations are long, so new clients would wait seconds to be rejected.
        """
        loop = asyncio.get_running_loop()
        if not type(loop).__module__.startswith("uvloop"):  # asyncio accepts all waiting clients
            return
        protocol = partial(
            self.config.http_protocol_class,  # type: ignore[call-arg]  # as uvicorn calls it
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        listeners = [listener for server in self.servers for listener in server.sockets]
        for listener in listeners * (LISTENERS_PER_SOCKET - 1):
            duplicate = socket.fromfd(listener.fileno(), listener.family, listener.type)
            server = await loop.create_server(protocol, sock=duplicate, backlog=self.config.backlog)
            self.servers.append(server)

    def announce(self) -> None:
        """Print what is served, if the server listens and the models are loaded."""
        if self.started and self.registry and not self.should_exit:
            text = "\n".join(
                describe_startup(self.registry, self.address, self.uds, has_page=self.has_page)
            )
            # In a thread, because printing blocks if nobody reads stdout.
            threading.Thread(target=click.echo, args=(text,), daemon=True).start()

    @property
    def address(self) -> str:
        """The URL of this server for clients on this machine; on a Unix socket, any host."""
        if self.uds:
            return "http://localhost"
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  an address to print, not to bind
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(settings: Settings) -> None:
    """Serve until SIGTERM, after which the process exits with code 0, or Ctrl-C.

    Raises:
        ApiKeysError: The file of API keys cannot be read.
        GrpcMissingError: The settings ask for gRPC, which is not installed.
        KeyFileError: The file of keys that versions must be signed with cannot be used.
        ListenError: An address or the Unix socket is in use, or cannot be used.
        ProviderError: An execution provider that the settings name does not work here.
    """
    signal.signal(signal.SIGTERM, _exit)
    bound_malloc()
    configure_logging(settings)
    server: Server

    def announce(registry: Registry) -> None:
        server.registry = registry
        server.announce()

    class Protocol(BoundedHttpProtocol):
        timeout_seconds = settings.body_timeout_seconds

    app = create_app(settings, announce)
    server = Server(
        uvicorn.Config(
            app,
            # Every client of a Unix socket is a local proxy, whose X-Forwarded-For is logged.
            forwarded_allow_ips="*" if settings.uds else None,
            log_level=settings.log_level,
            log_config=None,  # uvicorn's own handler would block the event loop
            access_log=False,  # service.http.access_log does this
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=settings.shutdown_seconds,
            server_header=False,
            http=Protocol,
            ws="none",
        )
    )
    server.on_stop, server.uds, server.has_page = app.stop, settings.uds, settings.page
    server.drain_delay_seconds = settings.drain_delay_seconds
    gc.freeze()  # collecting all imported objects would block the event loop for 40 ms
    gc.set_threshold(GC_THRESHOLD)
    gc.enable()
    listeners = listen(settings.host, settings.port, settings.uds)
    if settings.grpc_port:
        check_can_listen(settings.host, settings.grpc_port)
    with suppress(KeyboardInterrupt):
        server.run(listeners)


def _exit(*_: Any) -> None:
    """Handle SIGTERM before the server runs. uvicorn also calls it after an orderly shutdown."""
    raise SystemExit(0)


def configure_logging(settings: Settings) -> None:
    handler = StderrHandler()
    handler.setFormatter(FORMATTERS[settings.log_format]())
    # Not logged, and each costs time in every record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    access_log.rate_limit.records_per_second = settings.access_log_rate
    if not settings.access_log:
        access_log.logger.setLevel(logging.WARNING)


def describe_startup(
    registry: Registry, address: str, uds: Path | None = None, *, has_page: bool = True
) -> list[str]:
    """Lines for the terminal: models, the default, problems, the docs, a command to try."""
    default = registry.models.get(registry.default_model or "")
    return [
        f"Resident {__version__} on {f'Unix socket {uds}' if uds else address}",
        *(
            _describe_model(model, is_default=model is default)
            for _, model in sorted(registry.models.items())
        ),
        _describe_default(registry.default_model),
        *_describe_problems(registry),
        *([f"  page   {address}/"] if has_page and not uds else []),
        *([] if uds else [f"  docs   {address}/docs"]),
        *_example_command(default, address, uds),
    ]


def _describe_model(model: ServedModel, *, is_default: bool) -> str:
    if model.default_version is None and model.state == "loading":
        return f"  LOADING  {model.name}: GET /v1/models/{model.name} shows when it is ready"
    if model.default_version is None:
        reason = "; ".join(model.errors.values()) or model.error or "its versions cannot be read"
        return _problem("NOT SERVED", f"{model.name}: {reason}")
    version, precision = (
        model.default_version.version,
        model.default_version.selected_variant.precision,
    )
    manifest = version.manifest
    facts = [f"{len(manifest.class_names)} classes"]
    if manifest.metrics:
        facts.append(f"test accuracy {manifest.metrics.top1:.1%}")
    if manifest.proof != "proven":
        facts.append(manifest.proof)
    if precision != "fp32":
        facts.append(f"serves {precision}" + (", accuracy is of fp32" if manifest.metrics else ""))
    if others := sorted(model.serving.keys() - {version.number}):
        facts.append(f"also serves versions {', '.join(map(str, others))}")
    return f"  model  {version}{' (default)' if is_default else ''}: {', '.join(facts)}"


def _describe_default(name: str | None) -> str:
    who = name or "no model"
    return f"  default  {who} answers /v1/predict; set SERVICE_DEFAULT_MODEL to change that"


def _describe_problems(registry: Registry) -> Iterator[str]:
    if registry.loaded:
        for name, setting in registry.required.missing(registry.models).items():
            reason = f"{name}: {setting} names this model, but it is not in the store"
            yield _problem("NOT SERVED", reason)
    if registry.error:
        yield _problem("NOT READY", registry.error)


def _problem(label: str, text: str) -> str:
    start = f"  {label}  "
    return textwrap.fill(
        text,
        TERMINAL_COLUMNS,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _example_command(model: ServedModel | None, address: str, uds: Path | None) -> Iterator[str]:
    if (
        model
        and model.default_version
        and (golden := model.default_version.version.manifest.golden)
    ):
        sample = model.default_version.version.path(golden[0].image)
        if sample.is_relative_to(Path.cwd()):
            sample = sample.relative_to(Path.cwd())
        socket_option = f"--unix-socket {shlex.quote(str(uds))} " if uds else ""
        yield (
            f"  try    curl {socket_option}--data-binary @{shlex.quote(str(sample))} "
            f"{address}/v1/predict"
        )
