"""The real server as a process: started on a free port, observed by its output and signalled."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Self

import httpx

REPOSITORY = Path(__file__).resolve().parents[1]
ENVIRONMENT = {
    "PYTHONPATH": str(REPOSITORY),
    "PYTHONWARNINGS": "default",
    "XDG_CONFIG_HOME": str(REPOSITORY / "no-config"),  # no keys of the person who runs the tests
}
SERVE = (sys.executable, "-m", "service")
PATIENCE_SECONDS = 60  # when what a test waits for never comes; no test measures a time


class Output:
    """The lines a process has printed so far."""

    def __init__(self, stream: IO[str]) -> None:
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                with self._changed:
                    self._lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def text(self) -> str:
        with self._changed:
            return "\n".join(self._lines)

    def wait_for(self, pattern: str, timeout: float = PATIENCE_SECONDS) -> re.Match[str] | None:
        """The first match in the output, or None if the output ends or the time is up."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._search(pattern), timeout)
            return self._search(pattern)

    def wait_for_end(self) -> str:
        """The whole output, once the process has closed it."""
        self._thread.join(PATIENCE_SECONDS)
        return self.text

    def _search(self, pattern: str) -> re.Match[str] | None:
        return re.search(pattern, "\n".join(self._lines), re.MULTILINE)


def _default_model(arguments: tuple[object, ...]) -> dict[str, str]:
    """Without built-in models, the published model of the tests answers /v1/predict."""
    return {"SERVICE_DEFAULT_MODEL": "colours"} if "--no-builtin" in arguments else {}


class ServerProcess:
    """`python -m service --port 0 …`. `address` is the one that the server printed."""

    def __init__(
        self,
        *arguments: object,
        cwd: Path = REPOSITORY,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = SERVE,
    ) -> None:
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith("SERVICE_")
        }
        self.process = subprocess.Popen(
            [*command, *map(str, arguments)],
            cwd=cwd,
            env=clean | ENVIRONMENT | _default_model(arguments) | dict(environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        assert self.process.stderr
        self.stdout = Output(self.process.stdout)
        self.stderr = Output(self.process.stderr)
        self.address = ""

    def announced(self) -> Self:
        """Wait until the server has printed its address, which it does after loading its models."""
        match = self.stdout.wait_for(r"^Resident \S+ on (https?://\S+)$")
        assert match, f"stdout: {self.stdout.text}\nstderr: {self.stderr.text}"
        assert self.stdout.wait_for(r"^  docs   https?://\S+/docs$"), self.stdout.text
        self.address = match[1]
        return self

    def listening(self) -> Self:
        """Wait until the port is open, whether or not the models are loaded."""
        match = self.stderr.wait_for(r"Uvicorn running on (https?://\S+) ")
        assert match, self.stderr.text
        self.address = match[1]
        return self

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=PATIENCE_SECONDS, trust_env=False)

    def connect(self) -> socket.socket:
        """A raw connection, for requests that no client library sends."""
        url = httpx.URL(self.address)
        return socket.create_connection((url.host, url.port or 80), PATIENCE_SECONDS)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the process to end, with complete output, and return its exit code."""
        try:
            code = self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self.stdout.wait_for_end()
        self.stderr.wait_for_end()
        return code


@contextmanager
def running(
    *arguments: object,
    cwd: Path = REPOSITORY,
    environment: Mapping[str, str] | None = None,
    command: Sequence[str] = SERVE,
) -> Iterator[ServerProcess]:
    """A server process on a free port that always ends with the block."""
    server = ServerProcess(
        "--port", 0, *arguments, cwd=cwd, environment=environment, command=command
    )
    try:
        yield server
    finally:
        server.end()


def request_head(path: str = "/v1/predict", **headers: object) -> bytes:
    """The head of a POST request."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def read_response(connection: socket.socket) -> httpx.Response:
    """Read one final response from a raw connection."""
    file = connection.makefile("rb")
    status_line = file.readline().decode()
    assert status_line, "the server closed the connection without an answer"
    headers = []
    while line := file.readline().decode().rstrip("\r\n"):
        name, _, value = line.partition(":")
        headers.append((name, value.strip()))
    length = int({name.lower(): value for name, value in headers}.get("content-length", 0))
    return httpx.Response(int(status_line.split()[1]), headers=headers, content=file.read(length))
