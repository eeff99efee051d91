"""Runs beside each other: the list of all, and some of them drawn over each other with what differs and what is chance."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.text import Text
from scipy.stats import binomtest

from training.errors import RunError, TrainingError
from training.gates.gate import GATES_FILE
from training.reports.figures import SERIES, Line, draw_lines
from training.reports.history import History, read_history, split_rows
from training.reports.pages import fill, flattened, percent
from training.run.data import CHECK_FILE
from training.run.directory import RunConfig, RunDirectory, damaged
from training.run.weights import LAST_WEIGHTS
from training.steps.evaluate import EVALUATION_FILE, read_figures, read_labels, read_logits
from training.steps.publish import PUBLISHED_FILE
from training.steps.train import METRICS_FILE

_AXES: Final = ("epoch", "images seen", "seconds of training")
_DRAWN: Final = (
    ("Training loss", "train_loss", False),
    ("Validation loss", "validation_loss", False),
    ("Validation accuracy", "validation_top1", True),
)
_SAID_ELSEWHERE: Final = frozenset({"model", "packages", "changes"})


@dataclass(frozen=True)
class ComparedRun:
    """One of the runs, `series` its colour; `figures` are of its test split where it has been evaluated.

    `name` is what it is called in legends and tables: its id, or its path where two have the same id.
    """

    name: str
    run: RunDirectory
    config: RunConfig
    history: History
    figures: dict[str, Any] | None
    series: int

    def positions(self, axis: str) -> Sequence[float]:
        """Where each epoch's end lies on this axis."""
        if axis == "epoch":
            return self.history.epochs
        return self.history.images if axis == "images seen" else self.history.seconds


@dataclass(frozen=True)
class McNemarTest:
    """Two runs on the same test images: which only one of them got right, and McNemar's exact p (two-sided)."""

    first: str
    second: str
    only_first: int
    only_second: int

    @property
    def p(self) -> float:
        """The chance of a difference as large as this between two models that are equally good."""
        changed = self.only_first + self.only_second
        return float(binomtest(self.only_first, changed).pvalue) if changed else 1.0


