"""Counts and times of the requests of one version, since the service started."""

import time
from collections import Counter
from dataclasses import dataclass, field

from service.prediction.request import RequestRecord

STAGES_AFTER_ADMISSION = ("decode", "queue", "inference")


@dataclass(slots=True)
class Duration:
    """How often something happened, and the seconds of all times together."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        self.count += count
        self.seconds += seconds


@dataclass(slots=True)
class VersionStatistics:
    """Requests of all protocols.

    Attributes:
        images: Images that were classified.
        last_request: When the last request succeeded, in seconds since 1970; 0 for never.
        success: Requests that were answered, from their start to their response.
        failure: Requests that failed.
        failures: The number of failed requests by error code.
        stages: Seconds of the requests that were answered, by stage: decode, queue, inference,
            and the rest of their time as `other`.
    """

    images: int = 0
    last_request: float = 0.0
    success: Duration = field(default_factory=Duration)
    failure: Duration = field(default_factory=Duration)
    failures: Counter[str] = field(default_factory=Counter)
    stages: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys((*STAGES_AFTER_ADMISSION, "other"), 0.0)
    )

    def observe(
        self, record: RequestRecord, total_seconds: float, rest_seconds: float, outcome: str
    ) -> None:
        """Count a request that has ended.

        Args:
            record: What is known about it.
            total_seconds: How long it took.
            rest_seconds: The part of it that belongs to no stage of the record.
            outcome: `ok`, or the code of its error.
        """
        if outcome != "ok":
            self.failure.add(total_seconds)
            self.failures[outcome] += 1
            return
        self.success.add(total_seconds)
        self.images += record.images - record.failed_images
        self.last_request = time.time()
        stages, seconds = self.stages, record.seconds
        for stage in STAGES_AFTER_ADMISSION:
            stages[stage] += seconds.get(stage, 0.0)
        stages["other"] += rest_seconds

    def add(self, other: "VersionStatistics") -> None:
        """Add the requests of another worker."""
        self.images += other.images
        self.last_request = max(self.last_request, other.last_request)
        self.failures.update(other.failures)
        self.success.add(other.success.seconds, other.success.count)
        self.failure.add(other.failure.seconds, other.failure.count)
        for name, seconds in other.stages.items():
            self.stages[name] += seconds
