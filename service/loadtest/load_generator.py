"""Loads a server in a closed loop (N clients) or an open loop (N requests per second).

In the closed loop each client sends its next request once it has the response. In the open loop
requests arrive as a Poisson process, which does not wait for responses. Latency counts from the
moment a request was due, not from when it could be sent, so a stall of the server counts for every
request that was due meanwhile (no coordinated omission).
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
    NoResponseError,
    Response,
    connect,
    describe_timeout,
)

PAUSE_AFTER_FAILURE_SECONDS: Final = 0.05
"""Without a pause, a closed port would be tried 10,000 times per second."""
PROGRESS_SECONDS: Final = 0.2


@dataclass(frozen=True)
class Request:
    """A complete HTTP request and the number of images in it."""

    data: bytes
    images: int


@dataclass(frozen=True)
class Load:
    """What to send where.

    With `rate` (requests per second) the loop is open, and `connections` is the most at once.
    """

    address: Address
    requests: Sequence[Request]
    connections: int
    rate: float | None
    warm_up_seconds: float
    duration_seconds: float
    timeout_seconds: float


@dataclass(slots=True)  # one per request: freezing would double the time to create it
class RequestSample:
    """One request. Times are in seconds since the end of the warm-up.

    `error` is None if every image was answered; `status` is None without a response.
    """

    due: float
    sent: float
    ended: float
    images: int
    error: str | None
    status: int | None


Samples = list[RequestSample]
ReportProgress = Callable[[float, Samples], None]
"""Called with the seconds since the end of the warm-up (negative before) and all samples so far."""


async def run_load(load: Load, report_progress: ReportProgress = lambda *_: None) -> Samples:
    """Run the load until the last request has its response or its timeout.

    Returns:
        One sample per request, including those of the warm-up.
    """
    generator = _Generator(load)
    reporting = asyncio.create_task(generator.report(report_progress))
    try:
        await (generator.run_closed() if load.rate is None else generator.run_open(load.rate))
    finally:
        reporting.cancel()
        with suppress(asyncio.CancelledError):
            await reporting
        generator.close()
    return generator.samples


def classify_response(response: Response, images: int) -> tuple[int, str | None]:
    """The number of answered images, and the kind of error if not all of them were answered."""
    if not 200 <= response.status < 300:
        code = _json_object(response.body).get("code") or _reason_phrase(response.status)
        return 0, f"{response.status} {code}"
    if b'"error"' not in response.body:
        return images, None
    # Other servers may use "error" differently, so only objects with a code count.
    results = _json_object(response.body).get("results")
    errors = (
        [result["error"] for result in results if "error" in result]
        if _is_list_of_objects(results)
        else []
    )
    codes = [error.get("code") for error in errors if isinstance(error, dict)]
    if not codes:
        return images, None
    return images - len(codes), f"{response.status}, but an image: {codes[0]}"


def arrivals(rate: float, seconds: float) -> Iterator[float]:
    """Arrival times of a Poisson process, 0 to `seconds`; the same rate gives the same times."""
    generator = np.random.default_rng(0)
    moment = 0.0
    while True:
        for gap in generator.exponential(1 / rate, 1024).tolist():
            moment += gap
            if moment >= seconds:
                return
            yield moment


class _Generator:
    """The state of one load. `samples` are in the order in which the requests ended."""

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

    async def report(self, report_progress: ReportProgress) -> None:
        while True:
            report_progress(self._now(), self.samples)
            await asyncio.sleep(PROGRESS_SECONDS)

    async def run_closed(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._load.connections):
                group.create_task(self._run_client())

    async def run_open(self, rate: float) -> None:
        load = self._load
        async with asyncio.TaskGroup() as group:
            for moment in arrivals(rate, load.warm_up_seconds + load.duration_seconds):
                due = moment - load.warm_up_seconds
                await asyncio.sleep(max(0.0, due - self._now()))
                group.create_task(self._send_next(due))

    def close(self) -> None:
        for connection in self._idle:
            connection.close()

    async def _run_client(self) -> None:
        while (due := self._now()) < self._load.duration_seconds:
            sample = await self._send_next(due)
            if sample.status is None:
                await asyncio.sleep(PAUSE_AFTER_FAILURE_SECONDS)

    async def _send_next(self, due: float) -> RequestSample:
        request = self._load.requests[self._sent % len(self._load.requests)]
        self._sent += 1
        timeout_seconds = self._load.timeout_seconds
        sample = RequestSample(due, due, due, 0, None, None)
        connection = None
        try:
            connection = await self._acquire_connection(due + timeout_seconds)
            sample.sent = self._now()
            response = await connection.send(request.data, due + timeout_seconds - sample.sent)
            sample.status = response.status
            sample.images, sample.error = classify_response(response, request.images)
        except NoResponseError as error:
            timed_out = error.kind.startswith("no answer")
            sample.error = describe_timeout(timeout_seconds) if timed_out else error.kind
        finally:
            if connection:
                self._release_connection(connection)
            else:
                sample.sent = self._now()  # it was never sent
        sample.ended = self._now()
        self.samples.append(sample)
        return sample

    async def _acquire_connection(self, deadline: float) -> Connection:
        """An idle connection, a new one below the limit, or the next one that is released."""
        while self._open >= self._load.connections and not self._idle:
            released: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(released)
            try:
                async with asyncio.timeout(max(0.0, deadline - self._now())):
                    await released
            except TimeoutError:
                kind = describe_timeout(self._load.timeout_seconds)
                raise NoResponseError(kind) from None
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
            self._count_closed()
        self._open += 1
        try:
            return await connect(self._load.address, max(0.001, deadline - self._now()))
        except BaseException:
            self._count_closed()
            raise

    def _release_connection(self, connection: Connection) -> None:
        if connection.is_open:
            self._idle.append(connection)
            self._wake_next()
        else:
            self._count_closed()

    def _count_closed(self) -> None:
        self._open -= 1
        self._wake_next()

    def _wake_next(self) -> None:
        while self._waiting:
            if not (released := self._waiting.popleft()).done():
                released.set_result(None)
                return


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def _is_list_of_objects(value: object) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _reason_phrase(status: int) -> str:
    with suppress(ValueError):
        return HTTPStatus(status).phrase
    return ""
