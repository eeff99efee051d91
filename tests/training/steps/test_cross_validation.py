"""Cross-validation: each fold trains on its own images and tests the others, each image once."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from training.learning.distributed import DistributedProcess
from training.run.data import RunData, open_run_data
from training.run.directory import Run
from training.steps import cross_validation
from training.steps.cross_validation import cross_validate


def test_no_fold_trains_on_the_images_that_it_tests(
    new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All images together are tested once; correct answers are pooled."""
    trained: list[np.ndarray] = []
    tested: list[np.ndarray] = []

    def train(_: Run, data: RunData, *__: object) -> None:
        trained.append(data.training_indices)

    def evaluate(run: Run, data: RunData, _: object) -> dict[str, float]:
        tested.append(data.split.test)
        assert open_run_data(run).split.test.tolist() == data.split.test.tolist()
        images = len(data.split.test)
        return {"top1": (images - len(tested)) / images, "test_images": images}

    monkeypatch.setattr(cross_validation, "train", train)
    monkeypatch.setattr(cross_validation, "evaluate", evaluate)
    run = new_run()
    data = open_run_data(run)
    result = cross_validate(run, data, 3)
    for own, test in zip(trained, tested, strict=True):
        assert len(own) > len(test)
        assert not np.intersect1d(own, test).size
    every = np.sort(np.concatenate(tested))
    assert len(every) == len(np.unique(every)) == result.images == 1797
    assert result.correct == 1797 - (1 + 2 + 3)
    assert result.mean == pytest.approx(sum(result.folds) / 3)


def test_all_folds_train_with_the_number_of_threads_that_was_measured_once(
    new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each fold measures again, and the accuracies come from different numbers."""
    monkeypatch.setattr(cross_validation, "train", lambda *_: None)
    figures = {"top1": 1.0, "test_images": 1}
    monkeypatch.setattr(cross_validation, "evaluate", lambda *_: figures)
    run, before = new_run(), torch.get_num_threads()
    process = DistributedProcess(available_threads=2)
    try:
        cross_validate(run, open_run_data(run), 2, process=process)
    finally:
        torch.set_num_threads(before)
    measured = (run.path / "threads.json").read_bytes()
    folds = [run.path / f"fold-{number}" / "threads.json" for number in (1, 2)]
    assert [fold.read_bytes() for fold in folds] == [measured, measured]
