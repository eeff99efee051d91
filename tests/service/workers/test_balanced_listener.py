"""The listener that workers share."""

import asyncio
import socket
from contextlib import ExitStack, closing

import pytest

from service.sockets import listen
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
