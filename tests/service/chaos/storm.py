"""Mixed load of clients that behave well and badly. Each answer must match its image."""

import asyncio
import os
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import httpx
from colour_model import COLOURS, labels, plain
from server_process import PATIENCE_SECONDS, ServerProcess, request_head

REQUESTS: Final = 10_000 if os.environ.get("CHAOS") == "long" else 400
CLIENTS: Final = 16
PIPELINED: Final = 5
IMAGES: Final = {name: plain(name) for name in COLOURS}
BUSY: Final = {429, 503, 504}
"""Statuses of an overloaded service."""


@dataclass
class Storm:
    """Sends requests of all kinds to one server, in an order that depends on the seed only."""

    address: str
    seed: int
    answers: Counter[str] = field(default_factory=Counter)

    async def run(self, count: int) -> None:
        chance = random.Random(self.seed)
        kinds: list[Callable[[random.Random], Awaitable[None]]] = [
            self.good, self.corrupt, self.oversized, self.slow, self.abandoned, self.pipelined,
        ]  # fmt: skip
        slots = asyncio.Semaphore(CLIENTS)

        async def one(kind: Callable[[random.Random], Awaitable[None]], seed: int) -> None:
            async with slots:
                await asyncio.wait_for(kind(random.Random(seed)), PATIENCE_SECONDS)

        chosen = chance.choices(kinds, weights=[6, 3, 1, 1, 3, 2], k=count)
        async with asyncio.TaskGroup() as tasks:
            for kind in chosen:
                tasks.create_task(one(kind, chance.getrandbits(32)))

    async def good(self, chance: random.Random) -> None:
        """One connection with some images, small or large."""
        async with self.connected() as client:
            for _ in range(chance.randint(1, 3)):
                await client.predict(chance.choice(list(IMAGES)), chance.choice([0, 0, 200_000]))

    async def corrupt(self, chance: random.Random) -> None:
        """An image with damaged bytes, a cut one, or none at all."""
        damaged = bytearray(IMAGES["red"])
        for place in range(8, len(damaged), 7):
            damaged[place] = chance.randrange(256)
        cut = IMAGES["green"][: chance.randrange(1, 45)]  # within or before its pixels
        async with self.connected() as client:
            for body in (bytes(damaged), cut, b"no image"):
                await client.send(body)
                status, _ = await client.answer()
                # A decoder may accept damaged bytes, but never a part of an image.
                accepted = {200} if body == damaged else set[int]()
                assert status in {400, 413, 415} | BUSY | accepted, status
                self.answers["corrupt"] += 1

    async def oversized(self, chance: random.Random) -> None:
        """Far more bytes than are allowed, announced or chunked."""
        async with self.connected() as client:
            if chance.random() < 0.5:
                client.writer.write(request_head(Content_Length=10**9))
            else:
                chunk = b"%x\r\n%b\r\n" % (60_000, bytes(60_000))
                client.writer.write(request_head(Transfer_Encoding="chunked") + chunk * 10)
            status, _ = await client.answer()
            assert status in {413, *BUSY}, status
            self.answers["oversized"] += 1

    async def slow(self, chance: random.Random) -> None:
        """A body in pieces, with other requests in between."""
        name = chance.choice(list(IMAGES))
        body = IMAGES[name]
        async with self.connected() as client:
            client.writer.write(request_head(Content_Length=len(body)))
            for start in range(0, len(body), 16):
                client.writer.write(body[start : start + 16])
                await client.writer.drain()
                await asyncio.sleep(0)
            await client.expect(name)
            self.answers["slow"] += 1

    async def abandoned(self, chance: random.Random) -> None:
        """Leaves at any point, in order or by a reset."""
        body = IMAGES["red"] + bytes(chance.choice([0, 100_000]))
        request = request_head(Content_Length=len(body)) + body
        async with self.connected() as client:
            client.writer.write(request[: chance.randrange(1, len(request) + 1)])
            if chance.random() < 0.5:
                client.writer.transport.abort()
            self.answers["abandoned"] += 1

    async def pipelined(self, chance: random.Random) -> None:
        """Several requests at once; the answers have to come in their order."""
        names = chance.choices(list(IMAGES), k=PIPELINED)
        async with self.connected() as client:
            client.writer.write(
                b"".join(
                    request_head(Content_Length=len(IMAGES[name])) + IMAGES[name] for name in names
                )
            )
            for name in names:
                await client.expect(name)
            self.answers["pipelined"] += 1

    def connected(self) -> "Client":
        return Client(self.address, self.answers)


class Client:
    """One connection that reads answers one by one."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def __init__(self, address: str, answers: Counter[str]) -> None:
        self._url = httpx.URL(address)
        self._answers = answers

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(self._url.host, self._url.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def send(self, body: bytes) -> None:
        self.writer.write(request_head(Content_Length=len(body)) + body)
        await self.writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the next final answer."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        assert length, head
        return int(head.split()[1]), await self.reader.readexactly(int(length[1]))

    async def predict(self, name: str, padding: int = 0) -> None:
        await self.send(IMAGES[name] + bytes(padding))
        await self.expect(name)
        self._answers["good"] += 1

    async def expect(self, name: str) -> None:
        """Check that the next answer is that of this image, or that the server is busy."""
        status, body = await self.answer()
        if status == 200:
            results = httpx.Response(200, content=body).json()["results"]
            assert labels(results) == [name]
            self._answers["classified"] += 1
        else:
            assert status in BUSY, (status, body)
            self._answers["busy"] += 1


@dataclass(frozen=True)
class Resources:
    """Memory, descriptors and threads of a process, from /proc."""

    memory_kib: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, server: ServerProcess) -> "Resources":
        process = Path(f"/proc/{server.process.pid}")
        status = dict(
            line.split(":", 1) for line in (process / "status").read_text().splitlines() if line
        )
        return cls(
            memory_kib=int(status["VmRSS"].split()[0]),
            descriptors=len(list((process / "fd").iterdir())),
            threads=int(status["Threads"]),
        )
