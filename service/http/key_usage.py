"""When API keys were used and when they expire: as files for `keys list`, and as metrics."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from service.key_file import ApiKey

WRITE_SECONDS: Final = 60.0
"""A key's file is written at most this often."""
logger = logging.getLogger(__name__)


class LastUsed:
    """Remembers when each key was used last, and keeps it as the modification time of a file.

    One file per key needs no lock, although several workers and replicas write it.

    Attributes:
        seconds: Seconds since 1970 by the name of the key, since the start of this process.
    """

    def __init__(self, directory: Path) -> None:
        self.seconds: dict[str, float] = {}
        self._directory = directory
        self._written: dict[str, float] = {}
        self._stored = True

    def record(self, name: str) -> None:
        self.seconds[name] = time.time()
        now = time.monotonic()
        if now >= self._written.get(name, -math.inf) + WRITE_SECONDS:
            self._written[name] = now
            self._write(name)

    def _write(self, name: str) -> None:
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            (self._directory / name).touch(mode=0o600)
            self._stored = True
        except OSError as error:
            if self._stored:  # a mounted secret is read-only
                reason = f"{error.strerror}; only the metrics have it"
                logger.info("last use of API keys not stored reason=%r", reason)
            self._stored = False


class KeyCollector(Collector):
    """Metrics of the keys. Removed keys have none."""

    def __init__(self, keys: Callable[[], Iterable[ApiKey]], last_used: LastUsed) -> None:
        self._keys = keys
        self._last_used = last_used

    def collect(self) -> Iterator[Metric]:
        used = GaugeMetricFamily(
            "resident_key_last_used_timestamp_seconds",
            "When the API key was used last, since the start of the process",
            labels=["key"],
        )
        expires = GaugeMetricFamily(
            "resident_key_expiry_timestamp_seconds", "When the API key expires", labels=["key"]
        )
        for key in self._keys():
            if key.name in self._last_used.seconds:
                used.add_metric([key.name], self._last_used.seconds[key.name])
            if key.expires_at:
                expires.add_metric([key.name], key.expires_at.timestamp())
        yield from (used, expires)
