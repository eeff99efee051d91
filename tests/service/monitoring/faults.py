"""Servers with faults that fire alerts."""

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
from colour_model import MODEL, SIZE, WEIGHTS, encode, make_store, plain, publish, publish_deviating
from densities import DENSITY
from PIL import Image
from server_process import ENVIRONMENT, PATIENCE_SECONDS, REPOSITORY, Output, ServerProcess, running
from slow_model import slow_model_bytes

from model_store.provenance import Metrics, TopScores
from service.key_changes import add_key

RED = plain("red")
WHITE = plain("white")
ORANGE = encode(Image.new("RGB", (8, 8), (255, 110, 0)))
"""An image that is unlike the colours that `DENSITY` knows."""
RUN_TIMEOUT_SECONDS = 6
DESCRIPTORS = 100
LONG_PATH = "x" * 2000
_STOPPABLE = """if True:
    import ctypes, sys, threading
    from service.__main__ import main

    def stop_instances():
        sys.stdin.readline()
        for thread in threading.enumerate():
            if thread.name.startswith("colours/1-") and "watchdog" not in thread.name:
                end = ctypes.py_object(SystemExit)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), end)
        print("stopped", file=sys.stdout, flush=True)

    threading.Thread(target=stop_instances, daemon=True).start()
    main()
"""


@contextmanager
def serving_with_faults(folder: Path) -> Iterator[ServerProcess]:
    """A replica that is not ready, with models that hang and one that gets strange images.

    One of its keys expires tomorrow.
    """
    store = make_store(folder / "store")
    publish(store)
    publish_deviating(store, "broken")
    for name in ("slow", "hanging"):
        publish(store, name, file=slow_model_bytes(SIZE, SIZE, WEIGHTS))
    scores = TopScores(mean=1.0, percentiles={"5": 1.0, "50": 1.0, "95": 1.0})
    metrics = Metrics(top1=0.5, test_images=100, top_scores=scores)
    publish(store, "drifting", embedding=True, density=DENSITY, metrics=metrics)
    keys = folder / "keys.json"
    add_key(keys, "deploy", ["manage"], expires_in=timedelta(days=1))
    flags = {
        "--store": store.root,
        "--keys": keys,
        "--required-models": "broken",
        "--run-timeout-seconds": RUN_TIMEOUT_SECONDS,
        "--max-queue-size": 2,
        "--instances": 1,
    }
    arguments = [each for flag in flags.items() for each in flag]
    with running("--no-builtin", *arguments) as server:
        yield server.announced()


class BadTraffic:
    """Requests that fail, until the block ends."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._ended = threading.Event()
        requests = (
            ("hanging", "", WHITE),
            ("slow", "", WHITE),  # hangs too
            ("slow", "", RED),  # waits meanwhile, or is rejected
            ("slow", "?timeout_ms=100", RED),  # is rejected, or too late
            ("drifting", "", ORANGE),
        )
        self._threads = [
            threading.Thread(target=self._repeat, args=(f"/v1/models/{model}/predict{query}", body))
            for model, query, body in requests
        ]
        self._threads.append(threading.Thread(target=self._send_late_bodies))

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, path: str, body: bytes) -> None:
        with httpx.Client(base_url=self._address, timeout=PATIENCE_SECONDS) as client:
            pause = 0.02
            while not self._ended.wait(pause):
                status = client.post(path, content=body).status_code
                pause = 0.3 if status == 429 else 0.02  # rejections are so fast that others vanish

    def _send_late_bodies(self) -> None:
        """Bodies that arrive after the deadline of their request."""

        def body() -> Iterator[bytes]:
            yield ORANGE[:20]
            self._ended.wait(0.3)
            yield ORANGE[20:]

        with httpx.Client(base_url=self._address, timeout=PATIENCE_SECONDS) as client:
            while not self._ended.is_set():
                client.post("/v1/models/drifting/predict?timeout_ms=100", content=body())


@contextmanager
def serving_without_resources(
    folder: Path, log_overflows: Callable[[], bool]
) -> Iterator[tuple[str, Callable[[], None]]]:
    """A server with few descriptors, whose log nobody reads; yields its address and its faults.

    The function fills the log until `log_overflows`, takes the store away, ends the instances and
    opens connections.
    """
    store = make_store(folder / "store")
    publish(store)
    flags = ("--port", "0", "--store", store.root, "--no-builtin", "--store-poll-seconds", "0.1")
    process = subprocess.Popen(
        ["prlimit", f"--nofile={DESCRIPTORS}", sys.executable, "-c", _STOPPABLE, *map(str, flags)],
        cwd=REPOSITORY,
        env=ENVIRONMENT | {"SERVICE_DEFAULT_MODEL": MODEL, "XDG_CACHE_HOME": str(folder / "cache")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    assert process.stderr
    output = Output(process.stdout)
    with ExitStack() as connections:
        try:
            match = output.wait_for(r"^Resident \S+ on (http://\S+)$")
            assert match, output.text
            address = match[1]

            def cause_faults() -> None:
                _fill_log(address, log_overflows)
                store.root.rename(store.root.with_name("gone"))
                process.stdin.write("\n")
                process.stdin.flush()
                assert output.wait_for("^stopped$")
                url = f"{address}/v1/predict?timeout_ms=100"  # wakes the thread, which then ends
                assert httpx.post(url, content=RED, timeout=PATIENCE_SECONDS).status_code == 504
                _open_connections(address, connections)

            yield address, cause_faults
        finally:
            process.kill()
            process.wait()
            output.wait_for_end()
            process.stdin.close()
            process.stderr.close()


def _fill_log(address: str, until: Callable[[], bool]) -> None:
    """Send requests for unknown paths, whose lines in the log are long, beyond what it holds.

    The count of dropped records must grow between two scrapes, so this continues until `until`
    returns True.
    """
    with httpx.Client(base_url=address, timeout=PATIENCE_SECONDS) as client:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not until():
            assert time.monotonic() < deadline
            for _ in range(100):
                client.get(f"/{LONG_PATH}")


def _open_connections(address: str, connections: ExitStack) -> None:
    """Open connections until the server uses 90 % of its descriptors."""
    url = httpx.URL(address)
    with httpx.Client(base_url=address, timeout=PATIENCE_SECONDS) as client:
        (used,) = re.findall(r"^process_open_fds (\S+)$", client.get("/metrics").text, re.MULTILINE)
    for _ in range(int(0.9 * DESCRIPTORS - float(used))):
        connection = socket.create_connection((url.host, url.port or 80), PATIENCE_SECONDS)
        connections.enter_context(connection)
