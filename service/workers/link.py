"""A worker's link to the hub, and through it to the other workers."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from service.workers.connection_counts import ConnectionCounts
from service.workers.messages import Message, encode_message, open_stream, read_messages, send
from service.workers.shared_buckets import SharedBuckets

Answer = Callable[[Any], Awaitable[Any]]
logger = logging.getLogger(__name__)


class LinkClosedError(Exception):
    """The worker or the supervisor is ending."""


@dataclass(frozen=True)
class WorkerPart:
    """Identifies a process among several workers. Without a link, it is the whole service.

    Attributes:
        link: Connects it to the other workers.
        replaces_another: Whether others serve already. It then listens once its models are loaded.
        buckets: The state of rate limits, shared with the others.
        connections: The number of connections of each worker.
    """

    link: "Link | None" = None
    replaces_another: bool = False
    buckets: SharedBuckets | None = None
    connections: ConnectionCounts | None = None

    @property
    def logs_address(self) -> bool:
        """Whether this process is the one that logs where the service listens."""
        return not self.link or (self.link.number == 1 and not self.replaces_another)

    def count_connections(self, count: int) -> None:
        """Tell the others how many connections this worker has."""
        if self.link and self.connections:
            self.connections.set(self.link.number, count)

    @property
    def count(self) -> int:
        return self.link.workers if self.link else 1


class Link:
    """Use it on the event loop, after `start`.

    Attributes:
        loop: The event loop, after `start`.
        number: Number of this worker, from 1.
        workers: How many there are.
        states: The last published state of each running worker, by number.
        shared: Values that all workers share. They outlive the workers.
        answers: Functions that answer other workers, by question.
        on_states: Called after `states` has changed.
        on_shared: Called after another worker has shared a value.
    """

    def __init__(self, end: socket.socket, number: int, workers: int) -> None:
        self.number = number
        self.workers = workers
        self.states: dict[int, Message] = {}
        self.shared: dict[str, Any] = {}
        self.answers: dict[str, Answer] = {}
        self.on_states: Callable[[], None] = lambda: None
        self.on_shared: Callable[[str, Any], None] = lambda *_: None
        self._end = end
        self._ids = count()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def start(self) -> None:
        """Connect, and wait until `shared` and `states` are known."""
        self.loop = asyncio.get_running_loop()
        self._welcomed = self.loop.create_future()
        reader, self._writer = await open_stream(self._end)
        send(self._writer, {"kind": "hello"})
        self._reading = asyncio.create_task(self._read(reader))
        await self._welcomed

    async def close(self) -> None:
        self._closed = True
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self._fail_all()
        self._writer.close()

    def report_failure(self, error: Exception) -> None:
        """Tell the supervisor why this worker cannot start. Call it before `start`."""
        value = {"failure": type(error).__name__, "text": str(error)}
        self._end.sendall(encode_message({"kind": "state", "value": value}))

    def set_state(self, **state: Any) -> None:
        """Publish the state of this worker to all workers and the supervisor."""
        self.states = {**self.states, self.number: state}
        send(self._writer, {"kind": "state", "value": state})

    def send_counts(self, counts: Any) -> None:
        send(self._writer, {"kind": "counts", "value": counts})

    def share(self, key: str, value: Any) -> None:
        """Share a value with all workers, including those that start later."""
        self.shared[key] = value
        send(self._writer, {"kind": "share", "key": key, "value": value})

    async def ask(self, question: str, value: Any, timeout_seconds: float) -> list[Any]:
        """Ask all other workers. Leaves out those that end or do not answer in time.

        Raises:
            LinkClosedError: This worker is ending.
        """
        answers: list[Any] = await self._request(
            kind="ask", question=question, value=value, timeout_seconds=timeout_seconds
        )
        return answers

    @asynccontextmanager
    async def lock(self, name: str) -> AsyncIterator[None]:
        """Hold a lock that only one worker can hold. Raises LinkClosedError."""
        request = asyncio.ensure_future(self._request(kind="lock", name=name))
        try:
            await asyncio.shield(request)
        except asyncio.CancelledError:  # the lock may still be granted; then release it
            request.add_done_callback(lambda _: self._unlock(name))
            raise
        try:
            yield
        finally:
            self._unlock(name)

    def _unlock(self, name: str) -> None:
        send(self._writer, {"kind": "unlock", "name": name})

    async def _request(self, **message: Any) -> Any:
        if self._closed:
            raise LinkClosedError
        number = next(self._ids)
        answer = self._asked[number] = self.loop.create_future()
        send(self._writer, {**message, "id": number})
        return await answer

    async def _read(self, reader: asyncio.StreamReader) -> None:
        async for message in read_messages(reader):
            try:
                self._receive(message)
            except Exception:  # later messages must still be handled
                logger.exception("message not understood kind=%s", message["kind"])
        if not self._closed:
            logger.error("supervisor ended, so this worker stops")
            self._closed = True
            self._fail_all()
            os.kill(os.getpid(), signal.SIGTERM)

    def _receive(self, message: Message) -> None:
        match message["kind"]:
            case "welcome":
                self.shared = message["shared"]
                self._set_states(message["states"])
                self._welcomed.set_result(None)
            case "states":
                self._set_states(message["value"])
            case "shared":
                self.shared[message["key"]] = message["value"]
                self.on_shared(message["key"], message["value"])
            case "question":
                task = asyncio.create_task(self._answer(message))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case "answer":
                answer = self._asked.pop(message["id"])
                if not answer.done():
                    answer.set_result(message["value"])

    def _set_states(self, states: dict[str, Message]) -> None:
        own = {self.number: self.states[self.number]} if self.number in self.states else {}
        self.states = {int(number): state for number, state in states.items()} | own
        self.on_states()

    async def _answer(self, message: Message) -> None:
        value = None
        try:
            value = await self.answers[message["question"]](message["value"])
        except Exception:
            logger.exception("question not answered question=%s", message["question"])
        send(self._writer, {"kind": "reply", "id": message["id"], "value": value})

    def _fail_all(self) -> None:
        waiting = [*self._asked.values(), self._welcomed]
        for answer in waiting:
            if not answer.done():
                answer.set_exception(LinkClosedError())
        self._asked.clear()
