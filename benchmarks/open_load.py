"""Open load: requests are sent at a rate, come what may, so that a server that can not keep up is seen to be late.

As a script it prints one line of JSON, from a process of its own: what it does must not slow down who watches the server.
"""

import argparse
import asyncio
import json
import resource
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import uvloop
from workloads import Bodies

ENDED_SECONDS = 40  # how long answers are waited for after the last request
MOST_CONNECTIONS = 4000
BROKEN, UNANSWERED, UNSENT = 0, -1, -2
"""What stands for a status: the connection ended, no answer ever came, all connections that are allowed were waiting."""


@dataclass
class Opened:
    """When answers of each status (or BROKEN, UNSENT) came, and how long they took; both in seconds."""

    sent: int = 0
    came: dict[int, list[float]] = field(default_factory=dict)
    took: dict[int, list[float]] = field(default_factory=dict)

    def note(self, status: int, now: float, took: float) -> None:
        """One answer."""
        self.came.setdefault(status, []).append(now)
        self.took.setdefault(status, []).append(took)

    def rate(self, status: int, begin: float, end: float) -> float:
        """Answers a second from `begin` to `end`."""
        return sum(begin <= moment < end for moment in self.came.get(status, [])) / (end - begin)

    def milliseconds(self, status: int, quantile: float) -> float:
        """How long answers took, from when they were due to be sent."""
        return (
            1e3 * float(np.quantile(self.took[status], quantile))
            if self.took.get(status)
            else float("nan")
        )

    @property
    def counts(self) -> Counter[int]:
        """Answers by status."""
        counts = Counter({status: len(came) for status, came in self.came.items()})
        counts[UNANSWERED] = self.sent - counts.total()
        return +counts


class _Connection(asyncio.Protocol):
    """One request at a time; tells the generator of each answer."""

    def __init__(self, generator: "Generator") -> None:
        self.generator = generator
        self.due: float | None = None
        self.received = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It can be used."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is of no common class

    def send(self, request: bytes, due: float) -> None:
        """A request that was due then."""
        self.due, self.received = due, b""
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Wait for the whole answer."""
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found or self.due is None:
            return
        lowered = head.lower()
        length = int(lowered.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        due, self.due = self.due, None
        self.generator.answered(int(head[9:12]), due)
        if b"connection: close" in lowered:
            self.transport.close()
        else:
            self.generator.idle.append(self)

    def connection_lost(self, _: Exception | None) -> None:
        """Before its answer: counted as broken."""
        self.generator.lost(self)


class Generator:
    """Sends requests at random moments (Poisson), however slowly answers come, over as many connections as that takes."""

    def __init__(self, port: int, requests: Sequence[bytes], rate: float, seconds: float) -> None:
        self.port, self.requests = port, requests
        self.moments = np.cumsum(
            np.random.default_rng(0).exponential(1 / rate, round(rate * seconds))
        ).tolist()
        self.found = Opened()
        self.idle: list[_Connection] = []
        self.open = 0
        self.began = 0.0

    async def run(self) -> Opened:
        """Send all, and wait for the answers."""
        self.began = time.perf_counter()
        tasks: set[asyncio.Task[None]] = set()
        for number, due in enumerate(self.moments):
            await asyncio.sleep(max(0.0, due - self.now()))
            self.found.sent += 1
            request = self.requests[number % len(self.requests)]
            if self.idle:
                self.idle.pop().send(request, due)
            else:
                task = asyncio.create_task(self._connect_and_send(request, due))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        last = self.now()
        while self.found.counts[UNANSWERED] and self.now() - last < ENDED_SECONDS:  # noqa: ASYNC110  a look now and then is enough
            await asyncio.sleep(0.1)
        for connection in tuple(self.idle):
            connection.transport.close()
        await asyncio.sleep(0)
        return self.found

    def now(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self.began

    def answered(self, status: int, due: float) -> None:
        """An answer is whole."""
        now = self.now()
        self.found.note(status, now, now - due)

    def lost(self, connection: _Connection) -> None:
        """A connection has ended."""
        self.open -= 1
        if connection in self.idle:
            self.idle.remove(connection)
        if connection.due is not None:
            self.answered(BROKEN, connection.due)

    async def _connect_and_send(self, request: bytes, due: float) -> None:
        if self.open >= MOST_CONNECTIONS:
            self.answered(UNSENT, due)
            return
        self.open += 1
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self), "127.0.0.1", self.port
            )
        except OSError:
            self.open -= 1
            self.answered(BROKEN, due)
            return
        connection.send(request, due)


def as_request(path: str, content_type: str, body: bytes) -> bytes:
    """The bytes of a POST."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def main() -> None:
    """Load a server; what came within the first twelfth is not counted in the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("bodies", type=Path)
    parser.add_argument("content_type")
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args()
    requests = [
        as_request(given.path, given.content_type, body)
        for body in Bodies(given.bodies, given.content_type).read()
    ]
    generator = Generator(given.port, requests, given.rate, given.seconds)
    found = uvloop.run(generator.run())
    usage = resource.getrusage(resource.RUSAGE_SELF)
    begin = given.seconds / 12
    report = {
        "offered": found.sent / given.seconds,
        "cores": (usage.ru_utime + usage.ru_stime) / given.seconds,
        "counts": dict(found.counts),
        "rates": {status: found.rate(status, begin, given.seconds) for status in found.came},
        "p50": {status: found.milliseconds(status, 0.5) for status in found.came},
        "p99": {status: found.milliseconds(status, 0.99) for status in found.came},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
