"""`python -m service.healthcheck`: exit code 0 if the service in this container is ready.

It connects to `SERVICE_HOST` and `SERVICE_PORT` (or `PORT`), or to `SERVICE_UDS` if that is set. It
runs every few seconds, so it imports little.
"""

import os
import socket
import sys
from http.client import HTTPConnection, HTTPException
from typing import Final

TIMEOUT_SECONDS: Final = 2
OK: Final = 200
_REACHABLE: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  not bound


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def main() -> None:
    """Request /health/ready; exit with code 1 and a reason unless it is 200."""
    if uds := os.environ.get("SERVICE_UDS"):
        connection: HTTPConnection = _UnixConnection(uds)
    else:
        host = os.environ.get("SERVICE_HOST", "127.0.0.1")
        port = int(os.environ.get("SERVICE_PORT") or os.environ.get("PORT") or "8000")
        connection = HTTPConnection(_REACHABLE.get(host, host), port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/health/ready")
        response = connection.getresponse()
        answer = response.read().decode(errors="replace").strip()
    except (OSError, HTTPException) as error:
        sys.exit(f"not ready: {error}")
    if response.status != OK:
        sys.exit(f"not ready: {response.status} {answer}")


if __name__ == "__main__":
    main()
