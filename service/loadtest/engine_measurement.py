"""Measures one setting of the real engine: a fixed number of images is always in flight."""

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

WARM_UP_SHARE: Final = 0.25
"""The warm-up takes this share of the measured time, and lasts until every client had a result."""
MIN_BATCHES: Final = 4
"""Batches to measure per instance, even if they exceed the requested time.

Percentiles of fewer batches are meaningless.
"""
NO_DEADLINE_SECONDS: Final = 1e6
NOISE_IMAGES: Final = 64


@dataclass(frozen=True)
class EngineSetting:
    """A setting to measure: `alone` with one client, else under full load."""

    precision: Precision
    instances: int
    intra_op_num_threads: int
    max_batch_size: int
    alone: bool = False

    @property
    def in_flight(self) -> int:
        """Images in flight: under full load each instance runs one batch and has one queued."""
        return 1 if self.alone else 2 * self.instances * self.max_batch_size


@dataclass(frozen=True, eq=False)
class EngineMeasurement:
    """The measured latencies of one setting.

    Attributes:
        setting: What was measured.
        latencies: Seconds from submitting an image to its result, float64 `[images]`.
        seconds: The measured time.
        times: How often the setting was measured.
    """

    setting: EngineSetting
    latencies: NDArray[np.float64] = field(repr=False)
    seconds: float
    times: int = 1

    @property
    def images_per_second(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile_ms(self, percentile: float) -> float:
        return 1e3 * float(np.percentile(self.latencies, percentile))

    def plus(self, other: "EngineMeasurement") -> "EngineMeasurement":
        """Combine two measurements of the same setting."""
        latencies = np.concatenate([self.latencies, other.latencies])
        return EngineMeasurement(
            self.setting, latencies, self.seconds + other.seconds, self.times + other.times
        )


def measure_setting(
    store: ModelStore, model: str, version: int, setting: EngineSetting, seconds: float
) -> EngineMeasurement:
    """Load the version with this setting and run it for `seconds`. Raises ModelStoreError."""
    options = EngineOptions(
        session=SessionOptions(intra_op_num_threads=setting.intra_op_num_threads),
        instances=setting.instances,
        max_batch_size=setting.max_batch_size,
        max_queue_delay_seconds=0.0,
        precision=setting.precision,
    )
    loaded = LoadedVersion(store.open(model, version), options)
    try:
        return uvloop.run(_measure(loaded, setting, seconds))
    finally:
        loaded.close()


async def _measure(
    loaded: LoadedVersion, setting: EngineSetting, seconds: float
) -> EngineMeasurement:
    shape = loaded.version.manifest.input
    noise = np.random.default_rng(0).integers(
        0, 256, (NOISE_IMAGES, shape.height, shape.width, 3), np.uint8
    )
    min_images = MIN_BATCHES * (1 if setting.alone else setting.instances * setting.max_batch_size)
    warm_at = time.perf_counter() + WARM_UP_SHARE * seconds
    began = ended = 0.0
    clients_to_warm_up = setting.in_flight
    latencies: list[float] = []

    async def run_client(number: int) -> None:
        nonlocal began, ended, clients_to_warm_up
        while not ended:
            submitted = time.perf_counter()
            await loaded.batcher.submit(
                noise[number % NOISE_IMAGES], time.monotonic() + NO_DEADLINE_SECONDS
            )
            now = time.perf_counter()
            if not began:
                clients_to_warm_up -= 1
                began = now if now >= warm_at and clients_to_warm_up <= 0 else 0.0
            elif not ended:
                latencies.append(now - submitted)
                ended = now if now >= began + seconds and len(latencies) >= min_images else 0.0

    async with asyncio.TaskGroup() as group:
        for number in range(setting.in_flight):
            group.create_task(run_client(number))
    return EngineMeasurement(setting, np.array(latencies), ended - began)
