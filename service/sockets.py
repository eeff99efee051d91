"""Open the sockets that the server listens on: TCP for one or both families, or a Unix socket."""

import ctypes
import errno
import os
import socket
import stat
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

ANY_IPV6: Final = "::"
ANY_IPV4: Final = "0.0.0.0"  # noqa: S104  listening on it is the user's choice
BACKLOG: Final = 2048  # uvicorn's default
_SO_ATTACH_FILTER: Final = 26
_DROP_SYN: Final = (  # classic BPF (kernel.org/doc/html/latest/networking/filter.html)
    (0x30, 0, 0, 13),  # load the byte of the TCP header that has its flags
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # if only SYN is set,
    (0x06, 0, 0, 0),  # drop the packet,
    (0x06, 0, 0, 0xFFFF_FFFF),  # else accept all of it
)
_MISSING_FAMILY: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class ListenError(Exception):
    """The server cannot listen; the message says where, why and what to do."""


def listen(host: str, port: int, uds: Path | None) -> list[socket.socket]:
    """Listen on the Unix socket `uds` if it is given, otherwise on `host` and `port`.

    The caller removes the file of a Unix socket at the end.

    Raises:
        ListenError: The address is in use, or cannot be used.
    """
    return [_listen_unix(uds)] if uds else _listen_tcp(host, port)


def check_can_listen(host: str, port: int) -> None:
    """Check an address on which gRPC will listen. Raises ListenError."""
    try:
        listeners = _listen_tcp(host, port)
    except ListenError as error:
        reason = str(error).partition(";")[0]
        raise ListenError(f"{reason}; choose another --grpc-port (SERVICE_GRPC_PORT)") from None
    for listener in listeners:
        listener.close()


def reserve_port(host: str, port: int) -> socket.socket:
    """Bind a port, 0 for any, without listening: several processes are going to share it.

    Raises:
        ListenError: The address is in use, or cannot be used.
    """
    check_can_listen(host, port)
    family, address = _addresses(host, port)[0]
    reserved = socket.socket(family, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        reserved.bind((address, port))
    except OSError as error:
        reserved.close()
        raise ListenError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another --grpc-port "
            "(SERVICE_GRPC_PORT)"
        ) from None
    return reserved


def ignore_new_clients(listener: socket.socket) -> None:
    """Drop the first packet (SYN) of every new client, for all processes that share the listener.

    Otherwise a client could connect between the last `accept` and `close`, and would be reset. On
    other systems than Linux this does nothing.
    """
    if sys.platform == "linux" and listener.family != socket.AF_UNIX:
        program = ctypes.create_string_buffer(
            b"".join(struct.pack("HBBI", *each) for each in _DROP_SYN)
        )
        filter_ = struct.pack("HP", len(_DROP_SYN), ctypes.addressof(program))
        with suppress(OSError):  # a sandbox may forbid it; such a client is then reset
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)


def accept_waiting(listener: socket.socket) -> list[socket.socket]:
    """Accept the clients whose connection is complete. Closing the listener would reset them."""
    listener.settimeout(0)
    connections = []
    with suppress(OSError):  # BlockingIOError: none is left
        while True:
            connections.append(listener.accept()[0])
    return connections


def _listen_tcp(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of a host that this machine has; on both families for `::`."""
    listeners: list[socket.socket] = []
    failure: OSError | None = None
    for family, address in _addresses(host, port):
        try:
            listeners.append(_tcp_listener(family, address, port))
        except OSError as error:
            failure = error
            if error.errno not in _MISSING_FAMILY:
                break
        else:
            port = port or listeners[0].getsockname()[1]
    if listeners and (failure is None or failure.errno in _MISSING_FAMILY):
        return listeners
    for listener in listeners:
        listener.close()
    raise ListenError(
        f"cannot listen on {host} port {port}: {failure and failure.strerror}; "
        "choose another --host or --port (SERVICE_HOST, SERVICE_PORT)"
    )


def _addresses(host: str, port: int) -> list[tuple[int, str]]:
    if host == ANY_IPV6:
        return [(socket.AF_INET6, ANY_IPV6), (socket.AF_INET, ANY_IPV4)]
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise ListenError(
            f"cannot listen on {host!r}: {error}; expected an address or a name of this machine "
            "as --host (SERVICE_HOST)"
        ) from None
    return list(dict.fromkeys((int(family), str(address[0])) for family, *_, address in found))


def _tcp_listener(family: int, address: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Each family has its own socket: proxies are trusted, and clients logged, by addresses
            # that one socket for both would show as ::ffff:127.0.0.1.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _listen_unix(path: Path) -> socket.socket:
    _remove_unused(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o666)  # as uvicorn: the mode of the directory restricts who may connect
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ListenError(
            f"cannot listen on {path}: {error.strerror or error}; expected the path of a new file "
            "as --uds (SERVICE_UDS)"
        ) from None
    return listener


def _remove_unused(path: Path) -> None:
    """Remove the socket that a killed server has left behind."""
    with suppress(OSError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            try:
                client.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
