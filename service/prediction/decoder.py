"""The handle of a decoder process.

Images come from untrusted clients. An image that takes too much time or memory, or crashes the
decoder, ends only a decoder process, which `decode_pool` replaces.
"""

import asyncio
import json
import logging
import os
import signal
import socket
from contextlib import suppress
from dataclasses import astuple, dataclass
from typing import Final, Self

import numpy as np

from model_store import errors as store_errors
from model_store.errors import ImageCorruptError, ImageError, ImageTooExpensiveError
from model_store.manifest import Preprocessing
from model_store.preprocessing import DecodedImage
from service.host.child_process import child_command, child_options
from service.prediction.decoder_process import (
    COST,
    COST_PAYLOAD,
    EXIT_MEMORY,
    IMAGE_ERROR,
    PIXELS,
    READY,
    REPLY,
    REQUEST,
    SIZE,
)

BASE_MEMORY_BYTES: Final = 48 * 1024 * 1024
"""Memory that a decode may use whatever the image: 4 MiB, and free blocks that malloc keeps."""
MEMORY_PER_BYTE: Final = 4
"""Bytes of memory per byte of the encoded image: the image, and copies of its parts."""
MEMORY_PER_PIXEL: Final = 16
"""Bytes of memory per pixel in the most expensive format (`test_decoder.py`)."""
MAX_CPU_SECONDS: Final = 10
"""CPU time of one image. 50 Mi pixels take up to 2 s, measured on an AMD EPYC."""
_STREAM_BYTES: Final = 1024 * 1024
_MODULE: Final = "service.prediction.decoder_process"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DecoderLimits:
    """Limits of a decoder process for one image, whatever its size."""

    max_pixels: int
    cpu_seconds: int = MAX_CPU_SECONDS


def decode_memory(pixels: int, encoded_bytes: int) -> int:
    """The bytes of memory that suffice to decode any valid image of this size."""
    return BASE_MEMORY_BYTES + pixels * MEMORY_PER_PIXEL + encoded_bytes * MEMORY_PER_BYTE


class TooCostlyError(Exception):
    """The image was not decoded, because its cost in pixels is larger than allowed.

    Attributes:
        cost: Its pixels, more with many scans.
        pixels: Its pixels, before or after the resize, whichever are more.
    """

    def __init__(self, cost: float, pixels: int) -> None:
        super().__init__(f"{pixels:,} pixels, cost {cost:,.0f}")
        self.cost = cost
        self.pixels = pixels


class DecoderStartError(Exception):
    """A decoder process could not be started."""


class Decoder:
    """Decodes one image at a time."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.returncode is not None

    @classmethod
    async def start(cls, limits: DecoderLimits) -> Self:
        """Start a process and wait until it is ready. Raises DecoderStartError."""
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *child_command(_MODULE, *astuple(limits)),
                stdin=theirs.fileno(),
                stdout=asyncio.subprocess.DEVNULL,
                **child_options(),
            )
        except BaseException as error:
            ours.close()
            if isinstance(error, OSError):
                raise DecoderStartError(error.strerror) from None
            raise
        finally:
            theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours, limit=_STREAM_BYTES)
        decoder = cls(process, reader, writer)
        try:
            kind, _ = await decoder._receive()
        except EOFError:
            raise DecoderStartError(f"exit code {await decoder.end()}") from None
        except asyncio.CancelledError:
            await asyncio.shield(decoder.end())
            raise
        if kind != READY:
            raise DecoderStartError(f"it sent {kind} instead of {READY}")
        return decoder

    async def decode(
        self, image: bytes, spec: Preprocessing, max_cost: float, memory_bytes: int
    ) -> DecodedImage:
        """Decode an image if it costs at most `max_cost` pixels.

        The process may use `memory_bytes` more than when it was idle. After a cancelled call, it
        cannot be used again: call `end`.

        Raises:
            ImageError: The image cannot be decoded.
            TooCostlyError: It costs more; it was not decoded.
            EOFError: The process has ended.
        """
        encoded_spec = spec.model_dump_json().encode()
        head = REQUEST.pack(len(encoded_spec), len(image), max_cost, memory_bytes)
        self._writer.write(head + encoded_spec)
        self._writer.write(image)
        kind, payload = await self._receive()
        shape = (spec.crop_height, spec.crop_width, 3)
        if kind == PIXELS:
            pixels = np.frombuffer(payload, np.uint8, offset=SIZE.size).reshape(shape)
            return DecodedImage(pixels, SIZE.unpack_from(payload))
        if kind == COST:
            raise TooCostlyError(*COST_PAYLOAD.unpack(payload))
        if kind == IMAGE_ERROR:
            name, detail = json.loads(payload)
            raise getattr(store_errors, name)(detail)
        raise RuntimeError(payload.decode(errors="replace"))

    async def end(self) -> int:
        """Kill the process. Returns its exit code, which is negative for a signal."""
        self._writer.transport.abort()
        if not self.ended:
            # `Process.kill` would reap a process that has just ended, and lose its exit code.
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        return await self._process.wait()

    async def _receive(self) -> tuple[int, bytes]:
        try:
            kind, length = REPLY.unpack(await self._reader.readexactly(REPLY.size))
            return kind, await self._reader.readexactly(length)
        except OSError:  # the connection was reset
            raise EOFError from None


def death_error(exit_code: int) -> ImageError:
    """The error of an image whose decoder process ended with this exit code."""
    if exit_code == -signal.SIGXCPU:
        return ImageTooExpensiveError("decoding the image takes too much CPU time")
    if exit_code in {EXIT_MEMORY, -signal.SIGKILL}:  # SIGKILL: out of memory
        return ImageTooExpensiveError("decoding the image takes too much memory")
    logger.warning("decoder crashed exit_code=%d", exit_code)
    return ImageCorruptError(f"the decoder crashed at this image (exit code {exit_code})")
