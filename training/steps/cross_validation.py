"""Cross-validation: how well a recipe does on data that none of its trainings saw, each image tested exactly once."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from training.data.split import stratified_folds, write_split
from training.learning.distributed import SINGLE_PROCESS, DistributedProcess
from training.run.data import CHECK_FILE, SPLIT_FILE, open_run_data
from training.run.directory import RunDirectory
from training.steps.evaluate import evaluate, wilson_interval
from training.steps.train import Progress, train


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
    run: RunDirectory,
    folds: int,
    report: Callable[[int, Progress], None] = lambda *_: None,
    process: DistributedProcess = SINGLE_PROCESS,
    interrupted: Callable[[], bool] = lambda: False,
) -> CrossValidation:
    """Train and evaluate once per fold, each in a run's directory of its own inside the run's; publishes nothing.

    Splits that the data gives are put together again. Called again on the same run it goes on where it was cut.
    """
    data = open_run_data(run, process=process)
    accuracies, correct = [], 0
    for number, split in enumerate(
        stratified_folds(data.images, data.scan.facts, data.left_out, folds), start=1
    ):
        fold = RunDirectory(run.path / f"fold-{number}")
        if process.is_main and not fold.has(CHECK_FILE):
            fold.path.mkdir(exist_ok=True)
            fold.write_config(run.config())
            fold.write(SPLIT_FILE, write_split(split, data.images, data.left_out))
            fold.write(CHECK_FILE, run.file(CHECK_FILE, "check").read_bytes())
        process.barrier()
        train(
            fold,
            replace(data, split=split),
            lambda progress, number=number: report(number, progress),  # type: ignore[misc]
            process,
            interrupted,
        )
        figures = evaluate(fold, replace(data, split=split), process)
        accuracies.append(figures["top1"])
        correct += round(figures["top1"] * figures["test_images"])
    return CrossValidation(tuple(accuracies), correct, len(data.images) - len(data.left_out))
