"""How an experiment was run, for its report: data, recipe, arithmetic, and what to type to have it again."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from training.experiments.laboratory import RECIPE, Laboratory, TrainedRun
from training.reports.history import read_history, split_rows
from training.reports.pages import duration
from training.run.checkpoint import load_checkpoint
from training.statistics import listed


def is_cifar10(laboratory: Laboratory) -> bool:
    """Whether the paper's figures may stand beside ours: its data set, or a copy of it that says so: `CIFAR-10 (…)`."""
    return re.fullmatch(r"cifar-?10( \(.*\))?", laboratory.images.name, re.IGNORECASE) is not None


def describe(laboratory: Laboratory, runs: Sequence[TrainedRun]) -> dict[str, str]:
    """How these runs were made, by name. Raises RunError."""
    config, rows = runs[0].config, split_rows(runs[0].directory)
    last, batch_size = runs[0].history[-1], config.recipe.batch_size
    parts = [f"{len(rows.get(part, [])):,} {part}" for part in ("train", "validation", "test")]
    seconds = sum(read_history(run.directory).seconds[-1] for run in runs)
    packages = dict.fromkeys(
        f"{name} {version}" for run in runs for name, version in run.config.packages.items()
    )
    return {
        "data": f"{laboratory.images.name}: {listed(parts)}",
        "recipe": listed((config.recipe_name, *config.changes)),
        "length": f"{last['epoch']} epochs, {last['step']:,} iterations of {batch_size} images",
        "networks": listed(dict.fromkeys(run.architecture for run in runs)),
        "seeds": listed(dict.fromkeys(run.seed for run in runs)),
        "training": f"{duration(seconds)} in all",
        "arithmetic": listed(dict.fromkeys(_arithmetic(run) for run in runs), "; "),
        "packages": listed(packages),
    }


def _arithmetic(run: TrainedRun) -> str:
    """What a run was trained with, as its checkpoint says."""
    environment = (load_checkpoint(run.directory) or {}).get("environment", {})
    return f"{environment.get('precision')}, {environment.get('device')} ({environment.get('cpu_instructions')})"


def command(laboratory: Laboratory, experiment: str, *arguments: str, seeds: Sequence[int]) -> str:
    """What to type to have this experiment again; where data lies is the reader's own."""
    wish = laboratory.wish
    words = ["python", "-m", "training", "experiment", experiment]
    for data in wish.data:
        words += ["--data", Path(data).name]
    if wish.image_size:
        words += ["--image-size", str(wish.image_size)]
    if wish.recipe_name != RECIPE:
        words += ["--recipe", Path(wish.recipe_name).name]
    for change in wish.changes:
        words += ["--set", change]
    if wish.precision != "auto":
        words += ["--precision", wish.precision]
    return shlex.join([*words, *arguments, "--seeds", listed(seeds, ",")])


def publishing(laboratory: Laboratory, run: TrainedRun) -> str:
    """What to type to publish what a run has learned."""
    return shlex.join(
        [
            "python",
            "-m",
            "training",
            "resume",
            str(Path(laboratory.runs.name) / run.directory.run_id),
        ]
    )
