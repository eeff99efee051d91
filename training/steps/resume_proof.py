"""Proof on the user's data that a killed run resumes bit-identically."""

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
from training.run.directory import Run
from training.run.known_images import KNOWN_IMAGES_FILE
from training.run.weights import INITIAL_WEIGHTS, LAST_WEIGHTS
from training.steps.progress import Progress
from training.steps.train import train

PROOF_STEPS: Final = 24
PROOF_KILLS: Final = 3
CHECKPOINT_EVERY: Final = 3  # steps; most kills fall between two checkpoints


def prove_resume(
    run: Run, steps: int = PROOF_STEPS, kills: int = PROOF_KILLS, seed: int | None = None
) -> Iterator[str]:
    """Train once without a break, and once with kills and resumes; compare the weights.

    Both trainings are copies of the run in temporary directories.

    Args:
        run: The run. Its data must have been opened.
        steps: Length of each training.
        kills: Number of random steps after which the second one gets SIGKILL.
        seed: Seed of the choice of these steps.

    Yields:
        Messages for the user.

    Raises:
        ResumeProofError: The weights differ, or a training failed.
    """
    generator = random.Random(seed)  # noqa: S311  not used for security
    kill_steps = sorted(generator.sample(range(1, steps), min(kills, steps - 1)))
    with tempfile.TemporaryDirectory(prefix="prove-resume-") as folder:
        unbroken, killed = (
            _short_copy(run, Path(folder) / name, steps) for name in ("unbroken", "killed")
        )
        yield f"training {steps} steps without a break"
        _train_in_child(unbroken, None)
        for step in kill_steps:
            yield f"training again, killed after step {step}"
            _train_in_child(killed, step)
        yield "resumed to the end"
        _train_in_child(killed, None)
        digests = [sha256_of(copy.path / LAST_WEIGHTS) for copy in (unbroken, killed)]
        if digests[0] != digests[1]:
            raise ResumeProofError(
                f"killed at steps {kill_steps} and resumed, the weights differ from those of an "
                f"unbroken run: {_describe_difference(unbroken, killed)}"
            )
    places = ", ".join(map(str, kill_steps))
    yield f"killed at steps {places} and resumed: bit-identical weights ({digests[0][:16]}…)"


def _short_copy(run: Run, path: Path, steps: int) -> Run:
    recipe = run.config.recipe.model_copy(update={"iterations": steps, "epochs": None})
    copy = Run.create_at(path, run.config.model_copy(update={"recipe": recipe}))
    for name in (SPLIT_FILE, CHECK_FILE, INITIAL_WEIGHTS, KNOWN_IMAGES_FILE):
        if run.has(name):
            shutil.copy(run.path / name, path / name)
    return copy


def _train_in_child(run: Run, kill_after: int | None) -> None:
    """Train in a child process. If `kill_after` is given, it kills itself after this step."""
    child = multiprocessing.get_context("spawn").Process(
        target=_train_until_killed, args=(run.path, kill_after, torch.get_num_threads())
    )
    child.start()
    child.join()
    expected = 0 if kill_after is None else -signal.SIGKILL
    if child.exitcode != expected:
        raise ResumeProofError(
            f"the training ended with exit code {child.exitcode} instead of {expected}; see its "
            "output above"
        )


def _train_until_killed(path: Path, kill_after: int | None, threads: int) -> None:
    def report(progress: Progress) -> None:
        if progress.run_step == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(threads)
    run = Run.open(path)
    train(run, open_run_data(run), report, checkpoint_every=CHECKPOINT_EVERY)


def _describe_difference(unbroken: Run, killed: Run) -> str:
    """Return the values of `DeterminismInfo` that differ between both trainings."""
    first, second = (
        (load_checkpoint(run) or {}).get("environment", {}) for run in (unbroken, killed)
    )
    differences = [
        f"{name}: {value} and {second.get(name)}"
        for name, value in first.items()
        if second.get(name) != value
    ]
    return (
        ", ".join(differences) or "threads, instructions and versions are equal; please report this"
    )
