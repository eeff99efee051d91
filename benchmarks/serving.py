"""Compare the service with its peers and the machine's limits, and write benchmarks/RESULTS.md.

make bench
make bench ARGS="--only resnet20 --peers mosec,fastapi --seconds 5"
"""

import signal
import sys
from collections.abc import Callable, Mapping

import decode_memory
import latency
import overload
import protocols
import reload
import startup
import throughput
from options import Options, parse
from results import RESULTS

MEASUREMENTS: Mapping[str, Callable[[Options], None]] = {
    "resnet20": throughput.measure_resnet20,
    "resnet50": throughput.measure_resnet50,
    "protocols": protocols.measure,
    "latency": latency.measure,
    "defaults": latency.measure_defaults,
    "overload": overload.measure,
    "start": startup.measure,
    "reloads": reload.measure,
    "decode": decode_memory.measure,
}


def main() -> None:
    options = parse(__doc__)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # stops the servers
    for row in options.rows:
        print(f"\n{row}", flush=True)
        MEASUREMENTS[row](options)
    print(f"\nwritten: {RESULTS}")


if __name__ == "__main__":
    main()
