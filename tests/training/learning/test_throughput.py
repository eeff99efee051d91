"""The speed of a run, with a clock that the test sets."""

from collections.abc import Iterator

import pytest
import torch

from training.learning import throughput
from training.learning.batches import Batch
from training.learning.throughput import ThroughputMeter, peak_bytes


class Clock:
    seconds = 0.0

    def perf_counter(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)
    return clock


def run(clock: Clock, meter: ThroughputMeter, steps: list[tuple[float, float]]) -> None:
    """Steps of 10 images with these seconds for loading and for training."""

    def load() -> Iterator[Batch]:
        for seconds, _ in steps:
            clock.seconds += seconds
            yield Batch(10, ())

    for _, (_, seconds) in zip(meter.timed(load()), steps, strict=True):
        clock.seconds += seconds


def test_the_first_two_steps_do_not_count(clock: Clock) -> None:
    """The next ones are averaged."""
    meter = ThroughputMeter()
    run(clock, meter, [(50.0, 50.0), (50.0, 50.0), (1.0, 3.0), (2.0, 4.0)])
    assert meter.steps == 4
    assert meter.step_seconds == pytest.approx(5)
    assert meter.input_seconds == pytest.approx(1.5)
    assert meter.input_share == pytest.approx(0.3)
    assert meter.images_per_second == pytest.approx((10 / 4 + 10 / 6) / 2)


def test_later_steps_have_a_weight_of_five_percent(clock: Clock) -> None:
    meter = ThroughputMeter()
    run(clock, meter, [(0.0, 1.0)] * 100 + [(0.0, 2.0)])
    assert meter.step_seconds == pytest.approx(1.05)


def test_the_remaining_time_includes_validation(clock: Clock) -> None:
    meter = ThroughputMeter()
    run(clock, meter, [(0.0, 2.0)] * 5)
    meter.validation_seconds = 7
    assert meter.seconds_left(10, 3) == pytest.approx(10 * 2 + 3 * 7)
    assert ThroughputMeter().input_share == 0


def test_peak_memory_is_in_bytes() -> None:
    """A process with torch has more than 50 MB, and less than 100 GB."""
    assert 50e6 < peak_bytes(torch.device("cpu")) < 100e9
