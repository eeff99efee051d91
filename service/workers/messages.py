"""Messages between the supervisor and a worker: one JSON object per line, over a socket pair.

Every message has a `kind`. Supervisor and workers are forks of one process, so both ends have the
same version and messages are not validated.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any, Final

import orjson

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
Message = dict[str, Any]


async def open_stream(
    end: socket.socket,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Streams over one end of a socket pair."""
    return await asyncio.open_connection(sock=end, limit=MAX_MESSAGE_BYTES)


def encode_message(message: Message) -> bytes:
    return orjson.dumps(message, option=orjson.OPT_NON_STR_KEYS) + b"\n"


def send(writer: asyncio.StreamWriter, message: Message) -> None:
    """Queue a message. It is dropped if the other end is closed; the reader detects that."""
    if not writer.is_closing():
        writer.write(encode_message(message))


async def read_messages(reader: asyncio.StreamReader) -> AsyncIterator[Message]:
    """Yield the messages of the other end until it closes."""
    try:
        while line := await reader.readline():
            yield orjson.loads(line)
    except ConnectionError:
        return
