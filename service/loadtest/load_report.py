"""What a load found: rates, latencies by percentile, and errors by kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.loadtest.load import RequestSample

PERCENTILES: Final = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9)
LATE_SECONDS: Final = 0.01


@dataclass(frozen=True)
class Latency:
    """Of so many requests, in milliseconds."""

    requests: int
    mean: float
    percentiles: Mapping[str, float]
    max: float


@dataclass(frozen=True)
class LoadReport:
    """Counts and latencies of the requests that were due within `duration_seconds` after the warm-up.

    `requests` is the sum of `answered` and of all `errors`. `latency` is of the answered, `refused` of those that came back with
    an error's status. `images` were answered within that time, whenever they were due: what came later was not carried.
    `sent_late` is the share of requests that the generator itself sent more than 10 ms after they were due.
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
        """What was carried."""
        return self.images / self.duration_seconds


def report_on(samples: Sequence[RequestSample], duration_seconds: float) -> LoadReport:
    """The report on one load's requests, its warm-up among them."""
    images = sum(sample.images for sample in samples if 0 <= sample.ended <= duration_seconds)
    samples = counted(samples)
    answered = [sample for sample in samples if sample.error is None]
    refused = [
        sample for sample in samples if sample.error is not None and sample.status is not None
    ]
    errors: dict[str, int] = {}
    for sample in samples:
        if sample.error is not None:
            errors[sample.error] = errors.get(sample.error, 0) + 1
    late = sum(sample.sent - sample.due > LATE_SECONDS for sample in samples)
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


def counted(samples: Sequence[RequestSample]) -> list[RequestSample]:
    """Those that were due after the warm-up."""
    return [sample for sample in samples if sample.due >= 0]


def milliseconds(samples: Sequence[RequestSample]) -> NDArray[np.float64]:
    """How long each request took from the moment it was due."""
    return np.array([1e3 * (sample.ended - sample.due) for sample in samples])


def _latency(samples: Sequence[RequestSample]) -> Latency | None:
    if not samples:
        return None
    taken = milliseconds(samples)
    at = np.percentile(taken, PERCENTILES).round(3).tolist()
    named = {f"p{percentile:g}": value for percentile, value in zip(PERCENTILES, at, strict=True)}
    return Latency(len(taken), round(float(taken.mean()), 3), named, round(float(taken.max()), 3))
