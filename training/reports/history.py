"""Metrics of each epoch of a run, and the images and seconds of training up to its end."""

import csv
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from training.reports.pages import format_percent
from training.run.data import SPLIT_FILE
from training.run.directory import Run, damaged_file_error
from training.run.metrics import read_metrics


@dataclass(frozen=True)
class History:
    """At least one line of `metrics.jsonl`.

    Attributes:
        lines: One line per epoch.
        validation_learned: Whether the run also trains on validation images. Their metrics are
            then no estimate for new images.
    """

    lines: Sequence[Mapping[str, Any]]
    train_images: int
    batch_size: int
    validation_learned: bool = False

    @property
    def epochs(self) -> list[int]:
        """Numbers of the epochs, from 1."""
        return [line["epoch"] for line in self.lines]

    @property
    def images(self) -> list[int]:
        """Images seen up to the end of each epoch. The last epoch may be cut short."""
        per_step = min(self.train_images / self.lines[0]["step"], self.batch_size)
        return [round(per_step * line["step"]) for line in self.lines]

    @property
    def seconds(self) -> list[float]:
        """Seconds of training up to the end of each epoch, without validation."""
        images = self.images
        of_epoch = [after - before for before, after in zip([0, *images], images, strict=False)]
        speeds = [line.get("images_per_second") or float("inf") for line in self.lines]
        return list(accumulate(n / speed for n, speed in zip(of_epoch, speeds, strict=True)))

    def metric(self, name: str) -> list[float | None]:
        """A metric of every epoch; None if it was not measured."""
        return [line.get(name) for line in self.lines]

    def line_of(self, epoch: int) -> Mapping[str, Any]:
        """The line of this epoch, or the last one if there is none."""
        return next((line for line in self.lines if line["epoch"] == epoch), self.lines[-1])

    @property
    def best(self) -> Mapping[str, Any]:
        """The line with the highest validation accuracy. Ties go to the lowest validation loss."""

        def rank(line: Mapping[str, Any]) -> tuple[float, float]:
            top1, loss = line["validation_top1"], line["validation_loss"]
            return (-math.inf, -math.inf) if loss is None else (top1, -loss)

        return max(self.lines, key=rank)

    @property
    def best_validation(self) -> str:
        """The best validation accuracy as text, or `trained on` with `validation_learned`."""
        if self.validation_learned:
            return "trained on"
        return format_percent(self.best["validation_top1"])


def read_history(run: Run) -> History:
    """The history of a run so far. Raises RunError if no epoch has ended or a file is damaged."""
    lines, indices, recipe = read_metrics(run), split_indices(run), run.config.recipe
    train_images = len(indices.get("train", []))
    if recipe.learn_validation:
        train_images += len(indices.get("validation", []))
    return History(lines, train_images, recipe.batch_size, recipe.learn_validation)


def split_indices(run: Run) -> dict[str, list[int]]:
    """Positions in the data of the images of each split, from `split.csv`. Raises RunError."""
    indices: dict[str, list[int]] = defaultdict(list)
    for index, split in enumerate(_read_splits(run)):
        if split:
            indices[split].append(index)
    return dict(indices)


def _read_splits(run: Run) -> Iterator[str]:
    path = run.file(SPLIT_FILE, "resume")
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield from (row["split"] for row in csv.DictReader(file))
    except (KeyError, csv.Error) as error:
        raise damaged_file_error(path, error) from None
