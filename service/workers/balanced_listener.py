"""Accepts the connections of a socket that several workers listen on."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Final

from service.sockets import accept_waiting
from service.workers.connection_counts import ConnectionCounts

MAX_DIFFERENCE: Final = 2
"""A worker that has over this many connections more than another lets that one accept first."""
DEFER_SECONDS: Final = 0.001
BEAT_SECONDS: Final = 0.1
"""How often a worker shows that it does not hang."""
MAX_ACCEPTS: Final = 8
"""Most connections that one iteration of the event loop accepts."""
PAUSE_AFTER_ERROR_SECONDS: Final = 1.0
"""Used if the process has no file descriptors left. asyncio pauses for the same time."""
LAST_HANDSHAKES_SECONDS: Final = 2.0
"""Time that TLS handshakes have left when the server stops. asyncio allows them 60 s."""
logger = logging.getLogger(__name__)


class BalancedListener:
    """Distributes connections evenly among the workers.

    The kernel wakes all workers for a connection, and the first one gets it. Clients keep their
    connections, so a worker that wakes up fast would get most of the load for a long time.
    """

    def __init__(
        self,
        listener: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        count_connections: Callable[[], int],
        counts: ConnectionCounts,
        number: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Create a listener that accepts nothing yet.

        Args:
            listener: The socket. `close` closes it.
            make_protocol: Creates the protocol of a connection.
            count_connections: Returns the number of connections of this worker.
            counts: The connection counts of all workers.
            number: The number of this worker.
            tls: For HTTPS; None for plain HTTP.
        """
        self._listener = listener
        self._make_protocol = make_protocol
        self._count_connections = count_connections
        self._counts = counts
        self._number = number
        self._tls = tls
        self._connecting: set[asyncio.Task[None]] = set()
        self._waiting: asyncio.TimerHandle | None = None
        self._beating: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener.settimeout(0)
        self._beat()
        self._loop.add_reader(self._listener, self._accept)

    async def close(self) -> None:
        """Pass on the clients that have already connected, and accept no others."""
        for timer in (self._waiting, self._beating):
            if timer:
                timer.cancel()
        self._loop.remove_reader(self._listener)
        self._counts.clear(self._number)
        connections = accept_waiting(self._listener)
        self._listener.close()  # at once: a client that connects in between is reset
        for connection in connections:
            self._pass_on(connection)
        await finish_connecting(self._connecting)

    def _accept(self) -> None:
        for _ in range(MAX_ACCEPTS):
            if self._has_more_than_others():
                self._wait(DEFER_SECONDS)
                return
            try:
                connection = self._listener.accept()[0]
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                logger.error("connections not accepted reason=%r", error.strerror)  # noqa: TRY400
                self._wait(PAUSE_AFTER_ERROR_SECONDS)
                return
            self._pass_on(connection)

    def _pass_on(self, connection: socket.socket) -> None:
        task = self._loop.create_task(pass_on(connection, self._make_protocol, self._tls))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def _wait(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._waiting = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._waiting = None
        self._loop.add_reader(self._listener, self._accept)

    def _beat(self) -> None:
        self._update()
        self._beating = self._loop.call_later(BEAT_SECONDS, self._beat)

    def _has_more_than_others(self) -> bool:
        fewest = self._counts.fewest_of_others(self._number)
        return fewest is not None and self._update() > fewest + MAX_DIFFERENCE

    def _update(self) -> int:
        count = self._count_connections() + len(self._connecting)
        self._counts.set(self._number, count)
        return count


async def pass_on(
    connection: socket.socket,
    make_protocol: Callable[[], asyncio.Protocol],
    tls: ssl.SSLContext | None,
) -> None:
    """Create the transport and the protocol of a connection that was just accepted."""
    try:
        connection.settimeout(0)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(make_protocol, connection, ssl=tls)
    except OSError:  # the client has gone
        with suppress(OSError):
            connection.close()


async def finish_connecting(connecting: Collection[asyncio.Task[None]]) -> None:
    """Wait for `pass_on` of some connections. Close those whose TLS handshake takes too long."""
    if connecting:
        _, late = await asyncio.wait(connecting, timeout=LAST_HANDSHAKES_SECONDS)
        for task in late:
            task.cancel()
