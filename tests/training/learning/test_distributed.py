"""Several processes: the weights of one, no image evaluated twice, and a restart after a loss.

torchrun starts once for all tests: two processes train, one is killed, and torchrun restarts both.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from short_runs import begin_short_run

from training.errors import RunError
from training.learning.distributed import SINGLE_PROCESS, join_process_group
from training.run.data import open_run_data
from training.run.directory import Run
from training.run.metrics import read_metrics
from training.steps.evaluate import evaluate
from training.steps.train import train

ROOT = Path(__file__).parents[3]
# Five steps in the first epoch, three in the second.
CHANGES = ("batch_size=256", "accumulation=2", "ema_decay=0.9", "iterations=8", "accuracy_floor=0")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1")


class FinishedRun(NamedTuple):
    directory: Run
    output: str


@contextmanager
def started(cwd: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m training` in two processes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    with subprocess.Popen(
        [sys.executable, *TORCHRUN, "-m", "training", *words],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def worker_pids(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"training" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


@pytest.fixture(scope="module")
def interrupted_pair(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run by two processes, one of which is killed after the first epoch."""
    cwd = tmp_path_factory.mktemp("pair")
    words = ["run", "--data", "digits", "--store", "store", "--waive", "accuracy_jpeg=short"]
    words += ["--threads", "1", "--device", "cpu", "--precision", "fp32"]
    words += [word for change in CHANGES for word in ("--set", change)]
    with started(cwd, *words) as process:
        deadline = time.monotonic() + 300
        while not list(cwd.glob("runs/*/metrics.jsonl")) and time.monotonic() < deadline:
            assert process.poll() is None, process.stdout and process.stdout.read()
            time.sleep(0.05)
        os.kill(max(worker_pids(process.pid)), signal.SIGKILL)
        output, _ = process.communicate()
    assert process.returncode == 0, output
    (directory,) = (cwd / "runs").iterdir()
    return FinishedRun(Run.open(directory), output)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same run by one process, in micro-batches of the same images."""
    run = begin_short_run(tmp_path_factory.mktemp("single"), *CHANGES, precision="fp32")
    data = open_run_data(run)
    train(run, data)
    evaluate(run, data)
    return run


pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]  # for the fixtures


def test_two_processes_get_the_weights_of_one_that_accumulates(
    interrupted_pair: FinishedRun, single: Run
) -> None:
    """Parameters, running statistics and their average, up to rounding."""
    expected, actual = (
        load_file(run.path / "last.safetensors") for run in (single, interrupted_pair.directory)
    )
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        if not name.endswith("num_batches_tracked"):  # counts the calls of one process
            assert torch.allclose(value, actual[name], rtol=1e-3, atol=2e-4), name
    metrics = [read_metrics(run)[-1] for run in (single, interrupted_pair.directory)]
    assert metrics[0]["train_loss"] == pytest.approx(metrics[1]["train_loss"], rel=1e-3)


def test_two_processes_evaluate_each_image_once(interrupted_pair: FinishedRun, single: Run) -> None:
    """Their logits are those of one process, in the same order."""
    expected, actual = (
        np.load(run.path / "evaluation.npz")["logits"]
        for run in (single, interrupted_pair.directory)
    )
    assert expected.shape == actual.shape == (359, 10)
    assert np.abs(expected - actual).max() < 0.02


def test_a_run_continues_after_a_lost_worker(interrupted_pair: FinishedRun) -> None:
    """torchrun restarts both processes, and they resume the run from its checkpoint."""
    assert "step 5" in interrupted_pair.output
    assert [line["epoch"] for line in read_metrics(interrupted_pair.directory)] == [1, 2]
    assert "published" in interrupted_pair.output


def test_collectives_of_a_single_process_are_the_identity() -> None:
    rows = torch.arange(15.0).reshape(5, 3)
    assert SINGLE_PROCESS.all_reduce(rows) is rows
    assert SINGLE_PROCESS.gather_rows(rows, 5) is rows
    assert SINGLE_PROCESS.broadcast_text("text") == "text"
    assert SINGLE_PROCESS.is_main


@pytest.mark.parametrize("device", ["nowhere", "cuda"])
def test_an_unavailable_device_is_refused(device: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(RunError, match="--device"), join_process_group(device):
        pass
