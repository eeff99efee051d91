"""A run's history: what each epoch measured, after how many images and how much training time."""

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from training.reports.pages import percent
from training.run.data import SPLIT_FILE
from training.run.directory import RunDirectory, damaged
from training.steps.train import read_metrics


@dataclass(frozen=True)
class History:
    """The lines of metrics.jsonl, at least one, the number of images that are trained on and the size of a batch."""

    lines: Sequence[Mapping[str, Any]]
    train_images: int
    batch_size: int
    validation_learned: bool = False
    """Whether validation images are trained on too, so that their figures say nothing of new ones."""

    @property
    def epochs(self) -> list[int]:
        """From 1."""
        return [line["epoch"] for line in self.lines]

    @property
    def images(self) -> list[int]:
        """Images seen up to the end of each epoch; the last epoch may be cut short, and it may be the first one."""
        a_step = min(self.train_images / self.lines[0]["step"], self.batch_size)
        return [round(a_step * line["step"]) for line in self.lines]

    @property
    def seconds(self) -> list[float]:
        """Seconds of training up to the end of each epoch, by the pace that it reports; validation does not count."""
        seen = self.images
        new = [after - before for before, after in zip([0, *seen], seen, strict=False)]
        paces = [line.get("images_per_second") or float("inf") for line in self.lines]
        return list(accumulate(images / pace for images, pace in zip(new, paces, strict=True)))

    def column(self, name: str) -> list[float | None]:
        """One figure of every epoch; None where it was not measured."""
        return [line.get(name) for line in self.lines]

    def at(self, epoch: int) -> Mapping[str, Any]:
        """The line of this epoch; the last one where there is none."""
        return next((line for line in self.lines if line["epoch"] == epoch), self.lines[-1])

    @property
    def best(self) -> Mapping[str, Any]:
        """The line with the highest validation accuracy, of equals the one with the lowest loss."""
        return max(self.lines, key=lambda line: (line["validation_top1"], -line["validation_loss"]))

    @property
    def best_validation(self) -> str:
        """The best validation accuracy in words."""
        return (
            "trained on too" if self.validation_learned else percent(self.best["validation_top1"])
        )


def read_history(run: RunDirectory) -> History:
    """What a run has measured so far. Raises RunError where no epoch has ended, or a file is damaged."""
    lines, rows, recipe = read_metrics(run), split_rows(run), run.config().recipe
    learned = len(rows.get("train", [])) + (
        len(rows.get("validation", [])) if recipe.learn_validation else 0
    )
    return History(lines, learned, recipe.batch_size, recipe.learn_validation)


def split_rows(run: RunDirectory) -> dict[str, list[int]]:
    """The positions of each split's images in the data, from split.csv alone. Raises RunError."""
    rows: dict[str, list[int]] = defaultdict(list)
    for index, part in enumerate(_parts(run)):
        if part:
            rows[part].append(index)
    return dict(rows)


def _parts(run: RunDirectory) -> Iterator[str]:
    path = run.file(SPLIT_FILE, "resume")
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield from (row["split"] for row in csv.DictReader(file))
    except (KeyError, csv.Error) as error:
        raise damaged(path, error) from None
