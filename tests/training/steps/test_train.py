"""Training: resumes to the same bits after a kill, chooses the epoch on validation, and stops when something is lost."""

import json
import math
import multiprocessing
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training.errors import DivergedError, InterruptedRunError, RunError
from training.run.checkpoint import load_checkpoint, save_checkpoint
from training.run.data import open_run_data
from training.run.directory import Run
from training.run.metrics import read_metrics
from training.run.weights import BEST_WEIGHTS, LAST_WEIGHTS
from training.steps.evaluate import evaluate, expected_calibration_error, wilson_interval
from training.steps.progress import Progress
from training.steps.train import train

SPAWN = multiprocessing.get_context("spawn")
EVERYTHING = (
    "epochs=2",
    "ema_decay=0.9",
    "mixing.mixup=0.2",
    "mixing.cutmix=1.0",
    "accumulation=2",
    "optimizer.clip_norm=1.0",
    "schedule.scales=[0.5, 1.0]",
    "freeze_epochs=1",
    "augmentation.erase=0.2",
)
"""Each part of a recipe that has a state or draws something."""


def train_until(path: Path, last_step: int | None, checkpoint_every: int = 3) -> None:
    """Train in this process, and be killed after this step of the run, as by the out-of-memory killer."""

    def kill(progress: Progress) -> None:
        if progress.run_step == last_step:
            os.kill(os.getpid(), signal.SIGKILL)

    run = Run.open(path)
    train(run, open_run_data(run), kill, checkpoint_every=checkpoint_every)


def in_child(run: Run, last_step: int | None) -> int | None:
    """Train in a process of its own; its exit code."""
    child = SPAWN.Process(target=train_until, args=(run.path, last_step))
    child.start()
    child.join()
    return child.exitcode


