"""Run the application with uvicorn, and print at startup what is served."""

import asyncio
import gc
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import click
import uvicorn
from starlette.types import Scope

from model_store.errors import KeyFileError, ProviderError
from model_store.providers import has_cpu_providers_only
from service.app import create_app
from service.host.malloc import bound_malloc
from service.host.memory_limit import memory_limit
from service.host.own_memory import limit_own_memory
from service.http import access_log
from service.http.client_limits import ConnectionLimit
from service.http.forwarded import TrustedProxies, find_trusted_proxies, forward_clients
from service.http.predict_endpoint import PredictEndpoint
from service.http.protocol import BoundedHttpProtocol, start_draining
from service.http.security_headers import SECURITY_HEADERS
from service.http.service_counts import retire_counts
from service.http.uvicorn_adapter import DirectTransport
from service.key_file import ApiKeysError
from service.log_format import FORMATTERS
from service.protocols.grpc_extra import GrpcMissingError
from service.public_address import is_loopback
from service.settings import Settings
from service.sockets import (
    accept_waiting,
    check_can_listen,
    ignore_new_clients,
    listen,
    reserve_port,
)
from service.startup_text import describe_open_service, describe_startup
from service.stderr_log import DirectStderrHandler, StderrHandler
from service.tls import CertificateError, TlsCertificate, find_tls_files
from service.versions.registry import Registry
from service.workers.balanced_listener import BalancedListener, finish_connecting, pass_on
from service.workers.connection_counts import ConnectionCounts
from service.workers.link import Link, WorkerPart
from service.workers.shared_buckets import SharedBuckets
from service.workers.shares import count_workers
from service.workers.supervisor import Supervisor, WorkerStartError

