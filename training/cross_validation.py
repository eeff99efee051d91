"""Cross-validation: how well a recipe does on data that none of its trainings saw, each image tested exactly once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from training.data import load_data, stratified_folds
from training.evaluation import evaluate, wilson_interval
from training.run_directory import Config, RunDirectory
from training.train import Progress, train


@dataclass(frozen=True)
class CrossValidation:
    """Test accuracy of each fold, their mean, and the pooled Wilson interval (95 %) over all images."""

    folds: tuple[float, ...]
    correct: int
    images: int

    @property
    def mean(self) -> float:
        """The mean of the folds' accuracies."""
        return sum(self.folds) / len(self.folds)

    @property
    def interval(self) -> tuple[float, float]:
        """The Wilson interval of all images together."""
        return wilson_interval(self.correct, self.images)


def cross_validate(
    directory: Path, config: Config, folds: int, report: Callable[[int, Progress], None] = lambda *_: None
) -> CrossValidation:
    """Train and evaluate once per fold, each in a run's directory of its own under `directory`; publishes nothing."""
    data = load_data(config.data)
    accuracies, correct = [], 0
    for number, split in enumerate(stratified_folds(data.labels, folds), start=1):
        run = RunDirectory(directory / f"fold-{number}")
        run.path.mkdir(parents=True)
        run.write_config(config)
        run.write_split(split, data.digest)
        train(run, data, partial(report, number))
        figures = evaluate(run, data)
        accuracies.append(figures["top1"])
        correct += round(figures["top1"] * figures["test_images"])
    return CrossValidation(tuple(accuracies), correct, len(data.labels))
