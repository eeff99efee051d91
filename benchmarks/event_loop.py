"""Measures the CPU time of the event loop per request, of this and other checkouts in turn.

PYTHONPATH=. .venv/test/bin/python benchmarks/event_loop.py [OTHER_CHECKOUT ...] [--turns 30]
    [--rejections]

With `--rejections`, one image waits in a queue of one place, so all others are rejected.

CPU time is much less noisy than throughput on a busy machine: compare the lower quartiles. Linux.
"""

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from built_in_service import run_built_in_models
from machine import ROOT
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
    with run_built_in_models(checkout, flags) as (port, pid):
        yield _Service(checkout, port, pid, flags)


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
