"""Metrics of the process: its health, its build and its free capacity."""

import platform
from collections.abc import Iterator

import onnxruntime
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from model_store import __version__
from service.host.memory_limit import memory_limit
from service.http.request_limits import rejections
from service.prediction.admission import UploadBudget
from service.prediction.decode_pool import DecodePool
from service.stderr_log import count_dropped_records
from service.versions.registry import Registry


class HostCollector(Collector):
    """Reads the process at each scrape."""

    def __init__(self, registry: Registry, decoders: DecodePool, uploads: UploadBudget) -> None:
        self._registry = registry
        self._decoders = decoders
        self._uploads = uploads
        self._memory_limit = memory_limit()

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily(
            "resident_build_info",
            "Always 1; its labels are the versions of this process",
            labels=["version", "python_version", "onnxruntime_version"],
        )
        build.add_metric([__version__, platform.python_version(), onnxruntime.__version__], 1)
        yield build
        registry = self._registry
        for name, text, value in (
            ("resident_workers", "Processes that answer requests", 1),
            ("resident_live", "1 if GET /health/live is 200, else 0", not registry.stopped_parts),
            ("resident_ready", "1 if GET /health/ready is 200, else 0", registry.service_ready),
            (
                "resident_store_readable",
                "1 if the model store could be read when it was last tried, else 0",
                registry.error is None,
            ),
            (
                "resident_decoder_processes",
                "Processes that decode images",
                self._decoders.processes,
            ),
            (
                "resident_decoding_images",
                "Images that are decoded in a process now",
                self._decoders.busy,
            ),
            (
                "resident_decoder_queue_images",
                "Images that wait for a process that decodes them",
                self._decoders.waiting,
            ),
            (
                "resident_upload_bytes",
                "Bytes of all request bodies in memory",
                self._uploads.held_bytes,
            ),
            (
                "resident_upload_limit_bytes",
                "The most bytes of request bodies in memory",
                self._uploads.max_bytes,
            ),
        ):
            yield GaugeMetricFamily(name, text, value=float(value))
        limit = GaugeMetricFamily(
            "resident_memory_limit_bytes", "Memory of the container, or of the machine"
        )
        if self._memory_limit is not None:
            limit.add_metric([], self._memory_limit)
        yield limit
        malformed = CounterMetricFamily(
            "resident_malformed_requests",
            "Requests that ended before a route: not valid HTTP, or headers that were over a "
            "limit or too slow",
            labels=["reason"],
        )
        for reason, count in rejections.items():
            malformed.add_metric([reason], count)
        yield malformed
        yield CounterMetricFamily(
            "resident_log_records_dropped",
            "Log records that were dropped because nobody read stderr",
            value=count_dropped_records(),
        )
