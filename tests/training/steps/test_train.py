"""Training: resumes bit-identically, selects an epoch on validation, and stops on errors."""

import json
import math
import multiprocessing
import os
import random
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from training.errors import DivergedError, InterruptedRunError, RunError
from training.run.checkpoint import CHECKPOINT_FILE, load_checkpoint, save_checkpoint
from training.run.data import open_run_data
from training.run.directory import Run
from training.run.metrics import METRICS_FILE, read_metrics
from training.run.weights import BEST_WEIGHTS, LAST_WEIGHTS, read_weights, serialise
from training.steps.evaluate import EVALUATION_FILE, evaluate, expected_calibration_error
from training.steps.progress import Progress
from training.steps.train import train

SPAWN = multiprocessing.get_context("spawn")
EVERYTHING = (
    "iterations=26",  # 20 in the first epoch
    "ema_decay=0.9",
    "mixing.mixup=0.2",
    "mixing.cutmix=1.0",
    "accumulation=2",
    "optimizer.clip_norm=1.0",
    "schedule.scales=[0.5, 1.0]",
    "freeze_epochs=1",
    "augmentation.erase=0.2",
)
"""Each part of a recipe that has a state or uses random numbers."""


def train_until(path: Path, last_step: int, checkpoint_every: int) -> None:
    """Train, and kill this process after this step of the run."""

    def kill(progress: Progress) -> None:
        if progress.run_step == last_step:
            os.kill(os.getpid(), signal.SIGKILL)

    run = Run.open(path)
    train(run, open_run_data(run), kill, checkpoint_every=checkpoint_every)


def train_until_write(path: Path, checkpoints: int) -> None:
    """Train with a checkpoint per step, and kill this process while it writes one of them."""
    sync, synced = os.fsync, []

    def kill(descriptor: int) -> None:
        if CHECKPOINT_FILE in Path(f"/proc/self/fd/{descriptor}").readlink().name:
            synced.append(descriptor)
        if len(synced) == checkpoints:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(descriptor)

    os.fsync = kill
    run = Run.open(path)
    train(run, open_run_data(run), checkpoint_every=1)


def exit_code(function: Callable[..., None], *arguments: object) -> int | None:
    """Call a function in a child process."""
    child = SPAWN.Process(target=function, args=arguments)
    child.start()
    child.join()
    return child.exitcode


@pytest.mark.slow
def test_a_run_killed_twice_ends_with_the_weights_of_an_uninterrupted_run(
    new_run: Callable[..., Run],
) -> None:
    """SIGKILL between checkpoints in both epochs. Weights and metrics are bit-identical."""
    uninterrupted, killed = new_run(*EVERYTHING), new_run(*EVERYTHING)
    train(uninterrupted, open_run_data(uninterrupted), checkpoint_every=3)
    first, last = (line["step"] for line in read_metrics(uninterrupted))
    generator = random.Random(5)
    for step in (generator.randrange(4, first), generator.randrange(first + 1, last)):
        assert exit_code(train_until, killed.path, step, 3) == -signal.SIGKILL, f"at step {step}"
        assert not killed.has(LAST_WEIGHTS)
    train(killed, open_run_data(killed), checkpoint_every=3)
    for name in (BEST_WEIGHTS, LAST_WEIGHTS):
        assert (killed.path / name).read_bytes() == (uninterrupted.path / name).read_bytes()
    assert [without_times(line) for line in read_metrics(killed)] == [
        without_times(line) for line in read_metrics(uninterrupted)
    ]


def test_a_run_killed_during_a_checkpoint_keeps_the_previous_one(
    new_run: Callable[..., Run],
) -> None:
    """The new checkpoint is complete on disk, but has not replaced the previous one."""
    run = new_run("epochs=1")
    assert exit_code(train_until_write, run.path, 3) == -signal.SIGKILL
    state = load_checkpoint(run)
    assert state is not None
    assert state["position"]["step"] == 2


def test_a_resume_in_another_determinism_names_the_differences(
    new_run: Callable[..., Run],
) -> None:
    """The checkpoint stores the determinism. The run resumes nevertheless."""
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


def test_an_interrupted_run_writes_a_checkpoint_of_its_last_step(
    new_run: Callable[..., Run],
) -> None:
    """Ctrl-C loses no step."""
    run = new_run("epochs=1")
    with pytest.raises(InterruptedRunError):
        train(run, open_run_data(run), interrupted=stops_after(5))
    state = load_checkpoint(run)
    assert state is not None
    assert state["position"]["step"] == 5
    assert not run.has(LAST_WEIGHTS)


def test_a_changed_config_is_named_on_resume(new_run: Callable[..., Run]) -> None:
    """Only fields that do not affect the training may change."""
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


def test_the_best_epoch_is_selected_on_validation(
    finished_run: Run,
) -> None:
    """The metrics file has one line per epoch."""
    metrics = read_metrics(finished_run)
    assert [line["epoch"] for line in metrics] == [1, 2, 3]
    best = min(metrics, key=lambda line: line["validation_loss"])
    figures = finished_run.read_json("evaluation.json", "evaluate")
    assert figures["best_epoch"] == best["epoch"]


