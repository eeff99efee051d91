"""The proof of resume: it holds on real data, and it notices when it does not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from training.errors import ResumeProofError
from training.run.directory import Run
from training.steps import resume_proof as proof
from training.steps.resume_proof import prove_resume


def test_a_run_killed_and_resumed_is_proven_the_same(new_run: Callable[..., Run]) -> None:
    """It says what it does, and ends with the digest that both came to; the run itself is untouched."""
    run = new_run()
    before = sorted(path.name for path in run.path.iterdir())
    *steps, verdict = prove_resume(run, steps=6, kills=1)
    assert sum("killed after step" in line for line in steps) == 1
    assert "bit-identical" in verdict
    assert {path.name for path in run.path.iterdir()} - set(before) <= {"check.json", "split.csv"}


def test_weights_that_differ_are_noticed(
    new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that does not resume, but begins anew with another seed, is told from one that does."""
    real = proof._train_in_child

    def forgetful(run: Run, kill_after: int | None) -> None:
        if kill_after is not None:
            return
        if run.path.name == "killed":
            run = Run.create_at(run.path, run.config.model_copy(update={"seed": 9}))
        real(run, None)

    monkeypatch.setattr(proof, "_train_in_child", forgetful)
    with pytest.raises(ResumeProofError, match="the weights differ"):
        list(prove_resume(new_run(), steps=4, kills=1))


def test_a_training_that_fails_is_not_taken_for_one_that_was_killed(
    new_run: Callable[..., Run], tmp_path: Path
) -> None:
    """Exit codes are looked at."""
    run = new_run("optimizer.learning_rate=1e9")
    with pytest.raises(ResumeProofError, match="exit code 1 instead of 0"):
        list(prove_resume(run, steps=6, kills=1))
    assert not list(tmp_path.glob("**/prove-resume-*"))
