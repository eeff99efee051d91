"""The listener that workers share."""

import asyncio
import socket
import ssl
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from certificates import write_certificate

from service.sockets import listen
from service.workers import balanced_listener
from service.workers.balanced_listener import BalancedListener
from service.workers.connection_counts import ConnectionCounts

CLIENTS = 40


class Echo(asyncio.Protocol):
    """Sends back what it gets."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)
        self._transport.close()


@pytest.mark.anyio
async def test_clients_that_have_connected_are_accepted_when_it_closes() -> None:
    """Also while another worker has so few connections that it would accept first."""
    (socket_,) = listen("127.0.0.1", 0, None)
    address = socket_.getsockname()
    with closing(ConnectionCounts(2)) as counts, ExitStack() as stack:
        counts.set(2, 0)
        listener = BalancedListener(socket_, Echo, lambda: 10, counts, 1)
        listener.start()
        clients = [stack.enter_context(socket.create_connection(address)) for _ in range(CLIENTS)]
        for client in clients:
            client.sendall(b"answer")
        await listener.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        answers = [await asyncio.to_thread(client.recv, 100) for client in clients]
    assert answers == [b"answer"] * CLIENTS


@pytest.mark.anyio
async def test_a_client_that_never_finishes_its_handshake_does_not_keep_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the supervisor would kill the worker, because it does not stop."""
    monkeypatch.setattr(balanced_listener, "LAST_HANDSHAKES_SECONDS", 0.1)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*write_certificate(tmp_path))
    (socket_,) = listen("127.0.0.1", 0, None)
    with closing(ConnectionCounts(1)) as counts:
        listener = BalancedListener(socket_, Echo, lambda: 0, counts, 1, context)
        listener.start()
        with socket.create_connection(socket_.getsockname()) as client:
            async with asyncio.timeout(30):  # asyncio ends the handshake after 60 s
                await listener.close()
            assert await asyncio.to_thread(client.recv, 100) == b""
