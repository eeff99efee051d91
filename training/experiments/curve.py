"""The training error of a run by iteration, finer than its epochs: what the paper's curves show."""

import csv
import io
from typing import Final, NamedTuple

from training.run_directory import RunDirectory, damaged
from training.train import Progress

CURVE: Final = "curve.csv"
POINT_STEPS: Final = 50
"""Steps that a point is the mean of, or a few more: an epoch is cut evenly."""
_COLUMNS: Final = ("iteration", "training_error")


class Curve(NamedTuple):
    """Points of a curve: the iteration that each ends at, and the error over the steps since the one before."""

    iterations: list[int]
    errors: list[float]


class CurveRecorder:
    """Takes in how a training goes, and writes its curve; a resumed training goes on with the file of the one before."""

    def __init__(self, run: RunDirectory, batch_size: int, images: int) -> None:
        self._run, self._batch_size, self._images = run, batch_size, images
        self._curve: Curve | None = None
        self._before = (0, 0.0)  # images seen and got right in this epoch, up to the last point

    def __call__(self, progress: Progress) -> None:
        """Take in where the training stands after a step."""
        if progress.accuracy is None or progress.metrics:  # an epoch's end repeats its last step
            return
        ended = progress.step == progress.steps
        seen = self._images if ended else progress.step * self._batch_size
        right = progress.accuracy * seen
        if self._curve is None:
            self._curve = self._begun(progress.run_step)
            if progress.step > 1:
                self._before = (seen, right)
                return
        points = max(1, progress.steps // POINT_STEPS)
        if progress.step * points // progress.steps == (progress.step - 1) * points // progress.steps:
            return
        self._curve.iterations.append(progress.run_step)
        self._curve.errors.append(1 - (right - self._before[1]) / (seen - self._before[0]))
        self._before = (0, 0.0) if ended else (seen, right)
        write_curve(self._run, self._curve)

    def _begun(self, step: int) -> Curve:
        """The points before this step, which a resumed training does not make again."""
        if not self._run.has(CURVE):
            return Curve([], [])
        curve = read_curve(self._run)
        kept = sum(iteration < step for iteration in curve.iterations)
        return Curve(curve.iterations[:kept], curve.errors[:kept])


def write_curve(run: RunDirectory, curve: Curve) -> None:
    """Leave the points as `curve.csv`."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows((iteration, f"{error:.6f}") for iteration, error in zip(*curve, strict=True))
    run.write(CURVE, buffer.getvalue().encode())


def read_curve(run: RunDirectory) -> Curve:
    """What `write_curve` left. Raises RunError where it is not there, or damaged."""
    path = run.file(CURVE, "experiment")
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        return Curve([int(row["iteration"]) for row in rows], [float(row["training_error"]) for row in rows])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, error) from None
