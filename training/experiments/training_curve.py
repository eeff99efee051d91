"""The training error of a run by iteration, finer than its epochs: what the paper's curves show."""

import csv
import io
from collections.abc import Iterable
from typing import Final, NamedTuple

from training.run.directory import RunDirectory, damaged
from training.steps.train import Progress

CURVE: Final = "curve.csv"
POINT_STEPS: Final = 50
"""Steps that a point is the mean of, or a few more: an epoch is cut evenly."""


class CurvePoint(NamedTuple):
    """The steps up to an iteration since the point before: images seen, and those got wrong."""

    iteration: int
    images: int
    wrong: int

    @property
    def error(self) -> float:
        """The share that was got wrong."""
        return self.wrong / self.images


class CurveRecorder:
    """Takes in how a training goes, and writes its curve; a resumed training goes on with the file of the one before."""

    def __init__(self, run: RunDirectory, batch_size: int, images: int) -> None:
        self._run, self._batch_size, self._images = run, batch_size, images
        self._points: list[CurvePoint] | None = None

    def __call__(self, progress: Progress) -> None:
        """Take in where the training stands after a step."""
        if progress.accuracy is None or progress.metrics:  # an epoch's end repeats its last step
            return
        if self._points is None:  # a resumed training makes the points behind its checkpoint again
            kept = read_curve(self._run) if self._run.has(CURVE) else []
            self._points = [point for point in kept if point.iteration < progress.run_step]
        began = progress.run_step - progress.step
        before = [point for point in self._points if point.iteration > began]
        if not _is_due(progress, before[-1].iteration - began if before else 0):
            return
        seen = self._images if progress.step == progress.steps else progress.step * self._batch_size
        images, wrong = (
            seen - sum(point.images for point in before),
            round((1 - progress.accuracy) * seen),
        )
        self._points.append(
            CurvePoint(progress.run_step, images, wrong - sum(point.wrong for point in before))
        )
        write_curve(self._run, self._points)


def _is_due(progress: Progress, last: int) -> bool:
    """Whether a part of the epoch has ended since step `last` of it: a GPU tells of some steps only."""
    parts = max(1, progress.steps // POINT_STEPS)
    crossed = progress.step * parts // progress.steps > last * parts // progress.steps
    return crossed or (progress.run_step == progress.total_steps and progress.step > last)


def write_curve(run: RunDirectory, points: Iterable[CurvePoint]) -> None:
    """Leave the points as `curve.csv`."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CurvePoint._fields)
    writer.writerows(points)
    run.write(CURVE, buffer.getvalue().encode())


def read_curve(run: RunDirectory) -> list[CurvePoint]:
    """What `write_curve` left. Raises RunError where it is not there, or damaged."""
    path = run.file(CURVE, "experiment")
    try:
        rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        return [CurvePoint(*(int(row[name]) for name in CurvePoint._fields)) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, error) from None
