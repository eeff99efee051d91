"""A gRPC client that sends parts of messages: a connection of HTTP/2 frames, written by hand."""

import socket
import struct
import threading
from contextlib import suppress
from typing import Self

from server_process import PATIENCE_SECONDS

DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 4, 6, 8
END_HEADERS, ACK = 4, 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_BYTES = 16_384


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name: str, value: str) -> bytes:
    """A header without compression (RFC 7541, 6.2.2). Both are shorter than 127 bytes."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


class SlowGrpcClient:
    """Starts calls whose messages never end. `sent` counts the bytes the server let through."""

    def __init__(self, port: int) -> None:
        self._connection = socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)
        self._windows = {0: 65_535}
        self._frame_bytes = 65_535
        self._changed = threading.Condition()
        self.sent = 0
        self.ended: set[int] = set()
        """Streams that the server has answered or reset."""
        self._connection.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()

    def start(self, stream: int, path: str) -> None:
        """Send the head of a call; the ids of streams are odd and increase."""
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "test",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        block = b"".join(literal(name, value) for name, value in headers.items())
        with self._changed:
            self._windows[stream] = self._frame_bytes
        self._connection.sendall(frame(HEADERS, END_HEADERS, stream, block))

    def send_part(self, stream: int, length: int, sent: int, patience: float) -> None:
        """Send at most `sent` bytes of a message of `length` bytes: as many as the server takes."""
        rest = struct.pack(">BI", 0, length) + bytes(sent)
        while rest:
            with self._changed:
                if not self._changed.wait_for(lambda: self._window(stream) > 0, patience):
                    return
                size = min(self._window(stream), FRAME_BYTES, len(rest))
                self._windows[0] -= size
                self._windows[stream] -= size
                self.sent += size
            self._connection.sendall(frame(DATA, 0, stream, rest[:size]))
            rest = rest[size:]

    def wait_for_end(self, stream: int) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: stream in self.ended, PATIENCE_SECONDS)

    def _window(self, stream: int) -> int:
        return min(self._windows[0], self._windows[stream])

    def _read(self) -> None:
        with suppress(ConnectionError), self._connection.makefile("rb") as file:
            while head := file.read(9):
                kind, flags, stream = struct.unpack(">BBI", head[3:])
                payload = file.read(int.from_bytes(head[:3], "big"))
                with self._changed:
                    self._handle(kind, flags, stream, payload)
                    self._changed.notify_all()

    def _handle(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE and stream in self._windows:
            self._windows[stream] += int.from_bytes(payload, "big")
        elif kind == SETTINGS and not flags & ACK:
            for position in range(0, len(payload), 6):
                name, value = struct.unpack_from(">HI", payload, position)
                if name == 4:  # the initial window of a stream
                    for each in self._windows.keys() - {0}:
                        self._windows[each] += value - self._frame_bytes
                    self._frame_bytes = value
            self._connection.sendall(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self._connection.sendall(frame(PING, ACK, 0, payload))
        elif kind in {1, 3}:
            self.ended.add(stream)
