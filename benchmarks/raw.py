"""The machine's limits: ONNX Runtime in a loop, with or without decoding, without HTTP.

Prints one line of JSON. `instances` threads share a session of `threads` intra-op threads; each
runs batches of `batch` images.
"""

import argparse
import functools
import json
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product

import numpy as np
import workloads
from machine import cores

from model_store.preprocessing import Pixels, prepare
from model_store.session import Session, SessionOptions

BATCHES = (1, 2, 4, 8, 16, 32)
PROBE_SECONDS = 0.7


@dataclass(frozen=True)
class Loop:
    instances: int
    threads: int
    batch: int


@dataclass(frozen=True)
class Rate:
    """Throughput, and CPU time of all cores per image in milliseconds."""

    images_per_second: float
    core_milliseconds: float


class Raw:
    """A workload's model and images, in memory."""

    def __init__(self, workload: workloads.Workload, *, decode: bool) -> None:
        self.workload, self.decode = workload, decode
        self.pixels = [prepare(image, workload.manifest.preprocessing) for image in workload.images]

    @functools.cache  # noqa: B019  it lives as long as the process
    def session(self, threads: int, *, spin: bool) -> Session:
        options = SessionOptions(intra_op_num_threads=threads, allow_spinning=spin)
        return Session(
            self.workload.file,
            self.workload.manifest.input,
            self.workload.manifest.outputs,
            options,
        )

    def batches(self, size: int) -> Iterator[Pixels]:
        """An endless iterator over batches."""
        spec, images, place = self.workload.manifest.preprocessing, self.workload.images, 0
        while True:
            places = [(place + step) % len(images) for step in range(size)]
            yield np.stack(
                [
                    prepare(images[each], spec) if self.decode else self.pixels[each]
                    for each in places
                ]
            )
            place = (place + size) % len(images)

    def rate(self, loop: Loop, seconds: float) -> Rate:
        """Throughput of all instances, each without its first batch."""
        run = self.session(loop.threads, spin=loop.threads > 1).run
        ready, rates, images = (
            threading.Barrier(loop.instances + 1),
            [0.0] * loop.instances,
            [0] * loop.instances,
        )

        def serve(place: int) -> None:
            batches, passed = self.batches(loop.batch), 0.0
            run(next(batches))
            ready.wait()
            began = time.perf_counter()
            while passed < seconds:
                run(next(batches))
                images[place] += loop.batch
                passed = time.perf_counter() - began
            rates[place] = images[place] / passed

        threads = [threading.Thread(target=serve, args=(place,)) for place in range(loop.instances)]
        for thread in threads:
            thread.start()
        ready.wait()
        before = time.process_time()
        for thread in threads:
            thread.join()
        return Rate(sum(rates), 1e3 * (time.process_time() - before) / sum(images))

    def milliseconds(self, threads: int, seconds: float) -> float:
        """Median time of one image alone, with the session options of the service."""
        run, batches, taken = self.session(threads, spin=False).run, self.batches(1), []
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            start = time.perf_counter()
            run(next(batches))
            taken.append(time.perf_counter() - start)
        return 1e3 * statistics.median(taken[len(taken) // 10 :])


def best(raw: Raw) -> Loop:
    """The fastest loop, by the better of two short measurements each."""
    # A batch of 32 large images takes seconds and is not faster.
    batches = BATCHES[:-1] if raw.workload.slow else BATCHES
    splits = sorted({(cores(), 1), (1, cores())})
    loops = [
        Loop(instances, threads, batch) for (instances, threads), batch in product(splits, batches)
    ]
    rates = [[raw.rate(loop, PROBE_SECONDS).images_per_second for loop in loops] for _ in range(2)]
    return loops[int(np.max(rates, axis=0).argmax())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", choices=("resnet20", "resnet50", "resnet50-int8"))
    parser.add_argument("--decode", action="store_true")
    parser.add_argument(
        "--loop",
        nargs=3,
        type=int,
        metavar=("INSTANCES", "THREADS", "BATCH"),
        help="default: find the best",
    )
    parser.add_argument(
        "--alone", type=int, metavar="THREADS", help="the latency of one image alone"
    )
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    raw = Raw(workloads.by_key(options.workload), decode=options.decode)
    if options.alone:
        print(json.dumps({"milliseconds": raw.milliseconds(options.alone, options.seconds)}))
    elif options.loop:
        print(json.dumps(asdict(raw.rate(Loop(*options.loop), options.seconds))))
    else:
        print(json.dumps(asdict(best(raw))))


if __name__ == "__main__":
    main()
