"""Load on a server: closed (so many connections, each asks again once it has its answer) or open (so many requests a second).

In the open loop arrivals are a Poisson process that waits for nothing, and latency counts from the moment at which a request was
due, not from when it could be sent: a server that stalls is charged with everyone who came meanwhile (no coordinated omission).
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeGuard

import numpy as np
import orjson

from service.loadtest.connection import (
    Address,
    Connection,
    ConnectionFailedError,
    Response,
    connect,
    timed_out,
)

PAUSE_AFTER_FAILURE_SECONDS: Final = (
    0.05  # a port that refuses would else be asked 10,000 times a second
)
PROGRESS_SECONDS: Final = 0.2


@dataclass(frozen=True)
class Request:
    """A whole HTTP request, and how many images it holds."""

    data: bytes
    images: int


@dataclass(frozen=True)
class Load:
    """What to do to whom. With `rate` (requests a second) the loop is open, and `connections` the most at once."""

    address: Address
    requests: Sequence[Request]
    connections: int
    rate: float | None
    warm_up_seconds: float
    duration_seconds: float
    timeout_seconds: float


@dataclass(slots=True)  # one a request: freezing would double the time to make it
class RequestSample:
    """One request, its times in seconds since the warm-up's end. `error` is None where every image was answered."""

    due: float
    sent: float
    ended: float
    images: int
    error: str | None
    status: int | None


Samples = list[RequestSample]
Report = Callable[[float, Samples], None]
"""Is told the seconds since the warm-up's end (negative in it), and everything so far."""


async def run_load(load: Load, report: Report = lambda *_: None) -> Samples:
    """Do it, and return every request, the warm-up's too; ends when the last one has its answer or its time-out."""
    generator = _Generator(load)
    reporting = asyncio.create_task(generator.report(report))
    try:
        await (generator.run_closed() if load.rate is None else generator.run_open(load.rate))
    finally:
        reporting.cancel()
        with suppress(asyncio.CancelledError):
            await reporting
        generator.close()
    return generator.samples


def classify(response: Response, images: int) -> tuple[int, str | None]:
    """How many images were answered, and what to count the request by where that is not all of them."""
    if 200 <= response.status < 300:
        if b'"error"' not in response.body:
            return images, None
        results = _json(response.body).get("results")  # other servers may mean something else by it
        errors = (
            [result["error"] for result in results if "error" in result]
            if _is_list_of_objects(results)
            else []
        )
        codes = [error.get("code") for error in errors if isinstance(error, dict)]
        return (
            (images - len(codes), f"{response.status}, but an image: {codes[0]}")
            if codes
            else (images, None)
        )
    return 0, f"{response.status} {_json(response.body).get('code') or _phrase(response.status)}"


def arrivals(rate: float, seconds: float) -> Iterator[float]:
    """The moments of a Poisson process within so many seconds: the same for the same rate."""
    generator = np.random.default_rng(0)
    moment = 0.0
    while True:
        for gap in generator.exponential(1 / rate, 1024).tolist():
            moment += gap
            if moment >= seconds:
                return
            yield moment


class _Generator:
    """The state of one load. `samples` are in the order of their ends."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._began = time.perf_counter() + load.warm_up_seconds
        self._sent = 0
        self._idle: list[Connection] = []
        self._open = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.samples: Samples = []

    def _now(self) -> float:
        return time.perf_counter() - self._began

    async def report(self, report: Report) -> None:
        while True:
            report(self._now(), self.samples)
            await asyncio.sleep(PROGRESS_SECONDS)

    async def run_closed(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._load.connections):
                group.create_task(self._ask_again_and_again())

    async def run_open(self, rate: float) -> None:
        load = self._load
        async with asyncio.TaskGroup() as group:
            for moment in arrivals(rate, load.warm_up_seconds + load.duration_seconds):
                due = moment - load.warm_up_seconds
                await asyncio.sleep(max(0.0, due - self._now()))
                group.create_task(self._ask(due))

    def close(self) -> None:
        for connection in self._idle:
            connection.close()

    async def _ask_again_and_again(self) -> None:
        while (due := self._now()) < self._load.duration_seconds:
            sample = await self._ask(due)
            if sample.status is None:
                await asyncio.sleep(PAUSE_AFTER_FAILURE_SECONDS)

    async def _ask(self, due: float) -> RequestSample:
        request = self._load.requests[self._sent % len(self._load.requests)]
        self._sent += 1
        sample = RequestSample(due, due, due, 0, None, None)
        connection = None
        try:
            connection = await self._take(due + self._load.timeout_seconds)
            sample.sent = self._now()
            response = await connection.ask(
                request.data, due + self._load.timeout_seconds - sample.sent
            )
            sample.status = response.status
            sample.images, sample.error = classify(response, request.images)
        except ConnectionFailedError as error:
            sample.error = (
                timed_out(self._load.timeout_seconds)
                if error.kind.startswith("no answer")
                else error.kind
            )
        finally:
            if connection:
                self._give_back(connection)
            else:
                sample.sent = self._now()  # it never was
        sample.ended = self._now()
        self.samples.append(sample)
        return sample

    async def _take(self, deadline: float) -> Connection:
        """An idle connection, else a new one while there are fewer than allowed, else the next that is given back."""
        while self._open >= self._load.connections and not self._idle:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                async with asyncio.timeout(max(0.0, deadline - self._now())):
                    await turn
            except TimeoutError:
                raise ConnectionFailedError(timed_out(self._load.timeout_seconds)) from None
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
            self._forget()
        self._open += 1
        try:
            return await connect(self._load.address, max(0.001, deadline - self._now()))
        except BaseException:
            self._forget()
            raise

    def _give_back(self, connection: Connection) -> None:
        if connection.is_open:
            self._idle.append(connection)
            self._wake()
        else:
            self._forget()

    def _forget(self) -> None:
        self._open -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            if not (turn := self._waiting.popleft()).done():
                turn.set_result(None)
                return


def _json(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def _is_list_of_objects(value: object) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _phrase(status: int) -> str:
    with suppress(ValueError):
        return HTTPStatus(status).phrase
    return ""