def test_the_test_split_is_evaluated_once(run_copy: Run) -> None:
    """A second evaluation returns the figures of the first."""
    figures = run_copy.read_json("evaluation.json", "evaluate")
    run_copy.write_json("evaluation.json", {**figures, "top1": 0.123})
    assert evaluate(run_copy, open_run_data(run_copy))["top1"] == 0.123


def test_a_loss_that_is_not_finite_stops_the_training(new_run: Callable[..., Run]) -> None:
    """The error names the step and the setting to change."""
    run = new_run("optimizer.learning_rate=1e9")
    with pytest.raises(
        DivergedError,
        match=r"epoch 1, step \d+, at a learning rate of .*: lower optimizer\.learning_rate",
    ):
        train(run, open_run_data(run))
    assert not run.has(LAST_WEIGHTS)


@pytest.mark.parametrize("select", ["loss", "accuracy", "last"])
def test_a_validation_loss_that_is_not_finite_stops_the_training(
    new_run: Callable[..., Run], select: str
) -> None:
    """The only step has a finite loss. Afterwards the network overflows in evaluation mode."""
    changes = ("iterations=1", "optimizer.learning_rate=1e30")
    run = new_run(*changes, f'select="{select}"')
    with pytest.raises(DivergedError, match=r"after epoch 1.*Lower optimizer\.learning_rate"):
        train(run, open_run_data(run))
    assert not run.has(BEST_WEIGHTS)
    assert not run.has(METRICS_FILE)


def test_a_network_that_overflows_on_test_images_is_not_measured(run_copy: Run) -> None:
    """The weights were damaged after the validation."""
    trained = read_weights(run_copy.path / BEST_WEIGHTS)
    with torch.no_grad():
        trained.network.get_parameter("fc.weight")[0] = float("nan")
    run_copy.write(BEST_WEIGHTS, serialise(trained))
    (run_copy.path / EVALUATION_FILE).unlink()
    with pytest.raises(DivergedError, match="359 of 359 test images"):
        evaluate(run_copy, open_run_data(run_copy))
    assert not run_copy.has(EVALUATION_FILE)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let no file of this process grow past `size` bytes, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_keeps_the_previous_checkpoint(new_run: Callable[..., Run]) -> None:
    """The error names the file, and no temporary file is left."""
    run = new_run("epochs=1")
    data = open_run_data(run)
    with pytest.raises(InterruptedRunError):
        train(run, data, interrupted=stops_after(1))
    before = (run.path / CHECKPOINT_FILE).read_bytes()
    assert len(before) > 2_000_000
    with file_size_limit(2_000_000), pytest.raises(RunError, match=r"checkpoint\.pt cannot be"):
        train(run, data, checkpoint_every=2)
    assert (run.path / CHECKPOINT_FILE).read_bytes() == before
    assert not [entry for entry in os.listdir(run.path) if entry.startswith(".")]


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", b"PK\x03\x04 half"])
def test_a_damaged_checkpoint_is_an_error_that_names_it(
    new_run: Callable[..., Run], damage: bytes
) -> None:
    """The run does not start again from the beginning."""
    run = new_run()
    run.write("checkpoint.pt", damage)
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged") as raised:
        load_checkpoint(run)
    assert "weights_only" not in str(raised.value)


class RunsCode:
    """Writes a file if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_code_in_a_checkpoint_does_not_run(new_run: Callable[..., Run], tmp_path: Path) -> None:
    """The checkpoint is reported as damaged."""
    run = new_run()
    save_checkpoint(run, {"model": RunsCode(tmp_path / "executed")})
    with pytest.raises(RunError, match="is damaged"):
        load_checkpoint(run)
    assert not (tmp_path / "executed").exists()


def test_the_duration_is_estimated_after_twenty_steps(
    new_run: Callable[..., Run],
) -> None:
    """Once, with seconds and peak memory."""
    run = new_run("epochs=2")
    reports: list[Progress] = []
    train(run, open_run_data(run), reports.append)
    (estimate,) = [progress for progress in reports if progress.estimate]
    assert estimate.run_step == 20
    assert estimate.estimate is not None
    assert 0 < estimate.estimate.seconds < 600
    assert estimate.estimate.peak_bytes > 100e6
    assert reports[-1].seconds_left < estimate.estimate.seconds


def test_the_training_loop_is_short() -> None:
    """`train` has fewer than 150 lines."""
    assert train.__code__.co_firstlineno
    lines = [number for _, _, number in train.__code__.co_lines() if number]
    assert max(lines) - min(lines) < 150


def test_calibration_error_counts_a_confidence_of_one() -> None:
    """The error of confident answers is 0 if they are correct and 1 if they are wrong."""
    confident = torch.tensor([[1.0, 0.0]] * 10)
    assert expected_calibration_error(confident, torch.zeros(10, dtype=torch.int64)) == 0
    assert expected_calibration_error(confident, torch.ones(10, dtype=torch.int64)) == 1
    assert math.isclose(
        expected_calibration_error(torch.tensor([[0.75, 0.25]] * 4), torch.tensor([0, 0, 0, 1])),
        0,
        abs_tol=1e-6,
    )


def stops_after(steps: int) -> Callable[[], bool]:
    """Returns a function that returns True from its `steps`th call on."""
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
