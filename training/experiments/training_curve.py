"""Training error every few iterations, in `curve.csv` of a run directory."""

import csv
import io
from collections.abc import Iterable
from typing import Final, NamedTuple

from training.run.directory import RunDirectory, damaged_file_error
from training.steps.progress import Progress

CURVE: Final = "curve.csv"
POINT_STEPS: Final = 50
"""Steps per point. Each epoch is divided evenly, so a point may cover a few more steps."""


class CurvePoint(NamedTuple):
    """Images seen and misclassified between the previous point and `iteration`."""

    iteration: int
    images: int
    wrong: int

    @property
    def error(self) -> float:
        return self.wrong / self.images


class CurveRecorder:
    """Writes the curve of a run during training. A resumed run continues its file."""

    def __init__(self, run: RunDirectory, batch_size: int, images: int) -> None:
        self._run, self._batch_size, self._images = run, batch_size, images
        self._points: list[CurvePoint] | None = None

    def __call__(self, progress: Progress) -> None:
        # The report at the end of an epoch repeats its last step.
        if progress.accuracy is None or progress.metrics:
            return
        if self._points is None:
            # A resumed run repeats the steps after its checkpoint.
            points = read_curve(self._run) if self._run.has(CURVE) else []
            self._points = [point for point in points if point.iteration < progress.run_step]
        epoch_start = progress.run_step - progress.step
        of_epoch = [point for point in self._points if point.iteration > epoch_start]
        last_step = of_epoch[-1].iteration - epoch_start if of_epoch else 0
        if not _is_due(progress, last_step):
            return
        is_epoch_end = progress.step == progress.steps
        seen = self._images if is_epoch_end else progress.step * self._batch_size
        wrong = round((1 - progress.accuracy) * seen)
        images = seen - sum(point.images for point in of_epoch)
        wrong -= sum(point.wrong for point in of_epoch)
        self._points.append(CurvePoint(progress.run_step, images, wrong))
        write_curve(self._run, self._points)


def _is_due(progress: Progress, last_step: int) -> bool:
    """Whether a new point is due. On a GPU, not every step is reported."""
    parts = max(1, progress.steps // POINT_STEPS)
    crossed = progress.step * parts // progress.steps > last_step * parts // progress.steps
    return crossed or (progress.run_step == progress.total_steps and progress.step > last_step)


def write_curve(run: RunDirectory, points: Iterable[CurvePoint]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CurvePoint._fields)
    writer.writerows(points)
    run.write(CURVE, buffer.getvalue().encode())


def read_curve(run: RunDirectory) -> list[CurvePoint]:
    """Points of `curve.csv`. Raises RunError if the file is missing or damaged."""
    path = run.file(CURVE, "experiment")
    try:
        rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        return [CurvePoint(*(int(row[name]) for name in CurvePoint._fields)) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise damaged_file_error(path, error) from None
