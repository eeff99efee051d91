"""Measure the service beside its peers and the limits of this machine, all in one go, and write benchmarks/RESULTS.md.

`make bench` runs it; `make bench ARGS="--only resnet20 --peers mosec,fastapi --seconds 5"` a part of it.
"""

import signal
import sys
from collections.abc import Callable, Mapping

import decode_memory
import latency
import overload
import reload
import startup
import throughput
from options import Options, parse
from results import RESULTS

MEASUREMENTS: Mapping[str, Callable[[Options], None]] = {
    "resnet20": throughput.measure_resnet20,
    "resnet50": throughput.measure_resnet50,
    "latency": latency.measure,
    "overload": overload.measure,
    "start": startup.measure,
    "reloads": reload.measure,
    "decode": decode_memory.measure,
}


def main() -> None:
    """All rows, or those that are asked for."""
    options = parse(__doc__)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server is left behind
    for row in options.rows:
        print(f"\n{row}", flush=True)
        MEASUREMENTS[row](options)
    print(f"\nwritten to {RESULTS}")


if __name__ == "__main__":
    main()
