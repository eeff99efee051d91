"""The training curve: errors over the steps since the last point, whatever the epoch's length, also after a resume."""

from dataclasses import replace
from pathlib import Path

import pytest

from training.errors import RunError
from training.experiments.training_curve import CURVE, CurveRecorder, read_curve
from training.run.directory import RunDirectory
from training.steps.train import Progress

STEPS, BATCH = 120, 10
IMAGES = STEPS * BATCH - 4  # the last batch is smaller


def position(epoch: int, step: int, right: float) -> Progress:
    """Where a training stands after a step of an epoch in which so many images were got right."""
    seen = IMAGES if step == STEPS else step * BATCH
    return Progress(
        epoch, 2, step, STEPS, (epoch - 1) * STEPS + step, 2 * STEPS, 0.0, right / seen, 1.0, 1.0
    )


def feed(recorder: CurveRecorder, first: int, last: int) -> None:
    """Steps of the run: in the first epoch each image is wrong, in the second, from its middle on, each is right."""
    for step in range(first, last + 1):
        epoch, own = divmod(step - 1, STEPS)
        right = (
            0.0
            if epoch == 0
            else max(0.0, (IMAGES if own + 1 == STEPS else (own + 1) * BATCH) - STEPS * BATCH / 2)
        )
        recorder(position(epoch + 1, own + 1, right))


def test_each_point_is_of_the_steps_since_the_last(tmp_path: Path) -> None:
    """Two points an epoch of 120 steps: the error of the second half is not mixed with the first's."""
    run = RunDirectory(tmp_path)
    feed(CurveRecorder(run, BATCH, IMAGES), 1, 2 * STEPS)
    assert [(point.iteration, point.error) for point in read_curve(run)] == [
        (60, 1),
        (120, 1),
        (180, 1),
        (240, 0),
    ]


def test_a_resumed_training_makes_no_point_twice(tmp_path: Path) -> None:
    """It begins anew at a checkpoint that lies before the last point that was written."""
    run = RunDirectory(tmp_path)
    feed(CurveRecorder(run, BATCH, IMAGES), 1, 130)
    feed(CurveRecorder(run, BATCH, IMAGES), 100, 2 * STEPS)
    assert [(point.iteration, point.error) for point in read_curve(run)] == [
        (60, 1),
        (120, 1),
        (180, 1),
        (240, 0),
    ]


def test_a_gpu_tells_of_some_steps_only(tmp_path: Path) -> None:
    """A point is written at the first step that is told of behind its part of the epoch; no image is left out."""
    run = RunDirectory(tmp_path)
    recorder = CurveRecorder(run, BATCH, IMAGES)
    for step in (*range(35, STEPS, 35), STEPS):
        recorder(position(1, step, 0.0))
    points = read_curve(run)
    assert [point.iteration for point in points] == [70, 120]
    assert sum(point.images for point in points) == IMAGES


def test_the_end_of_a_run_in_the_middle_of_an_epoch_is_a_point(tmp_path: Path) -> None:
    """A recipe that counts iterations ends where it likes."""
    run = RunDirectory(tmp_path)
    recorder = CurveRecorder(run, BATCH, IMAGES)
    for step in range(1, 65):
        recorder(replace(position(1, step, 0.0), total_steps=64))
    assert read_curve(run) == [(60, 600, 600), (64, 40, 40)]


def test_mixed_images_have_no_curve(tmp_path: Path) -> None:
    """Their accuracy means nothing, so nothing is written."""
    run = RunDirectory(tmp_path)
    recorder = CurveRecorder(run, BATCH, IMAGES)
    for step in range(1, STEPS + 1):
        recorder(replace(position(1, step, 0.0), accuracy=None))
    with pytest.raises(RunError, match=CURVE):
        read_curve(run)


def test_a_damaged_curve_is_said(tmp_path: Path) -> None:
    """The error names the file."""
    (tmp_path / CURVE).write_text("iteration,images,wrong\n60,none,1\n")
    with pytest.raises(RunError, match="is damaged"):
        read_curve(RunDirectory(tmp_path))
