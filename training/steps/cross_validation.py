"""Cross-validation: trains once per fold, so that each image is tested exactly once."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace

from model_store.proportions import wilson_interval
from training.data.check import left_out
from training.data.split import stratified_folds, write_split
from training.learning.distributed import SINGLE_PROCESS, DistributedProcess
from training.run.data import CHECK_FILE, SPLIT_FILE, RunData
from training.run.directory import Run
from training.run.known_images import KNOWN_IMAGES_FILE, known_digests, read_known_images
from training.run.weights import INITIAL_WEIGHTS
from training.steps.evaluate import evaluate
from training.steps.progress import Progress
from training.steps.thread_choice import THREADS_FILE, choose_threads
from training.steps.train import train
from training.steps.worker_choice import WORKERS_FILE, choose_workers


@dataclass(frozen=True)
class CrossValidation:
    """Test accuracy of each fold, and the number of correct answers over all images."""

    folds: tuple[float, ...]
    correct: int
    images: int

    @property
    def mean(self) -> float:
        return sum(self.folds) / len(self.folds)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson interval (95 %) of the accuracy over all images."""
        return wilson_interval(self.correct, self.images)


def cross_validate(
    run: Run,
    data: RunData,
    folds: int,
    report: Callable[[int, Progress], None] = lambda *_: None,
    process: DistributedProcess = SINGLE_PROCESS,
    interrupted: Callable[[], bool] = lambda: False,
) -> CrossValidation:
    """Train and evaluate each fold in `fold-<number>` of the run directory. Publishes nothing.

    Predefined splits of the data are merged before the folds are made. Images that the initial
    weights were trained on are never tested. A second call resumes.
    """
    choose_threads(run, len(data.images.class_names), process)  # once, for all folds
    choose_workers(run, data, process)
    accuracies, correct, images = [], 0, 0
    excluded = left_out(data.images, data.scan.facts)
    known = known_digests(data.scan, read_known_images(run))
    splits = stratified_folds(data.images, data.scan.facts, excluded, folds, never_test=known)
    for number, split in enumerate(splits, start=1):
        fold, fold_data = Run(run.path / f"fold-{number}", run.config), replace(data, split=split)
        if process.is_main and not fold.has(CHECK_FILE):
            Run.create_at(fold.path, run.config)
            for name in (INITIAL_WEIGHTS, KNOWN_IMAGES_FILE, THREADS_FILE, WORKERS_FILE):
                if run.has(name):
                    shutil.copy(run.path / name, fold.path / name)
            fold.write(SPLIT_FILE, write_split(split, data.images, excluded))
            fold.write(CHECK_FILE, run.file(CHECK_FILE, "check").read_bytes())
        process.barrier()

        def report_fold(progress: Progress, number: int = number) -> None:
            report(number, progress)

        train(fold, fold_data, report_fold, process, interrupted)
        figures = evaluate(fold, fold_data, process)
        accuracies.append(figures["top1"])
        correct += round(figures["top1"] * figures["test_images"])
        images += figures["test_images"]
    return CrossValidation(tuple(accuracies), correct, images)
