"""The result of a load: rates, latency percentiles, and errors by kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.loadtest.load_generator import RequestSample

PERCENTILES: Final = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9)
SENT_LATE_SECONDS: Final = 0.01


@dataclass(frozen=True)
class Latency:
    """Latency of `requests` requests, in milliseconds; `percentiles` by name, like `p99.9`."""

    requests: int
    mean: float
    percentiles: Mapping[str, float]
    max: float


@dataclass(frozen=True)
class LoadReport:
    """Counts and latencies of the requests that were due after the warm-up.

    Attributes:
        requests: The sum of `answered` and all `errors`.
        answered: Requests whose images were all answered.
        images: Images answered within `duration_seconds`, whenever their request was due.
        duration_seconds: The measured time, without the warm-up.
        latency: Of the answered requests.
        refused: Latency of the requests that got an error status.
        errors: Requests by kind of error, the most frequent first.
        sent_late: Share of requests that the generator sent over 10 ms after they were due.
    """

    requests: int
    answered: int
    images: int
    duration_seconds: float
    latency: Latency | None
    refused: Latency | None
    errors: Mapping[str, int]
    sent_late: float

    @property
    def images_per_second(self) -> float:
        return self.images / self.duration_seconds


def make_report(samples: Sequence[RequestSample], duration_seconds: float) -> LoadReport:
    """Summarise the samples of a load, which may include its warm-up."""
    images = sum(sample.images for sample in samples if 0 <= sample.ended <= duration_seconds)
    samples = without_warm_up(samples)
    answered = [sample for sample in samples if sample.error is None]
    refused = [
        sample for sample in samples if sample.error is not None and sample.status is not None
    ]
    errors: dict[str, int] = {}
    for sample in samples:
        if sample.error is not None:
            errors[sample.error] = errors.get(sample.error, 0) + 1
    late = sum(sample.sent - sample.due > SENT_LATE_SECONDS for sample in samples)
    return LoadReport(
        requests=len(samples),
        answered=len(answered),
        images=images,
        duration_seconds=duration_seconds,
        latency=_latency(answered),
        refused=_latency(refused),
        errors=dict(sorted(errors.items(), key=lambda item: -item[1])),
        sent_late=late / len(samples) if samples else 0.0,
    )


def without_warm_up(samples: Sequence[RequestSample]) -> list[RequestSample]:
    return [sample for sample in samples if sample.due >= 0]


def latency_ms(samples: Sequence[RequestSample]) -> NDArray[np.float64]:
    """Milliseconds from when each request was due to its end, float64 `[requests]`."""
    return np.array([1e3 * (sample.ended - sample.due) for sample in samples])


def _latency(samples: Sequence[RequestSample]) -> Latency | None:
    if not samples:
        return None
    latencies = latency_ms(samples)
    values = np.percentile(latencies, PERCENTILES).round(3).tolist()
    percentiles = {
        f"p{percentile:g}": value for percentile, value in zip(PERCENTILES, values, strict=True)
    }
    mean, longest = round(float(latencies.mean()), 3), round(float(latencies.max()), 3)
    return Latency(len(latencies), mean, percentiles, longest)
