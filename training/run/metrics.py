"""`metrics.jsonl`: one line per epoch of a training."""

import json
from typing import Any, Final

from training.run.directory import RunDirectory, damaged_file_error, finite_or_null

METRICS_FILE: Final = "metrics.jsonl"
METRIC_NAMES: Final = frozenset(
    {
        "epoch",
        "step",
        "train_loss",
        "train_top1",
        "validation_loss",
        "validation_top1",
        "learning_rate",
    }
)


def write_metrics(run: RunDirectory, history: list[dict[str, Any]]) -> None:
    """Replace the file. NaN and infinity become null."""
    lines = (json.dumps(finite_or_null(line), allow_nan=False) for line in history)
    run.write(METRICS_FILE, b"".join(line.encode() + b"\n" for line in lines))


def read_metrics(run: RunDirectory) -> list[dict[str, Any]]:
    """Return the metrics of each finished epoch. A metric is None if it was not finite.

    Raises:
        RunError: No epoch has finished, or the file is damaged.
    """
    path = run.file(METRICS_FILE, "resume")
    try:
        # Runs of earlier versions may hold a bare NaN.
        lines = [
            finite_or_null(json.loads(line))
            for line in path.read_text(encoding="utf-8").splitlines()
        ]
    except ValueError as error:
        raise damaged_file_error(path, error) from None
    complete = all(isinstance(line, dict) and line.keys() >= METRIC_NAMES for line in lines)
    if not lines or not complete:
        raise damaged_file_error(path, ValueError("metrics are missing"))
    return lines
