"""`python -I -S service/healthcheck.py`: exit code 0 if the service in this container is ready.

It requests `/health/ready` from `SERVICE_HOST` and `SERVICE_PORT` (or `PORT`), or from
`SERVICE_UDS` if that is set, with TLS if `SERVICE_SSL_CERTFILE` is set. It runs every few seconds,
so it imports as little as possible: `http.client` alone would double its CPU time.
"""

import os
import socket
import sys

TIMEOUT_SECONDS = 2
MAX_BYTES = 65536
REQUEST = b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_REACHABLE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  not bound


def connect() -> socket.socket:
    """Connect to the service of this container. Raises OSError."""
    if uds := os.environ.get("SERVICE_UDS"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(uds)
        return connection
    host = os.environ.get("SERVICE_HOST", "127.0.0.1")
    port = int(os.environ.get("SERVICE_PORT") or os.environ.get("PORT") or "8000")
    return socket.create_connection((_REACHABLE.get(host, host), port), TIMEOUT_SECONDS)


def encrypt(connection: socket.socket) -> socket.socket:
    """Use TLS if the service does. Its certificate need not be for this address."""
    if not os.environ.get("SERVICE_SSL_CERTFILE"):
        return connection
    import ssl  # noqa: PLC0415  it takes longer than all the rest

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(connection)


def read_response(connection: socket.socket) -> tuple[str, str]:
    """Read a response to its end and return its status and its body. Raises OSError."""
    response = b""
    while len(response) < MAX_BYTES and (part := connection.recv(MAX_BYTES)):
        response += part
    head, _, body = response.decode(errors="replace").partition("\r\n\r\n")
    return head.partition(" ")[2][:3], body.strip()


def main() -> None:
    """Request /health/ready; exit with code 1 and a reason unless it is 200."""
    try:
        with encrypt(connect()) as connection:
            connection.sendall(REQUEST)
            status, body = read_response(connection)
    except OSError as error:
        sys.exit(f"not ready: {error}")
    if status != "200":
        sys.exit(f"not ready: {status} {body}")


if __name__ == "__main__":
    main()
