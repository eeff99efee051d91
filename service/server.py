"""`python -m service serve`, or without a word: serve the model store over HTTP."""

import asyncio
import gc
import logging
import shlex
import socket
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import click
import uvicorn
from pydantic import ValidationError
from pydantic_settings import CliApp

from model_store import __version__
from model_store.errors import ProviderError
from service.app import create_app
from service.host.malloc import bound_malloc
from service.http.access_log import LineFormatter
from service.http.api_keys import ApiKeysError
from service.http.protocol import BoundedHttpProtocol
from service.settings import Settings
from service.versions.registry import Registry

ACCEPTED_AT_ONCE: Final = 8
KEEP_ALIVE_SECONDS: Final = 75
"""Longer than proxies and load balancers keep a connection that idles (60 s): who asks just as the server closes gets no answer."""


class Server(uvicorn.Server):
    """uvicorn's server, which says where it is once it listens and the models are loaded, whichever comes later."""

    loaded: Registry | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so if the models were faster."""
        await super().startup(sockets)
        await self._accept_more()
        self.announce()

    async def _accept_more(self) -> None:
        """Listen several times on each socket: libuv (since 1.48), and so uvloop, takes one new client a turn and listener.

        With turns of many requests each, clients that come under overload would else wait seconds before they are refused.
        """
        loop = asyncio.get_running_loop()
        if not type(loop).__module__.startswith("uvloop"):  # asyncio's own takes all that wait
            return
        protocol = partial(
            self.config.http_protocol_class,  # type: ignore[call-arg]  # as uvicorn calls it
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        listeners = [listener for server in self.servers for listener in server.sockets]
        for listener in listeners * (ACCEPTED_AT_ONCE - 1):
            again = socket.fromfd(listener.fileno(), listener.family, listener.type)
            server = await loop.create_server(protocol, sock=again, backlog=self.config.backlog)
            self.servers.append(server)

    def announce(self) -> None:
        """Print what serves where, if both have happened."""
        if self.started and self.loaded:
            click.echo("\n".join(describe(self.loaded, self.address)))

    @property
    def address(self) -> str:
        """The URL to reach it from this machine."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  an address to print, not to bind
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def main(arguments: Sequence[str]) -> None:
    """Read the settings from flags and variables, and serve until SIGTERM or Ctrl-C."""
    # Pillow warns of damaged metadata, and strangers may send as much of it as they like.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    bound_malloc()
    try:
        settings = CliApp.run(Settings, cli_args=list(arguments))
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            name = "_".join(str(part) for part in problem["loc"])
            click.echo(
                f"SERVICE_{name.upper()}: {problem['msg']}, got {problem['input']!r}", err=True
            )
        click.echo("see: python -m service --help", err=True)
        sys.exit(2)
    to_stderr = logging.StreamHandler()
    to_stderr.setFormatter(LineFormatter())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[to_stderr])
    logging.getLogger("python_multipart").setLevel(
        logging.CRITICAL
    )  # damaged bodies are their senders' business
    if not settings.access_log:
        logging.getLogger("service.http.access_log").setLevel(logging.WARNING)
    server: Server

    def on_loaded(registry: Registry) -> None:
        server.loaded = registry
        server.announce()

    class Protocol(BoundedHttpProtocol):
        head_timeout_seconds = settings.body_timeout_seconds

    try:
        app = create_app(settings, on_loaded)
    except (ApiKeysError, ProviderError) as error:
        setting = "SERVICE_KEYS" if isinstance(error, ApiKeysError) else "SERVICE_PROVIDERS"
        click.echo(f"{setting}: {error}\nsee: python -m service --help", err=True)
        sys.exit(2)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        access_log=False,  # the application has its own line, with what a request was
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.shutdown_seconds,
        server_header=False,
        http=Protocol,
    )
    server = Server(config)
    gc.freeze()  # or looking for garbage among all that was imported stops the event loop for 40 ms
    gc.enable()
    with suppress(KeyboardInterrupt):
        server.run()


def describe(registry: Registry, address: str) -> list[str]:
    """What a person at the terminal wants to know now: what serves where, where the docs are, and a line to try."""
    lines = [f"Resident {__version__} on {address}"]
    for name, model in sorted(registry.models.items()):
        if model.served is None:
            lines.append(
                f"  NOT SERVED  {name}: {'; '.join(model.errors.values()) or 'its versions can not be read'}"
            )
            continue
        manifest = model.served.version.manifest
        accuracy = f", {manifest.metrics.top1:.1%} on its test images" if manifest.metrics else ""
        accuracy += "" if manifest.proof == "proven" else f", {manifest.proof}"
        precision = model.served.selected_variant.precision
        narrow = (
            ""
            if precision == "fp32"
            else f" in fp32; {precision} answers"
            if accuracy
            else f"; {precision} answers"
        )
        mark = " (default)" if name == registry.default_model else ""
        others = ", ".join(
            str(number) for number in sorted(model.serving) if number != model.served.version.number
        )
        beside = f"; also versions {others}" if others else ""
        lines.append(
            f"  model  {model.served.version}{mark}: {len(manifest.class_names)} classes{accuracy}{narrow}{beside}"
        )
    if registry.loaded:
        absent = registry.required.absent(registry.models).items()
        lines += [
            f"  NOT SERVED  {name}: {setting} names it, and it is not in the store"
            for name, setting in absent
        ]
    if registry.error:
        lines.append(f"  NOT READY  {registry.error}")
    lines.append(f"  docs   {address}/docs")
    default = registry.models.get(registry.default_model or "")
    if default and (served := default.served) and served.version.manifest.golden:
        sample = served.version.path(served.version.manifest.golden[0].image)
        if sample.is_relative_to(Path.cwd()):
            sample = sample.relative_to(Path.cwd())
        lines.append(
            f"  try    curl --data-binary @{shlex.quote(str(sample))} {address}/v1/predict"
        )
    return lines
