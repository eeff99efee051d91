"""CPU time of the event loop per request, of this checkout and of others, in turn.

PYTHONPATH=. .venv/test/bin/python benchmarks/event_loop.py [OTHER_CHECKOUT ...] [--turns 30]
    [--rejections]

With `--rejections`, one image waits in a queue of one place, so all others are rejected.

CPU time is much less noisy than throughput on a busy machine: compare the lower quartiles. Linux.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from machine import ROOT, free_port
from startup import is_ready
from workloads import resnet20
from wrk import wrk_load

SECONDS = 1
CONNECTIONS = 32
FULL_QUEUE = ("--max-queue-size", "1", "--max-queue-delay-seconds", "10")


@dataclass(frozen=True)
class _Service:
    checkout: Path
    port: int
    pid: int
    flags: Sequence[str]

    def microseconds(self) -> tuple[float, float]:
        """CPU time per request of the event loop, and of all other threads."""
        workload = resnet20()
        before = self._cpu_nanoseconds()
        path = f"/v1/models/{workload.model}/predict"
        load = wrk_load(self.port, path, workload.bodies(None), CONNECTIONS, SECONDS)
        after = self._cpu_nanoseconds()
        spent = {thread: after[thread] - before.get(thread, 0) for thread in after}
        loop = spent.pop(self.pid)  # the main thread
        requests = load.failed if self.flags else load.answered
        return loop / requests / 1e3, sum(spent.values()) / requests / 1e3

    def _cpu_nanoseconds(self) -> dict[int, int]:
        threads = Path(f"/proc/{self.pid}/task").iterdir()
        return {
            int(each.name): int((each / "schedstat").read_text().split()[0]) for each in threads
        }


@contextlib.contextmanager
def _running(checkout: Path, flags: Sequence[str]) -> Iterator[_Service]:
    port = free_port()
    with tempfile.TemporaryDirectory() as empty:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "--port", str(port), "--store", empty, *flags],
            cwd=checkout,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not is_ready(port):
                if process.poll() is not None:
                    raise SystemExit(f"the service in {checkout} ended with {process.returncode}")
                time.sleep(0.05)
            yield _Service(checkout, port, process.pid, flags)
        finally:
            process.terminate()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("others", nargs="*", type=Path, metavar="OTHER_CHECKOUT")
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--rejections", action="store_true")
    options = parser.parse_args()
    flags = FULL_QUEUE if options.rejections else ()
    with contextlib.ExitStack() as stack:
        services = [
            stack.enter_context(_running(checkout.resolve(), flags))
            for checkout in (ROOT, *options.others)
        ]
        for service in services:
            service.microseconds()  # warm-up
        figures = np.array(
            [[service.microseconds() for service in services] for _ in range(options.turns)]
        )
    for service, (loop, others) in zip(services, figures.transpose(1, 2, 0), strict=True):
        quarter, median, most = np.percentile(loop, (25, 50, 75))
        print(
            f"{service.checkout}: event loop {quarter:.0f} (median {median:.0f}, upper quartile "
            f"{most:.0f}) us per request, other threads {np.percentile(others, 25):.0f}"
        )


if __name__ == "__main__":
    main()
