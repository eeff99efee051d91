"""A transport that a client cannot hold open, and that closes without losing a response."""

import asyncio
from typing import Final

MAX_DISCARDED_BYTES: Final = 64 * 1024 * 1024
"""Bytes that a client may send after its response before the connection is reset."""
_PROGRESS_BYTES: Final = 64 * 1024


class BoundedTransport(asyncio.Transport):
    """Wraps the transport of one connection.

    The system resets a connection that is closed while it has unread bytes, and the client loses
    the response. So while a client is still sending, `close()` ends only the output. It discards
    what arrives, for at most `timeout_seconds` and `MAX_DISCARDED_BYTES`.

    A client is disconnected if it reads less than 64 KiB in `timeout_seconds` while output waits.

    Attributes:
        receiving: Whether a request has started to arrive but is incomplete.
    """

    receiving = False
    _closing = False
    _discarded_bytes = 0
    _close_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _unsent_bytes = 0

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        timeout_seconds: float,
    ) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._timeout_seconds = timeout_seconds
        for name in (
            "write",
            "abort",
            "can_write_eof",
            "get_extra_info",
            "pause_reading",
            "resume_reading",
        ):
            setattr(self, name, getattr(transport, name))  # cheaper than methods that delegate

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    def close(self, linger_seconds: float | None = None) -> None:
        """Close once all output is sent. An incomplete request is received and discarded first.

        Args:
            linger_seconds: Most time for that, instead of `timeout_seconds`.
        """
        if self._closing:
            return
        if not self.receiving:
            self.close_now()
            return
        self._closing = True
        if self._transport.can_write_eof():  # TLS cannot
            self._transport.write_eof()
        self._transport.resume_reading()
        seconds = self._timeout_seconds if linger_seconds is None else linger_seconds
        self._close_timer = self._loop.call_later(seconds, self._transport.abort)

    def close_now(self) -> None:
        """Close once all output is sent, even if a request is still arriving."""
        self._closing = True
        self._transport.close()
        if self._transport.get_write_buffer_size() and self._close_timer is None:
            self._close_timer = self._loop.call_later(self._timeout_seconds, self._transport.abort)

    def discard(self, count: int) -> None:
        """Count bytes that arrived after `close()`."""
        self._discarded_bytes += count
        if self._discarded_bytes > MAX_DISCARDED_BYTES:
            self._transport.abort()

    def start_write_timer(self) -> None:
        """Abort the connection unless its output progresses."""
        self._unsent_bytes = self._transport.get_write_buffer_size()
        self._write_timer = self._loop.call_later(self._timeout_seconds, self._check_progress)

    def stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def mark_lost(self) -> None:
        self._closing = True
        self.stop_write_timer()
        if self._close_timer is not None:
            self._close_timer.cancel()

    def _check_progress(self) -> None:
        if self._transport.get_write_buffer_size() > self._unsent_bytes - _PROGRESS_BYTES:
            self._transport.abort()
        else:
            self.start_write_timer()
