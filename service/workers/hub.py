"""The hub: passes messages between the workers of a service. It runs in the supervisor."""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from service.workers.messages import Message, encode_message, open_stream, read_messages, send

COUNTS: Final = "counts"
"""Asks a worker for its counts. The hub keeps the counts of workers that ended."""
SILENT_SECONDS: Final = 10.0
"""A worker sends its counts every second. If it sends nothing for this long, it hangs."""
logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Member:
    """A running worker.

    Attributes:
        number: From 1. A worker that replaces another one has its number.
        writer: Where messages to it are written.
        state: The last state that it published.
        counts: The last counts that it sent.
        heard_at: When it last sent a message, on the clock of the event loop.
        replies: Questions that it has not answered yet.
    """

    number: int
    writer: asyncio.StreamWriter
    state: Message = field(default_factory=dict)
    counts: Any = None
    heard_at: float = 0.0
    replies: dict[int, asyncio.Future[Any]] = field(default_factory=dict)


class Hub:
    """Passes questions to all workers, and keeps locks and shared values.

    Attributes:
        states: The last published state of each worker, by number.
        on_state: Called after a worker has published its state.
    """

    def __init__(self, retire_counts: Callable[[Any, Any], Any]) -> None:
        """Create a hub without workers.

        Args:
            retire_counts: Called with the sum of ended workers (None at first) and the counts of a
                worker that has just ended; returns the new sum.
        """
        self.on_state: Callable[[int, Message], None] = lambda *_: None
        self._retire_counts = retire_counts
        self._retired: Any = None
        self._members: dict[int, Member] = {}
        self._shared: dict[str, Any] = {}
        self._locks: dict[str, deque[tuple[Member, int]]] = {}
        """Worker and message id of each request for a lock. The first request holds it."""
        self._questions = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, number: int, end: socket.socket) -> None:
        """Pass the messages of one worker on until it has ended."""
        reader, writer = await open_stream(end)
        member = Member(number, writer)
        try:
            async for message in read_messages(reader):
                self._receive(member, message)
        finally:
            writer.close()
            self._remove(member)

    @property
    def states(self) -> dict[int, Message]:
        return {number: member.state for number, member in self._members.items()}

    def _receive(self, member: Member, message: Message) -> None:
        member.heard_at = asyncio.get_running_loop().time()
        match message["kind"]:
            # Write only after this: writing to a worker that has ended loses its last messages.
            case "hello":
                self._members[member.number] = member
                welcome = {"kind": "welcome", "shared": self._shared, "states": self.states}
                send(member.writer, welcome)
            case "state":
                member.state = message["value"]
                self._broadcast_states()
                self.on_state(member.number, member.state)
            case "share":
                self._shared[message["key"]] = message["value"]
                self._broadcast({**message, "kind": "shared"}, besides=member)
            case "lock":
                self._lock(member, message["name"], message["id"])
            case "unlock":
                self._unlock(message["name"])
            case "ask":
                task = asyncio.create_task(self._ask(member, message))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case "reply":
                reply = member.replies.pop(message["id"], None)
                if reply and not reply.done():
                    reply.set_result(message["value"])
            case "counts":
                member.counts = message["value"]

    def _remove(self, member: Member) -> None:
        if self._members.get(member.number) is not member:
            return  # it ended before it said hello
        del self._members[member.number]
        if member.counts is not None:
            self._retired = self._retire_counts(self._retired, member.counts)
        for reply in member.replies.values():
            if not reply.done():
                reply.set_result(None)
        for name in list(self._locks):
            waiting = self._locks[name]
            holder = waiting[0]
            self._locks[name] = deque(each for each in waiting if each[0] is not member)
            self._grant(name, holder)
        self._broadcast_states()

    def _lock(self, member: Member, name: str, message_id: int) -> None:
        waiting = self._locks.setdefault(name, deque())
        waiting.append((member, message_id))
        if len(waiting) == 1:
            send(member.writer, {"kind": "answer", "id": message_id, "value": None})

    def _unlock(self, name: str) -> None:
        holder = self._locks[name].popleft()
        self._grant(name, holder)

    def _grant(self, name: str, holder_before: tuple[Member, int]) -> None:
        """Give a lock to the first one that waits, unless it holds the lock already."""
        waiting = self._locks[name]
        if not waiting:
            del self._locks[name]
        elif waiting[0] is not holder_before:
            member, message_id = waiting[0]
            send(member.writer, {"kind": "answer", "id": message_id, "value": None})

    async def _ask(self, asker: Member, message: Message) -> None:
        """Ask all other workers, and send their answers together."""
        others = [member for member in self._members.values() if member is not asker]
        if message["question"] == COUNTS:
            others = [member for member in others if member.state]  # it has started to answer
        answers = await asyncio.gather(*(self._ask_one(member, message) for member in others))
        if message["question"] == COUNTS:
            answers = [*answers, self._retired]
        value = [answer for answer in answers if answer is not None]
        send(asker.writer, {"kind": "answer", "id": message["id"], "value": value})

    async def _ask_one(self, member: Member, message: Message) -> Any:
        """The answer of one worker; None if it ended or did not answer in time."""
        self._questions += 1
        number = self._questions
        reply = member.replies[number] = asyncio.get_running_loop().create_future()
        send(member.writer, {**message, "kind": "question", "id": number})
        answer = None
        try:
            answer = await _wait_for_reply(member, reply, message["timeout_seconds"])
        except TimeoutError:
            logger.warning(
                "worker not answering worker=%d question=%s", member.number, message["question"]
            )
        finally:
            member.replies.pop(number, None)
        if message["question"] != COUNTS:
            return answer
        if member.number not in self._members or self._members[member.number] is not member:
            return None  # it ended, so its counts are among the retired ones
        member.counts = member.counts if answer is None else answer
        return member.counts

    def _broadcast_states(self) -> None:
        self._broadcast({"kind": "states", "value": self.states})

    def _broadcast(self, message: Message, besides: Member | None = None) -> None:
        data = encode_message(message)
        for member in self._members.values():
            if member is not besides and not member.writer.is_closing():
                member.writer.write(data)


async def _wait_for_reply(
    member: Member, reply: asyncio.Future[Any], timeout_seconds: float
) -> Any:
    """Wait while the worker runs. Raises TimeoutError."""
    loop = asyncio.get_running_loop()
    asked_at = loop.time()
    while not reply.done():
        silent_at = max(asked_at, member.heard_at) + SILENT_SECONDS
        seconds = min(asked_at + timeout_seconds, silent_at) - loop.time()
        if seconds <= 0:
            raise TimeoutError
        await asyncio.wait([reply], timeout=seconds)
    return reply.result()
