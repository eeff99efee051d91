"""Several processes: the same weights as one, no image evaluated twice, and on after a lost worker."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from training.errors import RunError
from training.learning.distributed import SINGLE_PROCESS, join_process_group
from training.run.directory import RunDirectory
from training.steps.train import read_metrics

ROOT = Path(__file__).parents[3]
TRAIN = (
    "--data",
    "digits",
    "--set",
    "accumulation=2",
    "--set",
    "ema_decay=0.9",
    "--threads",
    "1",
    "--device",
    "cpu",
    "--precision",
    "fp32",
)


@contextmanager
def started(
    cwd: Path, *words: str, processes: int = 1, restarts: int = 0
) -> Iterator[subprocess.Popen[str]]:
    """`python -m training`, by itself or under torchrun."""
    launcher = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        f"--max-restarts={restarts}",
    ]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "training", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    with subprocess.Popen(
        command,
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


def finished(cwd: Path, *words: str, **options: int) -> str:
    """Its output, when it has ended well."""
    with started(cwd, *words, **options) as process:
        output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def only_run(directory: Path) -> RunDirectory:
    (run,) = (directory / "runs").iterdir()
    return RunDirectory(run)


def test_two_processes_come_to_the_weights_of_one_that_accumulates(tmp_path: Path) -> None:
    """Parameters, running statistics and their average, within float tolerance; and the same logits on each test image."""
    alone, together = tmp_path / "alone", tmp_path / "together"
    for directory, processes in ((alone, 1), (together, 2)):
        directory.mkdir()
        finished(directory, "train", *TRAIN, "--set", "iterations=8", processes=processes)
        finished(
            directory,
            "evaluate",
            str(only_run(directory).path),
            "--device",
            "cpu",
            processes=processes,
        )
    expected, found = (
        load_file(only_run(directory).path / "last.safetensors") for directory in (alone, together)
    )
    assert expected.keys() == found.keys()
    for name in (
        name for name in expected if not name.endswith("num_batches_tracked")
    ):  # calls of one process, and no weight
        value = expected[name]
        assert torch.allclose(value, found[name], rtol=1e-3, atol=2e-4), name
    logits = [
        np.load(only_run(directory).path / "evaluation.npz")["logits"]
        for directory in (alone, together)
    ]
    assert logits[0].shape == logits[1].shape == (359, 10)
    assert np.abs(logits[0] - logits[1]).max() < 0.02
    metrics = [read_metrics(only_run(directory))[-1] for directory in (alone, together)]
    assert metrics[0]["train_loss"] == pytest.approx(metrics[1]["train_loss"], rel=1e-3)


@pytest.mark.timeout(600)
def test_a_lost_worker_does_not_lose_the_run(tmp_path: Path) -> None:
    """One of two is killed; torchrun starts both again, and they go on from the checkpoint of the same run."""
    words = (
        "run",
        *TRAIN,
        "--epochs",
        "3",
        "--set",
        "accuracy_floor=0",
        "--store",
        "store",
        "--waive",
        "accuracy_jpeg=short",
    )
    with started(tmp_path, *words, processes=2, restarts=1) as process:
        deadline = time.monotonic() + 300
        while not list(tmp_path.glob("runs/*/metrics.jsonl")) and time.monotonic() < deadline:
            assert process.poll() is None, process.stdout and process.stdout.read()
            time.sleep(0.2)
        os.kill(max(worker_pids(process.pid)), signal.SIGKILL)
        output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "goes on at step" in output
    assert "published" in output
    assert [line["epoch"] for line in read_metrics(only_run(tmp_path))] == [1, 2, 3]


def worker_pids(parent: int) -> list[int]:
    """The processes that torchrun has started."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"training" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def test_alone_every_collective_is_the_identity() -> None:
    """No group is made, nothing is copied to anyone."""
    rows = torch.randn(5, 3)
    assert torch.equal(SINGLE_PROCESS.all_reduce(rows), rows)
    assert torch.equal(SINGLE_PROCESS.gather_rows(rows, 5), rows)
    assert SINGLE_PROCESS.broadcast_text("text") == "text"
    assert SINGLE_PROCESS.is_main


@pytest.mark.parametrize(
    ("device", "message"),
    [("nowhere", "there is no device 'nowhere'"), ("cuda", "use --device cpu")],
)
def test_a_device_that_is_not_there_is_refused(device: str, message: str) -> None:
    """With what there is."""
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(RunError, match=message), join_process_group(device):
        pass