LISTENERS_PER_SOCKET: Final = 8
DRAIN_POLL_SECONDS: Final = 0.1
GC_THRESHOLD: Final = 10_000
"""Objects between two garbage collections. Requests leave no cycles, so few need one."""
STOP_MARGIN_SECONDS: Final = 15.0
"""Time that a worker may take to stop, besides the drain delay and open requests."""
START_ERRORS: Final = (
    ApiKeysError,
    CertificateError,
    GrpcMissingError,
    KeyFileError,
    ProviderError,
)
"""Errors in the settings that a worker may find at its start."""
logger = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """Prints what it serves once it listens and its models are loaded."""

    registry: Registry | None = None
    on_stop: Callable[[], None] | None = None
    certificate: TlsCertificate | None = None
    drain_delay_seconds = 0.0
    warnings: Sequence[str] = ()
    uds: Path | None = None
    has_page = True
    worker = WorkerPart()
    _following: asyncio.Task[None] | None = None
    _name: Any = None
    _shared: Sequence[BalancedListener] = ()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.to_thread(bool)  # starts a thread while the host has one
        shared = (sockets or []) if self.worker.connections else []
        await super().startup([] if shared else sockets)
        listeners = [socket for server in self.servers for socket in server.sockets] or shared
        self._name = listeners[0].getsockname()
        level = logging.INFO if self.worker.logs_address else logging.DEBUG
        logger.log(level, "Uvicorn running on %s (Press CTRL+C to quit)", self.uds or self.address)
        await self._add_listeners()
        self._share(shared)
        if self.certificate:
            self._following = asyncio.create_task(self.certificate.follow())
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
        if self.uds and not self.worker.link:
            self.uds.unlink(missing_ok=True)  # before it closes: then the next server may own it
        if self._shared:
            await asyncio.gather(*(listener.close() for listener in self._shared))
        else:
            await self._stop_listening(sockets or [])
        await super().shutdown(sockets)
        if self._following:
            self._following.cancel()

    async def _stop_listening(self, listeners: Sequence[socket.socket]) -> None:
        """Serve the clients that have already connected, and accept no others."""
        for listener in listeners:
            ignore_new_clients(listener)
        connections = [each for listener in listeners for each in accept_waiting(listener)]
        for server in self.servers:
            server.close()
        for listener in listeners:
            listener.close()
        await finish_connecting(
            [
                asyncio.create_task(pass_on(each, self._make_protocol, self.config.ssl))
                for each in connections
            ]
        )

    def _share(self, listeners: Sequence[socket.socket]) -> None:
        """Listen on sockets on which other workers listen too."""
        link, connections = self.worker.link, self.worker.connections
        if link is None or connections is None:
            return
        self._shared = [
            BalancedListener(
                listener,
                self._make_protocol,
                lambda: len(self.server_state.connections),
                connections,
                link.number,
                self.config.ssl,
            )
            for listener in listeners
        ]
        for shared in self._shared:
            shared.start()

    def _make_protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn calls it
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    async def _add_listeners(self) -> None:
        """Listen several times on each socket.

        With uvloop (since libuv 1.48), a listener accepts one connection per iteration of the event
        loop. Under overload iterations are long, so new clients would wait seconds to be rejected.
        """
        loop = asyncio.get_running_loop()
        if not type(loop).__module__.startswith("uvloop"):  # asyncio accepts all waiting clients
            return
        listeners = [listener for server in self.servers for listener in server.sockets]
        for listener in listeners * (LISTENERS_PER_SOCKET - 1):
            duplicate = socket.fromfd(listener.fileno(), listener.family, listener.type)
            server = await loop.create_server(
                self._make_protocol,
                sock=duplicate,
                ssl=self.config.ssl,
                backlog=self.config.backlog,
            )
            self.servers.append(server)

    def announce(self) -> None:
        """Print what is served, if the server listens and the models are loaded."""
        if self.started and self.registry and not self.should_exit:
            lines = describe_startup(
                self.registry,
                self.address,
                self.uds,
                has_page=self.has_page,
                workers=self.worker.count,
            )
            text = "\n".join([*lines, *self.warnings])
            # In a thread, because printing blocks if nobody reads stdout.
            threading.Thread(target=click.echo, args=(text,), daemon=True).start()

    @property
    def address(self) -> str:
        """The URL of this server for clients on this machine; on a Unix socket, any host."""
        if self.uds:
            return "http://localhost"
        host, port = self._name[:2]
        # An address to print, not to bind.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        scheme = "https" if self.certificate else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def run(settings: Settings) -> None:
    """Serve until SIGTERM, after which the process exits with code 0, or Ctrl-C.

    Several workers run if the settings ask for them.

    Raises:
        ApiKeysError: The file of API keys cannot be read.
        CertificateError: The TLS certificate or its key cannot be used.
        GrpcMissingError: The settings ask for gRPC, which is not installed.
        KeyFileError: The file of keys that versions must be signed with cannot be used.
        ListenError: An address or the Unix socket is in use, or cannot be used.
        ProviderError: An execution provider that the settings name does not work here.
        WorkersFailedError: Several workers are set, and they crash at their start.
    """
    signal.signal(signal.SIGTERM, _exit)
    bound_malloc()
    if has_cpu_providers_only():  # those of GPUs map much more memory than they use
        limit_own_memory(memory_limit())
    workers = count_workers(settings)
    if workers > 1:
        run_workers(settings, workers)
        return
    configure_logging(settings, StderrHandler())
    server = build_server(settings, WorkerPart())
    listeners = listen(settings.host, settings.port, settings.uds)
    if settings.grpc_port:
        check_can_listen(settings.host, settings.grpc_port)
    with suppress(KeyboardInterrupt):
        server.run(listeners)


