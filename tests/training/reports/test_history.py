"""History: images and seconds by hand, the best epoch, what a run's own files say."""

from typing import Any

from training.reports.history import History, read_history, split_rows
from training.run.data import open_run_data
from training.run.directory import RunDirectory
from training.steps.evaluate import read_figures, read_logits


def history(*lines: dict[str, Any]) -> History:
    """A history of these lines: 100 images in batches of 30, the last of an epoch smaller."""
    return History(lines, 100, 30)


def test_images_and_seconds_by_hand() -> None:
    """100 images in 4 steps an epoch, the last epoch cut to two; at 50, 25 and 100 images a second."""
    seen = history(
        {"epoch": 1, "step": 4, "images_per_second": 50.0},
        {"epoch": 2, "step": 8, "images_per_second": 25.0},
        {"epoch": 3, "step": 10, "images_per_second": 100.0},
    )
    assert seen.epochs == [1, 2, 3]
    assert seen.images == [100, 200, 250]
    assert seen.seconds == [2.0, 6.0, 6.5]


def test_a_run_that_ends_within_its_first_epoch_has_not_seen_all_images() -> None:
    """Two steps are two batches."""
    assert history({"epoch": 1, "step": 2, "images_per_second": 30.0}).images == [60]


def test_an_epoch_without_a_pace_takes_no_time() -> None:
    """It was too short to be measured, or was trained before paces were kept."""
    seen = history({"epoch": 1, "step": 4}, {"epoch": 2, "step": 8, "images_per_second": 0.0})
    assert seen.images == [100, 200]
    assert seen.seconds == [0.0, 0.0]


def test_the_best_epoch_has_the_highest_accuracy_then_the_lowest_loss_then_came_first() -> None:
    """As training keeps its weights."""
    figures = [(0.8, 0.1), (0.9, 0.5), (0.9, 0.3), (0.9, 0.3), (0.7, 0.0)]
    lines = [
        {"epoch": n, "validation_top1": top1, "validation_loss": loss}
        for n, (top1, loss) in enumerate(figures, start=1)
    ]
    assert history(*lines).best["epoch"] == 3
    assert history(*lines[:2]).best["epoch"] == 2
    assert history(*reversed(lines)).best["epoch"] == 4
    assert history(*lines).best_validation == "90.00%"


def test_columns_and_lines_of_an_epoch() -> None:
    """What was not measured is None; an epoch that is not there is the last one."""
    seen = history({"epoch": 1, "train_top1": 0.5}, {"epoch": 2})
    assert seen.column("train_top1") == [0.5, None]
    assert seen.at(1)["train_top1"] == 0.5
    assert seen.at(2) == seen.at(9) == {"epoch": 2}


def test_a_history_is_read_from_the_runs_own_files(finished_run: RunDirectory) -> None:
    """Without opening the data: the split alone tells how many images there are; the kept epoch is the best."""
    rows, data = split_rows(finished_run), open_run_data(finished_run)
    assert rows == {
        name: sorted(getattr(data.split, name).tolist()) for name in ("train", "validation", "test")
    }
    seen = read_history(finished_run)
    assert seen.epochs == [1, 2, 3]
    assert seen.images == [len(data.split.train) * epoch for epoch in seen.epochs]
    assert seen.best["epoch"] == read_figures(finished_run)["best_epoch"]
    assert len(read_logits(finished_run)) == len(rows["test"])
