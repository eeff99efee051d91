"""Training: resumes to the same bits after a kill, chooses the epoch on validation, and stops when the loss is lost."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training import pipeline
from training.checkpoint import load_checkpoint, save_checkpoint
from training.errors import DivergedError, RunError
from training.evaluation import evaluate, wilson_interval
from training.run_directory import RunDirectory
from training.train import Progress, train


def train_until(path: Path, epoch: int) -> None:
    """Train and be killed in the middle of an epoch, as by the out-of-memory killer."""

    def kill(progress: Progress) -> None:
        if (progress.epoch, progress.step) == (epoch, 3):
            os.kill(os.getpid(), signal.SIGKILL)

    run = RunDirectory(path)
    train(run, pipeline.load_run_data(run), kill)


def test_a_killed_run_resumes_to_the_weights_of_an_unbroken_one(new_run: Callable[..., RunDirectory]) -> None:
    """SIGKILL inside the second epoch, then resume: the chosen weights and the metrics are the same to the bit."""
    unbroken, cut = new_run(epochs=3), new_run(epochs=3)
    train(unbroken, pipeline.load_run_data(unbroken))
    child = multiprocessing.get_context("spawn").Process(target=train_until, args=(cut.path, 2))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert not cut.has("weights.safetensors")
    state = load_checkpoint(cut)
    assert state is not None
    assert len(state["history"]) == 1
    train(cut, pipeline.load_run_data(cut))
    expected, found = (load_file(run.path / "weights.safetensors") for run in (unbroken, cut))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert [_without_speed(line) for line in _metrics(unbroken)] == [_without_speed(line) for line in _metrics(cut)]


def test_metrics_have_a_line_an_epoch_and_the_best_epoch_is_validations(finished_run: RunDirectory) -> None:
    """Nothing but validation decides which epoch is kept."""
    metrics = _metrics(finished_run)
    assert [line["epoch"] for line in metrics] == [1, 2, 3]
    best = min(metrics, key=lambda line: line["validation_loss"])
    figures = finished_run.read_json("evaluation.json", "evaluate")
    assert figures["best_epoch"] == best["epoch"]


def test_test_is_opened_once(run_copy: RunDirectory) -> None:
    """A second evaluation returns the first one's figures and does not look at the images again."""
    figures = run_copy.read_json("evaluation.json", "evaluate")
    run_copy.write_json("evaluation.json", {**figures, "top1": 0.123})
    assert evaluate(run_copy, pipeline.load_run_data(run_copy))["top1"] == 0.123


def test_a_loss_that_is_not_finite_stops_the_run(new_run: Callable[..., RunDirectory]) -> None:
    """The error says where, and what to try."""
    run = new_run(epochs=2, max_learning_rate=1e9)
    with pytest.raises(DivergedError, match="lower max_learning_rate"):
        train(run, pipeline.load_run_data(run))


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", b"PK\x03\x04 half"])
def test_a_damaged_checkpoint_is_an_error_that_names_it(new_run: Callable[..., RunDirectory], damage: bytes) -> None:
    """A file that is no checkpoint is never taken for the start of a run."""
    run = new_run()
    run.write("checkpoint.pt", damage)
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged"):
        load_checkpoint(run)


class RunsCode:
    """Pickled, this would write a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_a_checkpoint_with_code_in_it_is_refused(new_run: Callable[..., RunDirectory], tmp_path: Path) -> None:
    """Loading reads tensors and plain values; code in the file does not run."""
    run = new_run()
    save_checkpoint(run, {"model": RunsCode(tmp_path / "owned")})
    with pytest.raises(RunError, match="is damaged"):
        load_checkpoint(run)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)]
)
def test_wilson_interval_has_the_published_values(successes: int, trials: int, low: float, high: float) -> None:
    """As tabulated by Newcombe 1998 and Brown et al. 2001."""
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=1e-4)


def _metrics(run: RunDirectory) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def _without_speed(line: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name != "images_per_second"}
