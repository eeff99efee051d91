"""Compares runs: a list of all runs, and a page and a table of several runs."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from rich.table import Column, Table
from rich.text import Text
from scipy.stats import binomtest

from model_store.command_line import as_called
from training.errors import RunError
from training.reports.figures import SERIES_COLOURS, Line, draw_lines
from training.reports.history import History, read_history, split_indices
from training.reports.pages import flatten, render_page
from training.run.config import RunConfig
from training.run.data import CHECK_FILE
from training.run.directory import Run, damaged_file_error
from training.steps.evaluate import EVALUATION_FILE, read_figures, read_labels, read_logits

X_AXES: Final = ("epoch", "images seen", "seconds of training")
DRAWN_METRICS: Final = (
    ("Training loss", "train_loss", False),
    ("Validation loss", "validation_loss", False),
    ("Validation accuracy", "validation_top1", True),
)
"""Title, name in `metrics.jsonl`, and whether the metric is a share."""
NOT_COMPARED: Final = frozenset({"model", "packages", "changes"})
"""Fields of `config.json` that are shown elsewhere or follow from other fields."""


@dataclass(frozen=True)
class ComparedRun:
    """One of the compared runs.

    Attributes:
        name: The run's id, or its path if two runs have the same id.
        figures: Content of `evaluation.json`; None if the run is not evaluated.
        series: Number of its colour.
    """

    name: str
    run: Run
    config: RunConfig
    history: History
    figures: dict[str, Any] | None
    series: int

    def x_values(self, axis: str) -> Sequence[float]:
        """Position of the end of each epoch. `axis` is one of X_AXES."""
        if axis == "epoch":
            return self.history.epochs
        return self.history.images if axis == "images seen" else self.history.seconds


@dataclass(frozen=True)
class McNemarTest:
    """Compares two runs on the same test images.

    `only_first` and `only_second` count the images that only this run classified correctly.
    """

    first: str
    second: str
    only_first: int
    only_second: int

    @property
    def p(self) -> float:
        """Two-sided p-value of McNemar's exact test; 1 if there is no difference."""
        different = self.only_first + self.only_second
        return float(binomtest(self.only_first, different).pvalue) if different else 1.0

    def describe_for(self, name: str) -> str:
        """The result from the point of view of one of the two runs."""
        if name == self.first:
            own, theirs, other = self.only_first, self.only_second, self.second
        else:
            own, theirs, other = self.only_second, self.only_first, self.first
        return f"only this run correct: {own}; only {other} correct: {theirs}; p = {self.p:.3g}"


def write_comparison(compared: Sequence[ComparedRun], out: Path) -> Path:
    """Write a self-contained page that compares the runs. Returns its path."""
    page = render_page(
        "comparison.html.j2",
        runs=compared,
        colours=SERIES_COLOURS,
        drawings=_draw_metrics(compared),
        differences=config_differences(compared),
        mcnemar_tests=mcnemar_tests(compared),
        untested=untested_pairs(compared),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(page)
    return out


def _draw_metrics(compared: Sequence[ComparedRun]) -> list[tuple[str, Markup]]:
    drawings = []
    for title, metric, is_share in DRAWN_METRICS:
        for axis in X_AXES:
            lines = [
                Line(each.name, each.x_values(axis), each.history.metric(metric), each.series)
                for each in compared
            ]
            drawing = draw_lines(
                f"{metric} {axis}",
                lines,
                x=axis,
                percent=is_share,
                logarithmic=not is_share,
                legend=False,
            )
            if drawing:
                drawings.append((f"{title}, by {axis}", drawing))
    return drawings


def comparison_table(compared: Sequence[ComparedRun]) -> Table:
    """Accuracies, configuration differences and McNemar tests of the runs."""
    columns = (Column(Text(each.name), overflow="fold") for each in compared)
    table = Table("", *columns, title="runs compared", show_lines=True)
    table.add_row("best validation accuracy", *(each.history.best_validation for each in compared))
    table.add_row("test accuracy", *(_test_accuracy(each.figures) for each in compared))
    for name, values in config_differences(compared).items():
        table.add_row(Text(name), *(Text(value) for value in values))
    for test in mcnemar_tests(compared):
        names = (test.first, test.second)
        cells = (Text(test.describe_for(e.name)) if e.name in names else "" for e in compared)
        table.add_row("McNemar", *cells)
    return table


def config_differences(runs: Sequence[ComparedRun]) -> dict[str, list[str]]:
    """Fields of `config.json` that differ between the runs: dotted name to one value per run."""
    configs = [
        flatten(each.config.model_dump(mode="json", exclude=set(NOT_COMPARED))) for each in runs
    ]
    names = dict.fromkeys(itertools.chain.from_iterable(configs))
    rows = {name: [values.get(name, "") for values in configs] for name in names}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def mcnemar_tests(runs: Sequence[ComparedRun]) -> list[McNemarTest]:
    """A test for each pair of runs that were evaluated on the same images."""
    evaluated = [
        (each.name, _test_images_digest(each.run), _correct_images(each.run))
        for each in runs
        if each.figures is not None
    ]
    return [
        McNemarTest(
            first,
            second,
            only_first=int((first_correct & ~second_correct).sum()),
            only_second=int((second_correct & ~first_correct).sum()),
        )
        for (first, first_images, first_correct), (second, second_images, second_correct) in (
            itertools.combinations(evaluated, 2)
        )
        if first_images == second_images
    ]


def untested_pairs(runs: Sequence[ComparedRun]) -> list[str]:
    """Why some runs are not compared by McNemar's test, one sentence each."""
    if len(runs) == 1:
        return ["no significance test: it needs at least two runs"]
    reasons = [
        f"no significance test with {each.name}: it is not evaluated; run "
        f"`{as_called('training evaluate')} {each.run.path}`"
        for each in runs
        if each.figures is None
    ]
    evaluated = [(e.name, _test_images_digest(e.run)) for e in runs if e.figures is not None]
    reasons += [
        f"no significance test between {first} and {second}: their test images differ; train both "
        "on the same data"
        for (first, first_images), (second, second_images) in itertools.combinations(evaluated, 2)
        if first_images != second_images
    ]
    return reasons


def read_compared(runs: Sequence[Run]) -> list[ComparedRun]:
    """Read the runs, and give each a unique name.

    Raises:
        RunError: A run has not finished an epoch, or there are no runs.
    """
    if not runs:
        raise RunError("Give at least one run to compare.")
    ids = Counter(run.run_id for run in runs)
    return [
        ComparedRun(
            run.run_id if ids[run.run_id] == 1 else str(run.path),
            run,
            run.config,
            read_history(run),
            read_figures(run) if run.has(EVALUATION_FILE) else None,
            series,
        )
        for series, run in enumerate(runs)
    ]


def _correct_images(run: Run) -> NDArray[np.bool_]:
    """Whether each test image was classified correctly, bool `[images]`."""
    return np.asarray(read_logits(run).argmax(axis=1) == read_labels(run))


def _test_images_digest(run: Run) -> str:
    """Identifies the test images: the digest of the data and the positions of the test split."""
    try:
        digest = str(run.read_json(CHECK_FILE, "resume")["data_digest"])
    except (TypeError, KeyError) as error:
        raise damaged_file_error(run.path / CHECK_FILE, error) from None
    indices = np.array(split_indices(run).get("test", []), np.int64)
    return digest + hashlib.sha256(indices.tobytes()).hexdigest()


def _test_accuracy(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return "not evaluated"
    low, high = figures["top1_interval"]
    return f"{figures['top1']:.2%} ({low:.2%} to {high:.2%})"
