"""`run --ray` on a cluster of two Ray nodes, which are processes of this machine."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from server_process import PATIENCE_SECONDS, REPOSITORY, Output

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray"),
]

TRAINING = (
    *("run", "--data", "digits", "--store", "store", "--threads", "1", "--device", "cpu"),
    *("--precision", "fp32", "--waive", "accuracy_jpeg=short", "--set", "accuracy_floor=0"),
    *("--set", "batch_size=256", "--set", "accumulation=2", "--set", "ema_decay=0.9"),
    *("--set", "iterations=10"),
)
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(REPOSITORY),
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@contextmanager
def node(*options: str) -> Iterator[None]:
    """A Ray node with one CPU."""
    ray = Path(sys.executable).with_name("ray")
    fixed = ("--num-cpus=1", "--object-store-memory=100000000", "--block")
    process = subprocess.Popen(
        [ray, "start", *fixed, *options],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    output = Output(process.stdout)
    try:
        assert output.wait_for("Ray runtime started", 2 * PATIENCE_SECONDS), output.text
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # SIGTERM would wait 30 s for the workers
        process.wait(PATIENCE_SECONDS)
        output.wait_for_end()


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of two nodes."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # its sockets need a short path
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    head = ("--head", f"--port={address.partition(':')[2]}", "--include-dashboard=false")
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.enter_context(node(*head, "--node-ip-address=127.0.0.1", f"--temp-dir={folder}"))
        stack.enter_context(node(f"--address={address}"))
        yield address


def python(cwd: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env=ENVIRONMENT | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_two_nodes_get_the_weights_of_one_process(cluster: str, tmp_path: Path) -> None:
    """The version is published once."""
    pair, single = tmp_path / "pair", tmp_path / "single"
    weights = []
    for folder, options, variables in (
        (pair, ("--ray", "--ray-processes", "2"), {"RAY_ADDRESS": cluster}),
        (single, (), {}),
    ):
        folder.mkdir()
        done = python(folder, "-m", "training", *TRAINING, *options, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        (file,) = folder.glob("runs/*/last.safetensors")
        weights.append(load_file(file))
        assert [path.name for path in folder.glob("store/*/[0-9]*")] == ["1"]
    actual, expected = weights
    for name, values in expected.items():
        if not name.endswith("num_batches_tracked"):  # counts the calls of one process
            assert torch.allclose(values, actual[name], rtol=1e-3, atol=5e-4), name


def test_an_error_of_the_run_is_an_error_of_the_command(cluster: str, tmp_path: Path) -> None:
    """The command prints the error of the run and does not try again."""
    program = f"""
from pathlib import Path
from training.errors import RunError
from training.run.ray_cluster import run_on_ray

def task():
    with open({str(tmp_path / "calls")!r}, "a") as file:
        file.write("call\\n")
    raise RunError("the gate failed")

try:
    run_on_ray(task, 1, Path("runs"))
except RunError as error:
    print("caught", error)
"""
    done = python(tmp_path, "-c", program, RAY_ADDRESS=cluster)
    assert "caught the gate failed" in done.stdout, done.stdout + done.stderr
    assert (tmp_path / "calls").read_text() == "call\n"
