"""History: images, seconds and best epoch of a run."""

import itertools
from collections.abc import Sequence
from typing import Any

from training.reports.history import History, read_history, split_indices
from training.run.data import open_run_data
from training.run.directory import Run
from training.steps.evaluate import read_figures, read_logits
from training.steps.validation import is_better


def history(*lines: dict[str, Any]) -> History:
    """100 images in batches of 30, with a smaller last batch."""
    return History(lines, 100, 30)


def test_images_and_seconds_add_up() -> None:
    """100 images in 4 steps per epoch, and a last epoch of 2 steps."""
    measured = history(
        {"epoch": 1, "step": 4, "images_per_second": 50.0},
        {"epoch": 2, "step": 8, "images_per_second": 25.0},
        {"epoch": 3, "step": 10, "images_per_second": 100.0},
    )
    assert measured.epochs == [1, 2, 3]
    assert measured.images == [100, 200, 250]
    assert measured.seconds == [2.0, 6.0, 6.5]


def test_a_run_that_ends_within_its_first_epoch_has_measured_its_steps_only() -> None:
    assert history({"epoch": 1, "step": 2, "images_per_second": 30.0}).images == [60]


def test_an_epoch_without_a_speed_takes_no_time() -> None:
    measured = history({"epoch": 1, "step": 4}, {"epoch": 2, "step": 8, "images_per_second": 0.0})
    assert measured.images == [100, 200]
    assert measured.seconds == [0.0, 0.0]


def test_the_best_epoch_has_the_highest_accuracy_then_the_lowest_loss_then_came_first() -> None:
    metrics = [(0.8, 0.1), (0.9, 0.5), (0.9, 0.3), (0.9, 0.3), (0.7, 0.0)]
    lines = epochs(metrics)
    assert history(*lines).best["epoch"] == 3
    assert history(*lines[:2]).best["epoch"] == 2
    assert history(*reversed(lines)).best["epoch"] == 4
    assert history(*lines).best_validation == "90.00%"


def epochs(metrics: Sequence[tuple[float, float]]) -> list[dict[str, Any]]:
    """Epochs with these validation accuracies and losses."""
    return [
        {"epoch": epoch, "validation_top1": top1, "validation_loss": loss}
        for epoch, (top1, loss) in enumerate(metrics, start=1)
    ]


def test_the_best_epoch_is_the_one_that_training_keeps() -> None:
    """For all histories of four epochs with two accuracies and two losses, so with many ties."""
    for metrics in itertools.product(itertools.product((0.8, 0.9), (0.1, 0.2)), repeat=4):
        lines = epochs(metrics)
        kept = [
            line["epoch"]
            for position, line in enumerate(lines)
            if is_better(line, lines[:position], "accuracy")
        ]
        assert history(*lines).best["epoch"] == kept[-1], metrics


def test_validation_images_that_are_trained_on_have_no_best_accuracy() -> None:
    lines = epochs([(0.8, 0.1)])
    assert "%" not in History(lines, 100, 30, validation_learned=True).best_validation


def test_metrics_that_were_not_measured_are_none() -> None:
    """The line of a missing epoch is the last one."""
    measured = history({"epoch": 1, "train_top1": 0.5}, {"epoch": 2})
    assert measured.metric("train_top1") == [0.5, None]
    assert measured.line_of(1)["train_top1"] == 0.5
    assert measured.line_of(2) == measured.line_of(9) == {"epoch": 2}


def test_a_history_is_read_from_the_files_of_a_run(finished_run: Run) -> None:
    rows, data = split_indices(finished_run), open_run_data(finished_run)
    assert rows == {
        name: sorted(getattr(data.split, name).tolist()) for name in ("train", "validation", "test")
    }
    measured = read_history(finished_run)
    assert measured.epochs == [1, 2, 3]
    assert measured.images == [len(data.split.train) * epoch for epoch in measured.epochs]
    assert measured.best["epoch"] == read_figures(finished_run)["best_epoch"]
    assert len(read_logits(finished_run)) == len(rows["test"])
