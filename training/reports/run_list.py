"""The list of all runs of a folder, with their states."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.text import Text

from training.errors import TrainingError
from training.gates.gate import GATES_FILE
from training.reports.history import History, read_history
from training.reports.pages import format_percent
from training.run.config import RunConfig
from training.run.data import CHECK_FILE
from training.run.directory import Run, damaged_file_error
from training.run.metrics import METRICS_FILE
from training.run.weights import LAST_WEIGHTS
from training.steps.evaluate import EVALUATION_FILE, read_figures
from training.steps.publish import PUBLISHED_FILE


def list_runs(folder: Path) -> list[Path]:
    """The directories of all runs in a folder, newest first."""
    configs = [path for path in folder.glob("*/config.json") if path.is_file()]
    configs.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent for path in configs]


@dataclass(frozen=True)
class RunSummary:
    """A line of the list. Values that the run does not have yet are None.

    `validation_top1` is also None if the run trains on validation images.
    """

    run: str
    data: list[str]
    architecture: str
    recipe: str
    state: str
    validation_top1: float | None = None
    test_top1: float | None = None
    validation_learned: bool = False
    error: str | None = None


def summarize_run(path: Path) -> RunSummary:
    """Read the state of a run. A damaged run has an `error`."""
    try:
        run = Run.open(path)
        config = run.config
        history = read_history(run) if run.has(METRICS_FILE) else None
        figures = read_figures(run) if run.has(EVALUATION_FILE) else None
        learned = history is not None and history.validation_learned
        return RunSummary(
            run.run_id,
            [Path(name).name for name in config.data],
            config.architecture,
            Path(config.recipe_name).stem,
            _state(run, config, history),
            float(history.best["validation_top1"]) if history and not learned else None,
            float(figures["top1"]) if figures else None,
            learned,
        )
    except TrainingError as error:
        reason: Exception = error
    except (OSError, ValueError, TypeError, KeyError) as error:
        # JSON that does not have the form that runs write.
        reason = damaged_file_error(path, error)
    return RunSummary(path.name, [], "", "", "damaged", error=str(reason))


def runs_table(runs: Sequence[RunSummary]) -> Table:
    """Each run with its state and accuracy."""
    table = Table(
        Column("run", no_wrap=True),  # other commands take it as an argument
        *(Column(name, overflow="fold") for name in ("data", "network", "recipe", "state")),
        *(Column(name, justify="right", no_wrap=True) for name in ("validation", "test")),
        title="runs",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for run in runs:
        table.add_row(
            Text(run.run),
            Text(", ".join(run.data)),
            Text(run.architecture),
            Text(run.recipe),
            Text(f"damaged: {run.error}", "red") if run.error else Text(run.state),
            Text("trained on" if run.validation_learned else _percent(run.validation_top1)),
            Text(_percent(run.test_top1)),
        )
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else format_percent(share)


def _state(run: Run, config: RunConfig, history: History | None) -> str:
    if run.has(PUBLISHED_FILE):
        try:
            return f"published, version {run.read_json(PUBLISHED_FILE, 'publish')['version']}"
        except (TypeError, KeyError) as error:
            raise damaged_file_error(run.path / PUBLISHED_FILE, error) from None
    states = ((GATES_FILE, "gated"), (EVALUATION_FILE, "evaluated"), (LAST_WEIGHTS, "trained"))
    for file, state in states:
        if run.has(file):
            return state
    if history:
        total = f" of {config.recipe.epochs}" if config.recipe.epochs else ""
        return f"training, epoch {history.epochs[-1]}{total}"
    return "checked" if run.has(CHECK_FILE) else "created"