def run_workers(settings: Settings, workers: int) -> None:
    """Run a supervisor, whose workers share one listening socket. Raises as `run`."""
    configure_logging(settings, DirectStderrHandler())
    listeners = listen(settings.host, settings.port, settings.uds)
    reserved = None
    if settings.grpc_port is not None:
        reserved = reserve_port(settings.host, settings.grpc_port)
        settings = settings.model_copy(update={"grpc_port": reserved.getsockname()[1]})

    buckets, connections = SharedBuckets(), ConnectionCounts(workers)

    def run_worker(link: Link, replaces_another: bool) -> None:  # noqa: FBT001  by position
        configure_logging(settings, StderrHandler(), link.number)
        try:
            worker = WorkerPart(link, replaces_another, buckets, connections)
            server = build_server(settings, worker)
        except START_ERRORS as error:
            link.report_failure(error)
            raise SystemExit(1) from None
        server.run(listeners)

    def stop_listening() -> None:
        if settings.uds:
            settings.uds.unlink(missing_ok=True)
        for listener in listeners:
            ignore_new_clients(listener)
            listener.close()

    gc.freeze()  # a garbage collection would write to objects, and forks would no longer share them
    gc.enable()
    supervisor = Supervisor(
        workers,
        run_worker,
        stop_listening,
        connections.clear,
        retire_counts,
        settings.drain_delay_seconds,
        settings.shutdown_seconds + STOP_MARGIN_SECONDS,
    )
    try:
        with closing(buckets), closing(connections), suppress(KeyboardInterrupt):
            supervisor.run()
    except WorkerStartError as error:
        name, text = error.args
        raise next(kind for kind in START_ERRORS if kind.__name__ == name)(text) from None


def build_server(settings: Settings, worker: WorkerPart) -> Server:
    """Build the server of one process. Raises as `run`."""
    server: Server

    def announce(registry: Registry) -> None:
        server.registry = registry
        server.announce()

    proxies = find_trusted_proxies(settings.trusted_proxies)
    tls_files = find_tls_files(settings)
    certificate = TlsCertificate(*tls_files) if tls_files else None
    app = create_app(settings, announce, worker)
    server = Server(
        uvicorn.Config(
            forward_clients(app, proxies, unix_socket=bool(settings.uds)),
            proxy_headers=False,
            headers=SECURITY_HEADERS,
            log_level=settings.log_level,
            log_config=None,  # uvicorn's own handler would block the event loop
            access_log=False,  # service.http.access_log does this
            timeout_keep_alive=settings.keep_alive_seconds,
            timeout_graceful_shutdown=settings.shutdown_seconds,
            server_header=False,
            http=connection_protocol(app, settings, worker),
            ws="none",
        )
    )
    if certificate:
        server.config.load()
        server.config.ssl, server.certificate = certificate.context, certificate
    if not app.requires_key and not settings.uds and not is_loopback(settings.host):
        server.warnings = describe_open_service(settings)
        if worker.logs_address:
            logger.warning("predictions need no API key host=%s", settings.host or "any")
    server.on_stop, server.uds, server.has_page = app.stop, settings.uds, settings.page
    server.drain_delay_seconds = settings.drain_delay_seconds
    server.worker = worker
    gc.freeze()  # collecting all imported objects would block the event loop for 40 ms
    gc.set_threshold(GC_THRESHOLD)
    gc.enable()
    return server


def _exit(*_: Any) -> None:
    """Handle SIGTERM before the server runs. uvicorn also calls it after an orderly shutdown."""
    raise SystemExit(0)


def connection_protocol(
    app: PredictEndpoint, settings: Settings, worker: WorkerPart
) -> type[BoundedHttpProtocol]:
    """The class of the connections of an application."""
    most = settings.max_connections_per_client
    proxies = TrustedProxies(find_trusted_proxies(settings.trusted_proxies))

    class Protocol(BoundedHttpProtocol):
        timeout_seconds = settings.body_timeout_seconds
        connection_limit = ConnectionLimit(most, proxies) if most else None

        def answer_early(self, scope: Scope, direct: DirectTransport) -> bool:
            return app.early_rejection.answer(scope, direct)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            worker.count_connections(len(self.connections))

    return Protocol


def configure_logging(
    settings: Settings, handler: logging.Handler, worker: int | None = None
) -> None:
    """Log to `handler` as the settings say; lines have the number of the worker, if any."""
    handler.setFormatter(FORMATTERS[settings.log_format](worker))
    # No log line has these fields, and computing them costs time in every record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    access_log.rate_limit.records_per_second = settings.access_log_rate
    if not settings.access_log:
        access_log.logger.setLevel(logging.WARNING)
