"""The proof that a killed run resumes bit for bit, on a person's own data: train, kill, resume, compare."""

import multiprocessing
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch

from model_store.files import sha256_of
from training.errors import ResumeProofError
from training.run.checkpoint import load_checkpoint
from training.run.data import CHECK_FILE, SPLIT_FILE, open_run_data
from training.run.directory import RunDirectory
from training.run.weights import INITIAL_WEIGHTS, LAST_WEIGHTS
from training.steps.train import Progress, train

STEPS: Final = 24
KILLS: Final = 3
CHECKPOINT_EVERY: Final = 3  # steps: most kills fall between two checkpoints


def prove_resume(
    run: RunDirectory, steps: int = STEPS, kills: int = KILLS, seed: int | None = None
) -> Iterator[str]:
    """Train `steps` steps unbroken, and again killed with SIGKILL at `kills` random steps and resumed; yields what it does.

    On the run's own data and recipe, in directories of its own. Raises ResumeProofError where the weights differ.
    """
    open_run_data(run)  # splits, so that all three read the same
    chance = random.Random(seed)  # noqa: S311  where to kill is no secret
    with tempfile.TemporaryDirectory(prefix="prove-resume-") as folder:
        unbroken, broken = (
            _short_copy(run, Path(folder) / name, steps) for name in ("unbroken", "broken")
        )
        yield f"training {steps} steps without a break"
        _train(unbroken, None)
        places = sorted(chance.sample(range(1, steps), min(kills, steps - 1)))
        for place in places:
            yield f"the same again, killed after step {place}"
            _train(broken, place)
        yield "resumed to the end"
        _train(broken, None)
        digests = [sha256_of(copy.path / LAST_WEIGHTS) for copy in (unbroken, broken)]
        if digests[0] != digests[1]:
            reason = _reason(unbroken, broken)
            raise ResumeProofError(
                f"killed at steps {places} and resumed, the weights differ from an unbroken run's: {reason}"
            )
    yield f"killed at steps {', '.join(map(str, places))} and resumed: the same weights to the bit ({digests[0][:16]}…)"


def _short_copy(run: RunDirectory, path: Path, steps: int) -> RunDirectory:
    """The same run, cut to so many steps, in another directory."""
    path.mkdir()
    for name in (SPLIT_FILE, CHECK_FILE, INITIAL_WEIGHTS):
        if run.has(name):
            shutil.copy(run.path / name, path / name)
    copy, config = RunDirectory(path), run.config()
    recipe = config.recipe.model_copy(update={"iterations": steps, "epochs": None})
    copy.write_config(config.model_copy(update={"recipe": recipe}))
    return copy


def _train(run: RunDirectory, kill_after: int | None) -> None:
    """Train in a process of its own, which dies by SIGKILL after this step of the run. Raises ResumeProofError."""
    child = multiprocessing.get_context("spawn").Process(
        target=_train_here, args=(run.path, kill_after, torch.get_num_threads())
    )
    child.start()
    child.join()
    expected = 0 if kill_after is None else -signal.SIGKILL
    if child.exitcode != expected:
        raise ResumeProofError(
            f"the training ended with exit code {child.exitcode} instead of {expected}; its output above says why"
        )


def _train_here(path: Path, kill_after: int | None, threads: int) -> None:
    def report(progress: Progress) -> None:
        if progress.run_step == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(threads)
    run = RunDirectory(path)
    train(run, open_run_data(run), report, checkpoint_every=CHECKPOINT_EVERY)


def _reason(unbroken: RunDirectory, broken: RunDirectory) -> str:
    """Which of what the bits depend on differs between the two."""
    then, now = ((load_checkpoint(run) or {}).get("environment", {}) for run in (unbroken, broken))
    differences = [
        f"{name}: {value} and {now.get(name)}"
        for name, value in then.items()
        if now.get(name) != value
    ]
    return (
        ", ".join(differences)
        or "on the same threads, instructions, memory format, compilation and torch; please report it"
    )
