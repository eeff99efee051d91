"""The proof that a killed run resumes bit-identically."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from training.errors import ResumeProofError
from training.run.data import open_run_data
from training.run.directory import Run
from training.steps import resume_proof as proof
from training.steps.progress import Progress
from training.steps.resume_proof import prove_resume
from training.steps.train import train


class KilledError(Exception):
    """Ends a training in this process, as SIGKILL ends a child."""


def train_here(run: Run, kill_after: int | None) -> None:
    """Replaces `_train_in_child`: a process takes seconds to start."""

    def report(progress: Progress) -> None:
        if progress.run_step == kill_after:
            raise KilledError

    with suppress(KilledError):
        train(run, open_run_data(run), report, checkpoint_every=1)


def test_a_resumed_run_passes(new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """The last message is the verdict. The run itself is not trained."""
    monkeypatch.setattr(proof, "_train_in_child", train_here)
    assert_passes(new_run())


@pytest.mark.slow
def test_a_killed_and_resumed_run_passes(new_run: Callable[..., Run]) -> None:
    """The same with SIGKILL and child processes."""
    assert_passes(new_run())


def assert_passes(run: Run) -> None:
    before = {path.name for path in run.path.iterdir()}
    *steps, verdict = prove_resume(run, steps=4, kills=1, seed=0)
    assert sum("killed after step" in line for line in steps) == 1
    assert "bit-identical" in verdict
    assert {path.name for path in run.path.iterdir()} - before <= {"check.json", "split.csv"}


def test_different_weights_fail(
    new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a training started again with another seed instead of resuming."""

    def train_without_resuming(run: Run, kill_after: int | None) -> None:
        if kill_after is not None:
            return
        if run.path.name == "killed":
            run = Run.create_at(run.path, run.config.model_copy(update={"seed": 9}))
        train_here(run, None)

    monkeypatch.setattr(proof, "_train_in_child", train_without_resuming)
    with pytest.raises(ResumeProofError, match="the weights differ"):
        list(prove_resume(new_run(), steps=3, kills=1, seed=0))


@pytest.mark.slow
def test_a_failed_training_is_not_a_killed_one(new_run: Callable[..., Run], tmp_path: Path) -> None:
    """Exit codes are checked, and temporary directories are deleted."""
    run = new_run("optimizer.learning_rate=1e9")
    with pytest.raises(ResumeProofError, match="exit code 1 instead of 0"):
        list(prove_resume(run, steps=6, kills=1, seed=0))
    assert not list(tmp_path.glob("**/prove-resume-*"))
