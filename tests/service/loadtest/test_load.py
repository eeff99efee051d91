"""The two loops of the load generator, and what it counts an answer as."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import numpy as np
import pytest

from service.loadtest.connection import Address, Response
from service.loadtest.load import Load, Request, arrivals, classify, run_load
from service.loadtest.load_report import milliseconds, report_on

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
REQUEST = Request(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n", images=1)
PATIENCE_SECONDS = 30.0
HANGS_SECONDS = 5.0  # less than that patience, after which the first request would be given up and the next be sent
MANY = 20


class StallingServer:
    """Answers at once, but for the first request, whose answer it keeps back until `release` is set."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.many_came = asyncio.Event()
        self.owes_the_first = False
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
                    self.owes_the_first = True
                    await self.release.wait()
                    self.owes_the_first = False
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
            PATIENCE_SECONDS,
        )


@pytest.mark.anyio
async def test_open_loop_charges_a_stall_to_everyone_who_came_meanwhile() -> None:
    """Requests that had to wait for the one connection are counted from when they were due: no coordinated omission."""
    async with StallingServer().running() as server:
        asyncio.get_running_loop().call_later(0.5, server.release.set)
        samples = await run_load(server.load(connections=1, rate=100, duration=0.5))
    assert {sample.error for sample in samples} == {None}
    due = list(arrivals(100, 0.5))
    stalled, *others = sorted(samples, key=lambda sample: sample.due)
    assert [sample.due for sample in (stalled, *others)] == due
    assert all(sample.sent >= stalled.ended for sample in others)
    assert (milliseconds(others) >= 1e3 * (stalled.ended - np.array(due[1:]))).all()


@pytest.mark.anyio
async def test_open_loop_sends_what_is_due_whatever_was_answered() -> None:
    """A server that owes an answer gets the next requests all the same, on other connections."""
    async with StallingServer().running() as server:
        stopping = asyncio.create_task(
            run_load(server.load(connections=50, rate=200, duration=0.3))
        )
        async with asyncio.timeout(HANGS_SECONDS):
            await server.many_came.wait()
        assert server.owes_the_first
        server.release.set()
        assert len(await stopping) == len(list(arrivals(200, 0.3)))
        assert 2 <= server.connections <= 50


@pytest.mark.anyio
async def test_closed_loop_has_one_request_a_connection() -> None:
    """Each connection asks again only once it was answered, and what was due in the warm-up is not counted."""
    async with StallingServer().running() as server:
        server.release.set()
        samples = await run_load(server.load(connections=3, rate=None, duration=0.2, warm_up=0.1))
        assert len(samples) == server.requests
        assert server.connections == 3
    report = report_on(samples, 0.2)
    assert 0 < report.requests < len(samples)
    assert report.requests == report.answered == sum(sample.due >= 0 for sample in samples)


@pytest.mark.anyio
async def test_server_that_goes_away_is_counted_and_not_hammered() -> None:
    """Refused connections are errors of their kind, and each client rests between two of them."""
    async with StallingServer().running() as server:
        load = server.load(connections=2, rate=None, duration=0.2)
    samples = await run_load(load)
    assert {sample.error for sample in samples} == {"connection refused"}
    assert len(samples) < 20


def test_arrivals_are_random_and_the_same_each_time() -> None:
    """A Poisson process: as many as the rate says, gaps as irregular as strangers', repeatable."""
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
        (200, b'{"results": [{"error": "none of ours"}, 7]}', 2, (2, None)),
        (429, b'{"code": "overloaded"}', 1, (0, "429 overloaded")),
        (503, b"<html>", 1, (0, "503 Service Unavailable")),
        (599, b"[]", 1, (0, "599 ")),
    ],
)
def test_answers_are_counted_by_status_and_code(
    status: int, body: bytes, images: int, expected: tuple[int, str | None]
) -> None:
    """An error is named by its problem code, one without by its status; an image's own error does not hide in a 200."""
    assert classify(Response(status, body), images) == expected
