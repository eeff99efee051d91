"""Measures latency and memory during hot reloads, and while another model is loaded.

A real server serves two versions of the built-in model to clients on raw sockets on the same cores.
First `production` switches between the versions: every answer but a 200 is a failure, and memory
is read after each switch. Then ResNet-50 is added to the store and removed again: latency while it
loads is compared with the latency before.
"""

import asyncio
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from machine import ROOT, free_port, resident_megabytes
from options import Options
from results import table, write_section
from workloads import resnet50

from model_store.store import BUILTIN_DEFAULT_MODEL, BUILTIN_ROOT, ModelStore

MODEL = BUILTIN_DEFAULT_MODEL
POLL_SECONDS = 0.05
CONNECTIONS = 16
LOADS = 5
QUIET_SECONDS = 5.0
Row = tuple[str, str]


@dataclass
class Clients:
    """Clients that send requests without a pause, and the results."""

    port: int
    image: bytes
    latencies: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    version: int = 0
    stopping: bool = False

    async def call(self) -> None:
        """Send requests on one connection; anything but a 200 is a failure."""
        head = (
            f"POST /v1/predict HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(self.image)}\r\n\r\n"
        )
        request = head.encode() + self.image
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        while not self.stopping:
            began = time.perf_counter()
            writer.write(request)
            try:
                answer = await reader.readuntil(b"\r\n\r\n")
                length = int(answer.lower().partition(b"content-length:")[2].split(b"\r", 1)[0])
                body = await reader.readexactly(length)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.failures.append(repr(error))
                return
            self.latencies.append(time.perf_counter() - began)
            if answer.startswith(b"HTTP/1.1 200 "):
                self.version = json.loads(body)["version"]
            else:
                self.failures.append(body.decode())
        writer.close()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds, or a request failed."""
        while not condition() and not self.failures:  # noqa: ASYNC110  polling is fine here
            await asyncio.sleep(0.002)

    @contextmanager
    def window(self) -> Iterator[list[float]]:
        """Yield a list that receives the latencies of this block when the block ends."""
        first, latencies = len(self.latencies), []  # type: int, list[float]
        yield latencies
        latencies += self.latencies[first:]


async def reload_often(
    clients: Clients, store: ModelStore, pid: int, reloads: int, requests: int
) -> list[float]:
    """Switch `production` between both versions. Returns the memory in MB after each switch."""
    memory = []
    for number in range(1, reloads + 1):
        target = 1 + number % 2
        await asyncio.to_thread(store.promote, MODEL, target)
        enough = requests * number // reloads
        await clients.until(
            lambda: clients.version == target and len(clients.latencies) >= enough  # noqa: B023
        )
        memory.append(resident_megabytes(pid))
    return memory


async def load_meanwhile(
    clients: Clients, root: Path, large: Path, times: int
) -> tuple[list[float], list[float], list[float]]:
    """Latencies before and during loads of `large`, and the duration of each load, in seconds."""
    quiet, meanwhile, took = [], [], []  # type: list[float], list[float], list[float]
    name = json.loads((large / "manifest.json").read_bytes())["model"]
    staged = root.parent / "staged"
    for _ in range(times):
        await asyncio.to_thread(shutil.copytree, large, staged / "1")
        with clients.window() as latencies:
            await asyncio.sleep(QUIET_SECONDS)
        quiet += latencies
        with clients.window() as latencies:
            began = time.perf_counter()
            staged.rename(root / name)
            await until_state(clients.port, name, "ready")
            took.append(time.perf_counter() - began)
        meanwhile += latencies
        (root / name).rename(staged)
        await until_state(clients.port, name, None)
        await asyncio.to_thread(shutil.rmtree, staged)
    return quiet, meanwhile, took


async def until_state(port: int, model: str, wanted: str | None) -> None:
    """Wait until GET /v1/models reports this state of a model; None waits until it is gone."""
    state: str | None = ""
    while state != wanted:
        await asyncio.sleep(0.02)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /v1/models HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
        models = json.loads((await reader.read()).partition(b"\r\n\r\n")[2])["models"]
        writer.close()
        state = next((each["state"] for each in models if each["model"] == model), None)


def measure(options: Options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = asyncio.run(_measure(options, Path(folder)))
    write_section(
        "Reloads",
        [
            f"{CONNECTIONS} connections that send requests without a pause.",
            "",
            *table(("", ""), rows),
            "",
        ],
    )


async def _measure(options: Options, folder: Path) -> list[Row]:
    store, port = ModelStore(folder / "store", builtin_root=None), free_port()
    for number in (1, 2):
        shutil.copytree(BUILTIN_ROOT / MODEL / "1", store.root / MODEL / str(number))
    store.promote(MODEL, 1)
    with store.open(MODEL, 1) as version:
        image = version.path(version.manifest.golden[0].image).read_bytes()
    command = [
        "-m",
        "service",
        "--port",
        str(port),
        "--store",
        str(store.root),
        "--no-builtin",
    ]
    command += ["--cache", str(folder / "cache")]
    command += [
        "--store-poll-seconds",
        str(POLL_SECONDS),
        "--default-model",
        MODEL,
        "--log-level",
        "warning",
    ]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("SERVICE_")
    }
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert server.stdout  # noqa: S101  it is a pipe
        while b"Resident" not in await server.stdout.readline():
            pass
        clients = Clients(port, image)
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(clients.call())
            began = time.perf_counter()
            memory = await reload_often(
                clients, store, server.pid, options.reloads, options.reload_requests
            )
            rows = reload_rows(clients, memory, time.perf_counter() - began)
            rows += load_rows(*await load_meanwhile(clients, store.root, resnet50().version, LOADS))
            clients.stopping = True
        if clients.failures:
            raise SystemExit(f"{len(clients.failures)} failures, the first: {clients.failures[0]}")
    finally:
        server.send_signal(signal.SIGTERM)
        await server.wait()
    return rows


def reload_rows(clients: Clients, memory: list[float], seconds: float) -> list[Row]:
    p50, p99 = percentile(clients.latencies, 50), percentile(clients.latencies, 99)
    early, late = statistics.median(memory[9:20] or memory), statistics.median(memory[-10:])
    return [
        ("hot reloads under load", f"{len(memory)}"),
        (
            "requests during the reloads",
            f"{len(clients.latencies):,} in {seconds:.0f} s, {len(clients.failures)} failed",
        ),
        (
            "latency, p50 and p99",
            f"{p50:.1f} and {p99:.1f} ms",
        ),
        (
            "resident after reloads 10 to 20, after the last ten",
            f"{early:.0f}, {late:.0f} MB (medians)",
        ),
        ("growth after reload 10", f"{100 * (late / early - 1):+.1f} %"),
    ]


def load_rows(quiet: list[float], meanwhile: list[float], took: list[float]) -> list[Row]:
    p50, p99 = percentile(meanwhile, 50), percentile(meanwhile, 99)
    while_loading = f"{p50:.1f} and {p99:.1f} ms of {len(meanwhile):,}"
    return [
        (
            "loads of a large model",
            f"{len(took)} times, {statistics.median(took):.2f} s each (median)",
        ),
        (
            "latency before, p50 and p99",
            f"{percentile(quiet, 50):.1f} and {percentile(quiet, 99):.1f} ms of {len(quiet):,}",
        ),
        (
            "latency while it loads, p50 and p99",
            f"{while_loading}; at most {1e3 * max(meanwhile):.0f} ms",
        ),
    ]


def percentile(seconds: list[float], percent: int) -> float:
    """A percentile in milliseconds."""
    return 1e3 * statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1]
