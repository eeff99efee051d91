"""The state of a training after a step, as displays show it."""

from dataclasses import dataclass
from typing import Any

from training.learning.throughput import RunEstimate


@dataclass(frozen=True)
class Progress:
    """The state of a training after a step.

    Attributes:
        epoch: The current epoch, from 1, of `epochs`.
        step: The step of this epoch, of `steps`.
        run_step: The step of the run, of `total_steps`.
        loss: Mean training loss of this epoch so far.
        accuracy: Training accuracy of this epoch so far; None if images are mixed.
        estimate: Set once, after the first steps.
        metrics: The line of `metrics.jsonl`, at the end of an epoch.
        notice: A message for the user.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    run_step: int
    total_steps: int
    loss: float
    accuracy: float | None
    images_per_second: float
    seconds_left: float
    estimate: RunEstimate | None = None
    metrics: dict[str, Any] | None = None
    notice: str | None = None
