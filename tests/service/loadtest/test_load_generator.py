"""The closed and the open loop of the load generator, and how it counts responses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import numpy as np
import pytest

from service.loadtest.connection import Address, Response
from service.loadtest.load_generator import Load, Request, arrivals, classify_response, run_load
from service.loadtest.load_report import latency_ms, make_report

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
REQUEST = Request(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n", images=1)
REQUEST_TIMEOUT_SECONDS = 120.0
PATIENCE_SECONDS = 60.0  # below the request timeout, after which the first request would fail
MANY = 20


class StallingServer:
    """Answers every request at once, except the first: its answer waits for `release`."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.many_came = asyncio.Event()
        self.first_is_waiting = False
        self.requests = 0
        self.connections = 0
        self.port = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator["StallingServer"]:
        async with await asyncio.start_server(self._handle, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.requests += 1
                if self.requests == MANY:
                    self.many_came.set()
                if self.requests == 1:
                    self.first_is_waiting = True
                    await self.release.wait()
                    self.first_is_waiting = False
                writer.write(OK)
        except (asyncio.IncompleteReadError, ConnectionResetError):
            pass
        finally:
            writer.close()

    def load(
        self, *, connections: int, rate: float | None, duration: float, warm_up: float = 0.0
    ) -> Load:
        return Load(
            Address("127.0.0.1", self.port),
            [REQUEST],
            connections,
            rate,
            warm_up,
            duration,
            REQUEST_TIMEOUT_SECONDS,
        )


@pytest.mark.anyio
async def test_open_loop_charges_a_stall_to_all_requests_due_meanwhile() -> None:
    """The latency of requests that wait for the only connection counts from when they were due."""
    async with StallingServer().running() as server:
        asyncio.get_running_loop().call_later(0.5, server.release.set)
        samples = await run_load(server.load(connections=1, rate=100, duration=0.5))
    assert {sample.error for sample in samples} == {None}
    due = list(arrivals(100, 0.5))
    stalled, *others = sorted(samples, key=lambda sample: sample.due)
    assert [sample.due for sample in (stalled, *others)] == due
    assert all(sample.sent >= stalled.ended for sample in others)
    assert (latency_ms(others) >= 1e3 * (stalled.ended - np.array(due[1:]))).all()


@pytest.mark.anyio
async def test_open_loop_does_not_wait_for_answers() -> None:
    """While one request is not answered, the next ones are sent on other connections."""
    async with StallingServer().running() as server:
        loading = asyncio.create_task(run_load(server.load(connections=50, rate=200, duration=0.3)))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await server.many_came.wait()
        assert server.first_is_waiting
        server.release.set()
        assert len(await loading) == len(list(arrivals(200, 0.3)))
        assert 2 <= server.connections <= 50


@pytest.mark.anyio
async def test_closed_loop_has_one_request_per_connection() -> None:
    """A connection sends the next request after its answer; the warm-up is not counted."""
    async with StallingServer().running() as server:
        server.release.set()
        samples = await run_load(server.load(connections=3, rate=None, duration=0.2, warm_up=0.1))
        assert len(samples) == server.requests
        assert server.connections == 3
    report = make_report(samples, 0.2)
    assert 0 < report.requests < len(samples)
    assert report.requests == report.answered == sum(sample.due >= 0 for sample in samples)


@pytest.mark.anyio
async def test_refused_connections_are_counted_and_retried_slowly() -> None:
    """A client pauses after a failed connection."""
    async with StallingServer().running() as server:
        load = server.load(connections=2, rate=None, duration=0.2)
    samples = await run_load(load)
    assert {sample.error for sample in samples} == {"connection refused"}
    assert len(samples) < 20


def test_arrivals_are_a_repeatable_poisson_process() -> None:
    """Their number follows the rate, and the gaps' standard deviation equals their mean."""
    moments = list(arrivals(1000, 10))
    assert moments == list(arrivals(1000, 10))
    assert moments == sorted(moments)
    assert 9_600 < len(moments) < 10_400
    gaps = np.array([later - earlier for earlier, later in pairwise(moments)])
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)


@pytest.mark.parametrize(
    ("status", "body", "images", "expected"),
    [
        (200, b'{"results": [{"predictions": []}]}', 1, (1, None)),
        (
            200,
            b'{"results": [{"predictions": []}, {"error": {"code": "not_an_image"}}]}',
            2,
            (1, "200, but an image: not_an_image"),
        ),
        (200, b'{"results": [{"predictions": [{"label": "error"}]}]}', 1, (1, None)),
        (200, b"anything", 1, (1, None)),
        (200, b'{"results": "error", "error": null}', 1, (1, None)),
        (200, b'{"results": [{"error": "of another server"}, 7]}', 2, (2, None)),
        (429, b'{"code": "overloaded"}', 1, (0, "429 overloaded")),
        (503, b"<html>", 1, (0, "503 Service Unavailable")),
        (599, b"[]", 1, (0, "599 ")),
    ],
)
def test_responses_are_counted_by_status_and_code(
    status: int, body: bytes, images: int, expected: tuple[int, str | None]
) -> None:
    """An error is named by its code or its status; a 200 with a failed image is an error too."""
    assert classify_response(Response(status, body), images) == expected
