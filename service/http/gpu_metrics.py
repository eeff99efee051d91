"""Memory of NVIDIA GPUs, if nvidia-ml-py (the extra `gpu`) and a driver are installed."""

import logging
from collections.abc import Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

logger = logging.getLogger(__name__)


class GpuCollector(Collector):
    """Asks the driver at each scrape. It counts the memory of all processes on a GPU."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._handles: list[Any] | None = None

    def collect(self) -> Iterator[Metric]:
        total = GaugeMetricFamily("resident_gpu_memory_bytes", "Memory of the GPU", labels=["gpu"])
        used = GaugeMetricFamily(
            "resident_gpu_memory_used_bytes",
            "Memory of the GPU that all processes on it use",
            labels=["gpu"],
        )
        if self._handles is None:
            self._handles = self._find()
        for number, handle in enumerate(self._handles):
            try:
                memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            except self._nvml.NVMLError as error:
                logger.debug("memory of a GPU not read gpu=%d reason=%s", number, error)
                continue
            total.add_metric([str(number)], memory.total)
            used.add_metric([str(number)], memory.used)
        yield from (total, used)

    def _find(self) -> list[Any]:
        try:
            import pynvml  # noqa: PLC0415  an extra
        except ImportError:
            return []
        try:
            pynvml.nvmlInit()
            self._nvml = pynvml
            count = range(pynvml.nvmlDeviceGetCount())
            return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in count]
        except pynvml.NVMLError as error:  # there is no driver
            logger.debug("no GPU metrics reason=%s", error)
            return []
