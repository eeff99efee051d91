"""How an experiment was run, for its report: data, recipe, arithmetic, and what to type to have it again."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from training.experiments.laboratory import RECIPE, Laboratory, TrainedRun
from training.experiments.statistics import listed
from training.learning.environment import choose_precision, current
from training.reports.history import read_history, split_rows
from training.reports.pages import duration


def is_cifar10(laboratory: Laboratory) -> bool:
    """Whether the paper's figures may stand beside ours: its data set, or a copy of it under its name."""
    name = laboratory.images.name.lower().replace("-", "")
    return name.startswith("cifar10") and len(laboratory.images.class_names) == 10


def describe(laboratory: Laboratory, runs: Sequence[TrainedRun]) -> dict[str, str]:
    """How these runs were made, by name."""
    config, rows = runs[0].config, split_rows(runs[0].directory)
    device = laboratory.process.device
    environment = current(device, choose_precision(config.precision, device), compiled=False)
    last, batch_size = runs[0].history[-1], config.recipe.batch_size
    parts = [f"{len(rows.get(part, [])):,} {part}" for part in ("train", "validation", "test")]
    seconds = sum(read_history(run.directory).seconds[-1] for run in runs)
    return {
        "data": f"{laboratory.images.name}: {listed(parts)}",
        "recipe": listed((config.recipe_name, *config.changes)),
        "length": f"{last['epoch']} epochs, {last['step']:,} iterations of {batch_size} images",
        "networks": listed(dict.fromkeys(run.architecture for run in runs)),
        "seeds": listed(dict.fromkeys(run.seed for run in runs)),
        "training": f"{duration(seconds)} in all",
        "arithmetic": f"{environment.precision}, {environment.device} ({environment.cpu_instructions})",
        "packages": listed(f"{name} {version}" for name, version in config.packages.items()),
    }


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
    return shlex.join([*words, *arguments, "--seeds", listed(seeds, ",")])


def publishing(laboratory: Laboratory, run: TrainedRun) -> str:
    """What to type to publish what a run has learned."""
    return shlex.join(["python", "-m", "training", "resume", str(Path(laboratory.runs.name) / run.directory.run_id)])