def compare(runs: Sequence[RunDirectory], out: Path) -> Path:
    """Write a self-contained page that draws the runs over each other; its path. Raises RunError where one has no epoch yet."""
    compared = _read(runs)
    drawings = []
    for caption, column, is_share in _DRAWN:
        for x in _AXES:
            lines = [
                Line(each.name, each.positions(x), each.history.column(column), each.series)
                for each in compared
            ]
            drawing = draw_lines(
                f"{column} {x}",
                lines,
                x=x,
                percent=is_share,
                logarithmic=not is_share,
                legend=False,
            )
            if drawing:
                drawings.append((f"{caption}, by {x}", drawing))
    page = fill(
        "comparison.html.j2",
        runs=compared,
        series=SERIES,
        drawings=drawings,
        differences=differences(compared),
        duels=duels(compared),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(page)
    return out


def comparison_table(runs: Sequence[RunDirectory]) -> Table:
    """The runs with their figures, what differs between them, and whether that is more than chance."""
    compared = _read(runs)
    table = Table(
        "",
        *(Column(Text(each.name), overflow="fold") for each in compared),
        title="runs compared",
        show_lines=True,
    )
    table.add_row("best validation accuracy", *(each.history.best_validation for each in compared))
    table.add_row("test accuracy", *(_test_accuracy(each.figures) for each in compared))
    for name, values in differences(compared).items():
        table.add_row(Text(name), *(Text(value) for value in values))
    for duel in duels(compared):
        table.add_row(
            "McNemar",
            *(
                Text(_as_seen_by(each.name, duel)) if each.name in {duel.first, duel.second} else ""
                for each in compared
            ),
        )
    return table


def differences(runs: Sequence[ComparedRun]) -> dict[str, list[str]]:
    """What is not the same in all of their configurations, by dotted name, a value for each run."""
    described = [
        flattened(each.config.model_dump(mode="json", exclude=set(_SAID_ELSEWHERE)))
        for each in runs
    ]
    names = dict.fromkeys(itertools.chain.from_iterable(described))
    columns = {name: [values.get(name, "") for values in described] for name in names}
    return {name: values for name, values in columns.items() if len(set(values)) > 1}


def duels(runs: Sequence[ComparedRun]) -> list[McNemarTest]:
    """Each pair of runs that were tested on the same images."""
    tested = [
        (each.name, _test_images(each.run), _right(each.run))
        for each in runs
        if each.figures is not None
    ]
    found = []
    for (first, images, right), (second, others, others_right) in itertools.combinations(tested, 2):
        if images == others:
            found.append(
                McNemarTest(
                    first,
                    second,
                    int((right & ~others_right).sum()),
                    int((others_right & ~right).sum()),
                )
            )
    return found


def runs_table(runs: Path) -> Table:
    """Every run under a folder, newest first, with how far it has come; one that is damaged is said to be so."""
    table = Table(
        Column("run", no_wrap=True),  # it is what the other commands take
        *("data", "network", "recipe", "state"),
        *(Column(name, justify="right") for name in ("validation", "test")),
        title=Text(f"runs in {runs}"),
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    directories = (
        [path for path in runs.glob("*") if (path / "config.json").exists()]
        if runs.is_dir()
        else []
    )
    for path in sorted(
        directories, key=lambda path: (path / "config.json").stat().st_mtime, reverse=True
    ):
        table.add_row(
            *(cell if isinstance(cell, Text) else Text(cell) for cell in _row(RunDirectory(path)))
        )
    if not directories:
        table.caption = "there are none; begin one with `python -m training run`"
    return table


def _row(run: RunDirectory) -> tuple[str | Text, ...]:
    try:
        config = run.config()
        history = read_history(run) if run.has(METRICS_FILE) else None
        figures = read_figures(run) if run.has(EVALUATION_FILE) else None
        return (
            run.run_id,
            ", ".join(Path(name).name for name in config.data),
            config.architecture,
            Path(config.recipe_name).stem,
            _state(run, config, history),
            history.best_validation if history else "",
            percent(figures["top1"]) if figures else "",
        )
    except TrainingError as error:
        return (run.run_id, "", "", "", Text(f"damaged: {error}", "red"), "", "")
    except (OSError, ValueError, TypeError, KeyError) as error:  # JSON, but not what a run writes
        return (run.run_id, "", "", "", Text(f"damaged: {damaged(run.path, error)}", "red"), "", "")


def _state(run: RunDirectory, config: RunConfig, history: History | None) -> str:
    if run.has(PUBLISHED_FILE):
        try:
            return f"published, version {run.read_json(PUBLISHED_FILE, 'publish')['version']}"
        except (TypeError, KeyError) as error:
            raise damaged(run.path / PUBLISHED_FILE, error) from None
    for artefact, state in (
        (GATES_FILE, "gated"),
        (EVALUATION_FILE, "evaluated"),
        (LAST_WEIGHTS, "trained"),
    ):
        if run.has(artefact):
            return state
    if history:
        return f"training, epoch {history.epochs[-1]}{f' of {config.recipe.epochs}' if config.recipe.epochs else ''}"
    return "checked" if run.has(CHECK_FILE) else "begun"


def _read(runs: Sequence[RunDirectory]) -> list[ComparedRun]:
    if not runs:
        raise RunError("give at least one run to compare")
    ids = Counter(run.run_id for run in runs)
    return [
        ComparedRun(
            run.run_id if ids[run.run_id] == 1 else str(run.path),
            run,
            run.config(),
            read_history(run),
            read_figures(run) if run.has(EVALUATION_FILE) else None,
            series,
        )
        for series, run in enumerate(runs)
    ]


def _right(run: RunDirectory) -> NDArray[np.bool_]:
    """Which test images a run got right."""
    return np.asarray(read_logits(run).argmax(axis=1) == read_labels(run))


def _test_images(run: RunDirectory) -> str:
    """What identifies the test images: the data's digest and the places of the test split in it."""
    try:
        digest = str(run.read_json(CHECK_FILE, "resume")["data_digest"])
    except (TypeError, KeyError) as error:
        raise damaged(run.path / CHECK_FILE, error) from None
    rows = np.array(split_rows(run).get("test", []), np.int64)
    return digest + hashlib.sha256(rows.tobytes()).hexdigest()


def _test_accuracy(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return "not evaluated"
    low, high = figures["top1_interval"]
    return f"{figures['top1']:.2%} ({low:.2%} to {high:.2%})"


def _as_seen_by(name: str, duel: McNemarTest) -> str:
    if name == duel.first:
        own, others, other = duel.only_first, duel.only_second, duel.second
    else:
        own, others, other = duel.only_second, duel.only_first, duel.first
    return f"{own} {'image' if own == 1 else 'images'} that {other} got wrong, {others} the other way; p = {duel.p:.3g}"