def test_a_run_killed_at_random_steps_comes_to_the_weights_of_an_unbroken_one(
    new_run: Callable[..., Run],
) -> None:
    """SIGKILL between checkpoints, in the first epoch and in the second: best, last and metrics are the same to the bit."""
    unbroken, cut = new_run(*EVERYTHING), new_run(*EVERYTHING)
    assert in_child(unbroken, None) == 0
    steps = read_metrics(unbroken)[-1]["step"]
    for place in (random.randrange(4, steps // 2), random.randrange(steps // 2, steps)):
        assert in_child(cut, place) == -signal.SIGKILL, f"at step {place}"
        assert not cut.has(LAST_WEIGHTS)
    assert in_child(cut, None) == 0
    for name in (BEST_WEIGHTS, LAST_WEIGHTS):
        assert (cut.path / name).read_bytes() == (unbroken.path / name).read_bytes()
    assert [without_times(line) for line in read_metrics(cut)] == [
        without_times(line) for line in read_metrics(unbroken)
    ]


def test_a_run_killed_at_any_moment_leaves_a_checkpoint_that_loads(
    new_run: Callable[..., Run],
) -> None:
    """SIGKILL from outside, whatever is being written: the checkpoint is the old one or the new one."""
    run = new_run("epochs=50")
    child = SPAWN.Process(target=train_until, args=(run.path, None, 1))
    child.start()
    deadline = time.monotonic() + 120
    while not run.has("checkpoint.pt") and time.monotonic() < deadline:
        time.sleep(0.05)
    for _ in range(3):
        time.sleep(random.uniform(0.05, 0.6))
        state = load_checkpoint(run)
        assert state is not None
    child.kill()
    child.join()
    state = load_checkpoint(run)
    assert state is not None
    assert state["position"]["step"] >= 1
    assert [path.name for path in run.path.glob("*.tmp")] == []


def test_a_resumed_run_names_what_the_bits_depend_on_and_is_not_the_same(
    new_run: Callable[..., Run],
) -> None:
    """The checkpoint stores the five; a resume under others says which differ, and goes on."""
    run = new_run("epochs=1")
    data = open_run_data(run)
    with pytest.raises(InterruptedRunError, match="step 2"):
        train(run, data, interrupted=stops_after(2))
    state = load_checkpoint(run)
    assert state is not None
    assert {"threads", "cpu_instructions", "memory_format", "compiled", "torch_build"} <= set(
        state["environment"]
    )
    save_checkpoint(
        run, {**state, "environment": {**state["environment"], "threads": 96, "torch_build": "1.0"}}
    )
    notices = []
    train(run, data, lambda progress: notices.append(progress.notice))
    assert notices[0] is not None
    assert f"threads: 96 -> {torch.get_num_threads()}" in notices[0]
    assert "torch build: 1.0 ->" in notices[0]
    assert "memory format" not in notices[0]
    assert set(notices[1:]) == {None}


def test_an_interrupted_run_writes_a_checkpoint_at_the_step_it_stops_at(
    new_run: Callable[..., Run],
) -> None:
    """Nothing is lost to Ctrl-C."""
    run = new_run("epochs=1")
    with pytest.raises(InterruptedRunError):
        train(run, open_run_data(run), interrupted=stops_after(5))
    state = load_checkpoint(run)
    assert state is not None
    assert state["position"]["step"] == 5
    assert not run.has(LAST_WEIGHTS)


def test_a_config_that_changed_is_named_on_resume(new_run: Callable[..., Run]) -> None:
    """A run's directory is one training; another one gets another."""
    run = new_run("epochs=1")
    with pytest.raises(InterruptedRunError):
        train(run, open_run_data(run), interrupted=stops_after(1))
    config = run.config
    run = Run.create_at(run.path, config.model_copy(update={"seed": 7}))
    with pytest.raises(RunError, match=r"^seed in .*config\.json"):
        train(run, open_run_data(run))
    run = Run.create_at(
        run.path, config.model_copy(update={"model": "renamed", "golden_samples": 0})
    )
    train(run, open_run_data(run))


def test_metrics_have_a_line_an_epoch_and_the_best_epoch_is_validations(
    finished_run: Run,
) -> None:
    """Nothing but validation decides which epoch is kept."""
    metrics = read_metrics(finished_run)
    assert [line["epoch"] for line in metrics] == [1, 2, 3]
    best = min(metrics, key=lambda line: line["validation_loss"])
    figures = finished_run.read_json("evaluation.json", "evaluate")
    assert figures["best_epoch"] == best["epoch"]


def test_test_is_opened_once(run_copy: Run) -> None:
    """A second evaluation returns the first one's figures and does not look at the images again."""
    figures = run_copy.read_json("evaluation.json", "evaluate")
    run_copy.write_json("evaluation.json", {**figures, "top1": 0.123})
    assert evaluate(run_copy, open_run_data(run_copy))["top1"] == 0.123


def test_a_loss_that_is_not_finite_stops_the_run(new_run: Callable[..., Run]) -> None:
    """The error says where, and what to try; the checkpoint of before stays."""
    run = new_run("optimizer.learning_rate=1e9")
    with pytest.raises(
        DivergedError,
        match=r"epoch 1, step \d+, at a learning rate of .*: lower optimizer\.learning_rate",
    ):
        train(run, open_run_data(run))
    assert not run.has(LAST_WEIGHTS)


def write_against_a_full_disk(path: Path) -> None:
    """Train where no file may grow past 2 MB: the second checkpoint does not fit."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    run = Run.open(path)
    data = open_run_data(run)
    before = (run.path / "checkpoint.pt").read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
    with pytest.raises(RunError, match=r"checkpoint\.pt cannot be written"):
        train(run, data, checkpoint_every=2)
    assert (run.path / "checkpoint.pt").read_bytes() == before
    assert not [entry for entry in os.listdir(run.path) if entry.startswith(".")]


def test_a_disk_that_is_full_leaves_the_checkpoint_of_before(
    new_run: Callable[..., Run],
) -> None:
    """One line that says so, no half file, and the run can go on when there is room."""
    run = new_run("epochs=1")
    with pytest.raises(InterruptedRunError):
        train(run, open_run_data(run), interrupted=stops_after(1))
    child = SPAWN.Process(target=write_against_a_full_disk, args=(run.path,))
    child.start()
    child.join()
    assert child.exitcode == 0


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", b"PK\x03\x04 half"])
def test_a_damaged_checkpoint_is_an_error_that_names_it(
    new_run: Callable[..., Run], damage: bytes
) -> None:
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


def test_a_checkpoint_with_code_in_it_is_refused(
    new_run: Callable[..., Run], tmp_path: Path
) -> None:
    """Loading reads tensors and plain values; code in the file does not run."""
    run = new_run()
    save_checkpoint(run, {"model": RunsCode(tmp_path / "owned")})
    with pytest.raises(RunError, match="is damaged"):
        load_checkpoint(run)
    assert not (tmp_path / "owned").exists()


def test_after_twenty_steps_the_run_says_how_long_it_will_take(
    new_run: Callable[..., Run],
) -> None:
    """Once, with a time and the memory that it holds."""
    run = new_run("epochs=2")
    heard: list[Progress] = []
    train(run, open_run_data(run), heard.append)
    (estimate,) = [progress for progress in heard if progress.estimate]
    assert estimate.run_step == 20
    assert estimate.estimate is not None
    assert 0 < estimate.estimate.seconds < 600
    assert estimate.estimate.peak_bytes > 100e6
    assert heard[-1].seconds_left < estimate.estimate.seconds


def test_the_loop_stands_on_one_page() -> None:
    """At most 150 lines from `train`'s first to its last."""
    assert train.__code__.co_firstlineno
    lines = [number for _, _, number in train.__code__.co_lines() if number]
    assert max(lines) - min(lines) < 150


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)],
)
def test_wilson_interval_has_the_published_values(
    successes: int, trials: int, low: float, high: float
) -> None:
    """As tabulated by Newcombe 1998 and Brown et al. 2001."""
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=1e-4)


def test_calibration_error_counts_a_confidence_of_one() -> None:
    """Sure and right is no error, sure and wrong is all of it, and half-sure half-right is none."""
    sure = torch.tensor([[1.0, 0.0]] * 10)
    assert expected_calibration_error(sure, torch.zeros(10, dtype=torch.int64)) == 0
    assert expected_calibration_error(sure, torch.ones(10, dtype=torch.int64)) == 1
    assert math.isclose(
        expected_calibration_error(torch.tensor([[0.75, 0.25]] * 4), torch.tensor([0, 0, 0, 1])),
        0,
        abs_tol=1e-6,
    )


def stops_after(steps: int) -> Callable[[], bool]:
    """Says yes the so-manieth time that it is asked."""
    answers = iter([False] * (steps - 1))
    return lambda: next(answers, True)


def without_times(line: dict[str, float]) -> dict[str, float]:
    return json.loads(
        json.dumps(
            {
                name: value
                for name, value in line.items()
                if name not in {"images_per_second", "input_share"}
            }
        )
    )
