"""Describes in a report how an experiment was run: data, recipe, arithmetic and commands."""

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from training.experiments.laboratory import Laboratory
from training.experiments.trained_run import TrainedRun
from training.learning.recipe_file import EXPERIMENT_RECIPE
from training.reports.history import read_history, split_indices
from training.reports.pages import format_duration
from training.run.checkpoint import load_checkpoint
from training.run.config import size_text
from training.run.request import RunRequest
from training.statistics import join_values


def is_cifar10(laboratory: Laboratory) -> bool:
    """Whether the data is CIFAR-10 or a copy named `CIFAR-10 (…)`, as in the paper."""
    return re.fullmatch(r"cifar-?10( \(.*\))?", laboratory.images.name, re.IGNORECASE) is not None


def describe_runs(laboratory: Laboratory, runs: Iterable[TrainedRun]) -> dict[str, str]:
    """Facts about these runs by name. Raises RunError."""
    runs = list(runs)
    config, rows = runs[0].config, split_indices(runs[0].directory)
    last, batch_size = runs[0].history[-1], config.recipe.batch_size
    sizes = [f"{len(rows.get(split, [])):,} {split}" for split in ("train", "validation", "test")]
    seconds = sum(read_history(run.directory).seconds[-1] for run in runs)
    packages = dict.fromkeys(
        f"{name} {version}" for run in runs for name, version in run.config.packages.items()
    )
    return {
        "data": f"{laboratory.images.name}: {join_values(sizes)}",
        "recipe": join_values((config.recipe_name, *config.changes)),
        "length": f"{last['epoch']} epochs, {last['step']:,} iterations of {batch_size} images",
        "networks": join_values(dict.fromkeys(run.architecture for run in runs)),
        "seeds": join_values(dict.fromkeys(run.seed for run in runs)),
        "training time": f"{format_duration(seconds)} in total",
        "arithmetic": join_values(dict.fromkeys(_arithmetic(run) for run in runs), "; "),
        "packages": join_values(packages),
    }


def _arithmetic(run: TrainedRun) -> str:
    environment = (load_checkpoint(run.directory) or {}).get("environment", {})
    precision, device = environment.get("precision"), environment.get("device")
    return f"{precision}, {device} ({environment.get('cpu_instructions')})"


def experiment_command(
    laboratory: Laboratory, experiment: str, *arguments: object, seeds: Sequence[int]
) -> str:
    """Command that repeats this experiment. Paths are reduced to their last component."""
    words = ["python", "-m", "training", "experiment"]
    words += experiment_words(laboratory.request, experiment, paths=False)
    words += [str(argument) for argument in arguments]
    return shlex.join([*words, "--seeds", join_values(seeds, ",")])


def experiment_words(request: RunRequest, experiment: str, *, paths: bool) -> list[str]:
    """The words after `experiment` in a command with this data and recipe.

    Args:
        request: Data and recipe.
        experiment: The name of the experiment.
        paths: Whether files and folders keep their directories.
    """

    def place(path: str) -> str:
        return path if paths else Path(path).name

    words = [experiment]
    for data in request.data:
        words += ["--data", place(data)]
    if paths and request.data_dir:
        words += ["--data-dir", str(request.data_dir)]
    if request.image_size:
        words += ["--image-size", size_text(*request.image_size)]
    if request.resize_mode:
        words += ["--resize-mode", request.resize_mode.replace("_", "-")]
    if request.recipe_name != EXPERIMENT_RECIPE:
        words += ["--recipe", place(request.recipe_name)]
    for change in request.changes:
        words += ["--set", change]
    if request.precision != "auto":
        words += ["--precision", request.precision]
    return words


def publish_command(laboratory: Laboratory, run: TrainedRun) -> str:
    path = Path(laboratory.runs.name) / run.directory.run_id
    return shlex.join(["python", "-m", "training", "resume", str(path)])
