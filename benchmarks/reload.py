"""What changes of versions cost those who ask meanwhile: hot reloads under load, and another model loaded beside it.

A real server over two versions of the built-in model, and clients on raw sockets that ask without a pause, on the same cores.
First `production` moves to and fro while they ask: every answer but a 200 is a failure, and the server's memory is read after each
move. Then ResNet-50 comes to the store and goes again: latency while it is verified, loaded, proven and warmed beside latency in
the seconds before.
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
class Callers:
    """Clients that ask without a pause, and what they were told."""

    port: int
    image: bytes
    latencies: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    version: int = 0
    stopping: bool = False

    async def call(self) -> None:
        """Ask on one connection until it is enough; an answer but 200 is a failure, and so is a connection that ends."""
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
        """Wait until this is so, or something failed."""
        while not condition() and not self.failures:  # noqa: ASYNC110  a measurement may look often
            await asyncio.sleep(0.002)

    @contextmanager
    def window(self) -> Iterator[list[float]]:
        """The latencies of what is answered meanwhile, in the list once it is over."""
        first, found = len(self.latencies), []  # type: int, list[float]
        yield found
        found += self.latencies[first:]


async def reload_often(
    callers: Callers, store: ModelStore, pid: int, reloads: int, requests: int
) -> list[float]:
    """Move `production` to and fro, each time once the last move has been answered by; memory in MB after each move."""
    memory = []
    for turn in range(1, reloads + 1):
        wanted = 1 + turn % 2
        await asyncio.to_thread(store.promote, MODEL, wanted)
        enough = requests * turn // reloads
        await callers.until(lambda: callers.version == wanted and len(callers.latencies) >= enough)  # noqa: B023  called here
        memory.append(resident_megabytes(pid))
    return memory


async def load_beside(
    callers: Callers, root: Path, large: Path, times: int
) -> tuple[list[float], list[float], list[float]]:
    """Latencies in quiet and while `large` is loaded, and how long each load took, all in seconds."""
    quiet, meanwhile, took = [], [], []  # type: list[float], list[float], list[float]
    name = json.loads((large / "manifest.json").read_bytes())["model"]
    staged = root.parent / "staged"
    for _ in range(times):
        await asyncio.to_thread(shutil.copytree, large, staged / "1")
        with callers.window() as found:
            await asyncio.sleep(QUIET_SECONDS)
        quiet += found
        with callers.window() as found:
            began = time.perf_counter()
            staged.rename(root / name)
            await until_state(callers.port, name, "ready")
            took.append(time.perf_counter() - began)
        meanwhile += found
        (root / name).rename(staged)
        await until_state(callers.port, name, None)
        await asyncio.to_thread(shutil.rmtree, staged)
    return quiet, meanwhile, took


async def until_state(port: int, model: str, wanted: str | None) -> None:
    """Wait until GET /v1/models says this of a model; None is that it says nothing."""
    state: str | None = ""
    while state != wanted:
        await asyncio.sleep(0.02)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /v1/models HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
        models = json.loads((await reader.read()).partition(b"\r\n\r\n")[2])["models"]
        writer.close()
        state = next((found["state"] for found in models if found["model"] == model), None)


def measure(options: Options) -> None:
    """Both parts, as a section of the results."""
    with tempfile.TemporaryDirectory() as folder:
        rows = asyncio.run(_measure(options, Path(folder)))
    write_section(
        "Reloads",
        [f"{CONNECTIONS} connections that ask without a pause.", "", *table(("", ""), rows), ""],
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
        assert server.stdout  # noqa: S101  it was asked for
        while b"Resident" not in await server.stdout.readline():
            pass
        callers = Callers(port, image)
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(callers.call())
            began = time.perf_counter()
            memory = await reload_often(
                callers, store, server.pid, options.reloads, options.reload_requests
            )
            rows = reload_rows(callers, memory, time.perf_counter() - began)
            rows += beside_rows(*await load_beside(callers, store.root, resnet50().version, LOADS))
            callers.stopping = True
        if callers.failures:
            raise SystemExit(f"{len(callers.failures)} failures, the first: {callers.failures[0]}")
    finally:
        server.send_signal(signal.SIGTERM)
        await server.wait()
    return rows


def reload_rows(callers: Callers, memory: list[float], seconds: float) -> list[Row]:
    """The first part's rows."""
    early, late = statistics.median(memory[9:20] or memory), statistics.median(memory[-10:])
    return [
        ("hot reloads under load", f"{len(memory)}"),
        (
            "requests meanwhile",
            f"{len(callers.latencies):,} in {seconds:.0f} s, {len(callers.failures)} failed",
        ),
        (
            "latency, p50 and p99",
            f"{percentile(callers.latencies, 50):.1f} and {percentile(callers.latencies, 99):.1f} ms",
        ),
        (
            "resident after the tenth to twentieth, after the last ten",
            f"{early:.0f}, {late:.0f} MB (medians)",
        ),
        ("growth after the tenth", f"{100 * (late / early - 1):+.1f} %"),
    ]


def beside_rows(quiet: list[float], meanwhile: list[float], took: list[float]) -> list[Row]:
    """The second part's rows."""
    beside = f"{percentile(meanwhile, 50):.1f} and {percentile(meanwhile, 99):.1f} ms of {len(meanwhile):,}"
    return [
        (
            "a large model loaded beside it",
            f"{len(took)} times, {statistics.median(took):.2f} s each (median)",
        ),
        (
            "latency in quiet, p50 and p99",
            f"{percentile(quiet, 50):.1f} and {percentile(quiet, 99):.1f} ms of {len(quiet):,}",
        ),
        ("latency while it loads, p50 and p99", f"{beside}; at most {1e3 * max(meanwhile):.0f} ms"),
    ]


def percentile(seconds: list[float], percent: int) -> float:
    """In milliseconds."""
    return 1e3 * statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1]
