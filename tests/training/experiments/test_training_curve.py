"""The training curve counts each image once, whatever the epoch's length, also after a resume."""

from dataclasses import replace
from pathlib import Path

import pytest

from training.errors import RunError
from training.experiments.training_curve import CURVE, CurveRecorder, read_curve
from training.run.directory import RunDirectory
from training.steps.progress import Progress

STEPS, BATCH_SIZE = 120, 10
IMAGES = STEPS * BATCH_SIZE - 4  # the last batch is smaller
CURVE_OF_BOTH_EPOCHS = [(60, 1), (120, 1), (180, 1), (240, 0)]


def progress(epoch: int, step: int, correct: float) -> Progress:
    """After a step of an epoch in which so many images were classified correctly."""
    seen = IMAGES if step == STEPS else step * BATCH_SIZE
    run_step = (epoch - 1) * STEPS + step
    return Progress(epoch, 2, step, STEPS, run_step, 2 * STEPS, 0.0, correct / seen, 1.0, 1.0)


def record(recorder: CurveRecorder, first: int, last: int) -> None:
    """Steps of a run of two epochs: only the images of the last half epoch are correct."""
    for run_step in range(first, last + 1):
        epoch, step = divmod(run_step - 1, STEPS)
        seen = IMAGES if step + 1 == STEPS else (step + 1) * BATCH_SIZE
        correct = 0.0 if epoch == 0 else max(0.0, seen - STEPS * BATCH_SIZE / 2)
        recorder(progress(epoch + 1, step + 1, correct))


def curve(run: RunDirectory) -> list[tuple[int, float]]:
    return [(point.iteration, point.error) for point in read_curve(run)]


def test_each_point_covers_the_steps_since_the_last(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    record(CurveRecorder(run, BATCH_SIZE, IMAGES), 1, 2 * STEPS)
    assert curve(run) == CURVE_OF_BOTH_EPOCHS
    assert sum(point.images for point in read_curve(run)) == 2 * IMAGES


def test_a_resumed_training_repeats_no_point(tmp_path: Path) -> None:
    """It resumes from a checkpoint before the last point that was written."""
    run = RunDirectory(tmp_path)
    record(CurveRecorder(run, BATCH_SIZE, IMAGES), 1, 130)
    record(CurveRecorder(run, BATCH_SIZE, IMAGES), 100, 2 * STEPS)
    assert curve(run) == CURVE_OF_BOTH_EPOCHS


def test_points_follow_the_reported_steps_of_a_gpu(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    recorder = CurveRecorder(run, BATCH_SIZE, IMAGES)
    for step in (*range(35, STEPS, 35), STEPS):
        recorder(progress(1, step, 0.0))
    points = read_curve(run)
    assert [point.iteration for point in points] == [70, 120]
    assert sum(point.images for point in points) == IMAGES


def test_the_end_of_a_run_within_an_epoch_is_a_point(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    recorder = CurveRecorder(run, BATCH_SIZE, IMAGES)
    for step in range(1, 65):
        recorder(replace(progress(1, step, 0.0), total_steps=64))
    assert read_curve(run) == [(60, 600, 600), (64, 40, 40)]


def test_the_report_at_the_end_of_an_epoch_adds_no_point(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    recorder = CurveRecorder(run, BATCH_SIZE, IMAGES)
    record(recorder, 1, STEPS)
    recorder(replace(progress(1, STEPS, IMAGES), metrics={"train_top1": 1.0}))
    assert curve(run) == CURVE_OF_BOTH_EPOCHS[:2]


def test_mixed_images_have_no_curve(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    recorder = CurveRecorder(run, BATCH_SIZE, IMAGES)
    for step in range(1, STEPS + 1):
        recorder(replace(progress(1, step, 0.0), accuracy=None))
    with pytest.raises(RunError, match=CURVE):
        read_curve(run)


def test_a_damaged_curve_is_an_error(tmp_path: Path) -> None:
    (tmp_path / CURVE).write_text("iteration,images,wrong\n60,none,1\n")
    with pytest.raises(RunError, match=CURVE):
        read_curve(RunDirectory(tmp_path))
