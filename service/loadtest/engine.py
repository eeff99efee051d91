"""One setting of the real engine under a load of its own: so many images in flight, each followed by another."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import uvloop
from numpy.typing import NDArray

from model_store.manifest import Precision
from model_store.session import SessionOptions
from model_store.store import ModelStore
from service.engine.loaded_version import LoadedVersion
from service.engine.options import EngineOptions

WARM_UP: Final = 0.25  # of the time that is counted, and everyone was answered once
LEAST_BATCHES: Final = (
    4  # an instance, however long they take: the percentiles of fewer say nothing
)
NO_DEADLINE_SECONDS: Final = 1e6
NOISE_IMAGES: Final = 64


@dataclass(frozen=True)
class Setting:
    """What is tried. `alone` has one client; else twice as many images are in flight as all instances can hold."""

    precision: Precision
    instances: int
    intra_op_num_threads: int
    max_batch_size: int
    alone: bool = False

    @property
    def in_flight(self) -> int:
        """Every instance has a full batch, and another waits for it: its best, and the worst latency that it need give."""
        return 1 if self.alone else 2 * self.instances * self.max_batch_size


@dataclass(frozen=True, eq=False)
class EngineMeasurement:
    """What a setting did: the latency of every counted image, in seconds, how long that took, and how often it was measured."""

    setting: Setting
    latencies: NDArray[np.float64] = field(repr=False)
    seconds: float
    times: int = 1

    @property
    def images_per_second(self) -> float:
        """Throughput."""
        return len(self.latencies) / self.seconds

    def percentile_ms(self, percentile: float) -> float:
        """Of the latency, from being submitted to the answer."""
        return 1e3 * float(np.percentile(self.latencies, percentile))

    def plus(self, other: "EngineMeasurement") -> "EngineMeasurement":
        """Both together, of the same setting."""
        latencies = np.concatenate([self.latencies, other.latencies])
        return EngineMeasurement(
            self.setting, latencies, self.seconds + other.seconds, self.times + other.times
        )


def measure_setting(
    store: ModelStore, model: str, version: int, setting: Setting, seconds: float
) -> EngineMeasurement:
    """Load the version with this setting, and let it work for so long. Raises ModelStoreError."""
    options = EngineOptions(
        session=SessionOptions(intra_op_num_threads=setting.intra_op_num_threads),
        instances=setting.instances,
        max_batch_size=setting.max_batch_size,
        max_queue_delay_seconds=0.0,
        precision=setting.precision,
    )
    served = LoadedVersion(store.open(model, version), options)
    try:
        return uvloop.run(_work(served, setting, seconds))
    finally:
        served.close()


async def _work(served: LoadedVersion, setting: Setting, seconds: float) -> EngineMeasurement:
    shape = served.version.manifest.input
    noise = np.random.default_rng(0).integers(
        0, 256, (NOISE_IMAGES, shape.height, shape.width, 3), np.uint8
    )
    least = LEAST_BATCHES * (1 if setting.alone else setting.instances * setting.max_batch_size)
    warm_from = time.perf_counter() + WARM_UP * seconds
    counted_from = ended_at = 0.0
    warming = setting.in_flight
    latencies: list[float] = []

    async def ask_again_and_again(number: int) -> None:
        nonlocal counted_from, ended_at, warming
        while not ended_at:
            sent = time.perf_counter()
            await served.batcher.submit(
                noise[number % NOISE_IMAGES], time.monotonic() + NO_DEADLINE_SECONDS
            )
            now = time.perf_counter()
            if not counted_from:
                warming -= 1
                counted_from = now if now >= warm_from and warming <= 0 else 0.0
            elif not ended_at:
                latencies.append(now - sent)
                ended_at = now if now >= counted_from + seconds and len(latencies) >= least else 0.0

    async with asyncio.TaskGroup() as group:
        for number in range(setting.in_flight):
            group.create_task(ask_again_and_again(number))
    return EngineMeasurement(setting, np.array(latencies), ended_at - counted_from)
