"""Two containers train together by torchrun and gloo; one is killed and comes back.

The containers mount an environment of this checkout with PyTorch, because its image has 7 GB.
"""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from compose_project import BASE_IMAGE, REPOSITORY, Project, started

ENVIRONMENTS = [REPOSITORY / ".venv" / name / "bin/python" for name in ("ci", "training")]
PYTHON = next((path for path in ENVIRONMENTS if path.exists()), ENVIRONMENTS[-1])
# Five steps per epoch. Each step has the images of both containers.
TRAINING = (
    *("-m", "training", "train", "--data", "digits", "--threads", "1", "--device", "cpu"),
    *("--precision", "fp32", "--set", "batch_size=256", "--set", "accumulation=2"),
    *("--set", "ema_decay=0.9", "--set", "iterations=10"),
)
TORCHRUN = (
    *("-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=3"),
    *("--rdzv-backend=c10d", "--rdzv-id=digits"),
)

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="needs the training environment: make .venv/training/.installed"
)


def mounts(folder: Path) -> list[str]:
    """The checkout, its environment and the Python below it, at their own paths."""
    program = "import sys; print(sys.base_prefix, sys.prefix)"
    done = subprocess.run([PYTHON, "-c", program], capture_output=True, text=True, check=True)
    paths = {str(REPOSITORY), *done.stdout.split()}
    paths |= {str(Path(path).resolve()) for path in paths}
    read_only = [f"--volume={path}:{path}:ro" for path in sorted(paths)]
    return [*read_only, f"--volume={folder}:/shared", "--workdir=/shared"]


@pytest.fixture
def engine(docker: str) -> Iterator[Project]:
    with started(docker, {}) as project:
        yield project


def tensors(file: Path) -> dict[str, np.ndarray]:
    """The float tensors of a safetensors file, which is a JSON header and raw values."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return {
        name: np.frombuffer(data[8 + length :][slice(*entry["data_offsets"])], np.float32)
        for name, entry in header.items()
        if name != "__metadata__" and entry["dtype"] == "F32"
    }


def lines(folder: Path) -> list[dict[str, float]]:
    """The epochs that are done so far."""
    files = list(folder.glob("runs/*/metrics.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.mark.timeout(900)
def test_a_container_that_was_killed_joins_again(engine: Project, tmp_path: Path) -> None:
    """The run continues from its checkpoint and ends with the weights of one process."""
    pair, single = tmp_path / "pair", tmp_path / "single"
    pair.mkdir()
    single.mkdir()
    mark = secrets.token_hex(4)
    network, names = f"train-{mark}", [f"train-{mark}-{index}" for index in range(2)]
    engine.docker("network", "create", network)
    try:
        for index, name in enumerate(names):
            engine.docker(
                *("run", "--detach", "--name", name, "--hostname", name, "--network", network),
                *("--env", f"PYTHONPATH={REPOSITORY}", "--env", "OMP_NUM_THREADS=1"),
                *("--env", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1", *mounts(pair)),
                *("--entrypoint", str(PYTHON), BASE_IMAGE, *TORCHRUN),
                *(f"--rdzv-endpoint={names[0]}:29400", f"--rdzv-conf=is_host={index == 0}"),
                *(f"--local-addr={name}", *TRAINING),
            )
        while not lines(pair):
            for name in names:
                assert engine.state(name, "{{.State.Running}}") == "true", engine.run(
                    "docker", "logs", name
                )
        engine.docker("kill", "--signal", "KILL", names[1])
        engine.docker("start", names[1])
        codes = [engine.docker("wait", name) for name in names]
        logs = engine.run("docker", "logs", names[0])
        assert codes == ["0", "0"], logs
    finally:
        for name in names:
            engine.run("docker", "rm", "--force", "--volumes", name, check=False)
        engine.run("docker", "network", "rm", network, check=False)

    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    subprocess.run([PYTHON, *TRAINING], cwd=single, env=environment, stdout=sys.stderr, check=True)
    assert [line["epoch"] for line in lines(pair)] == [1, 2]
    (actual,), (expected,) = (
        [tensors(file) for file in folder.glob("runs/*/last.safetensors")]
        for folder in (pair, single)
    )
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        assert np.allclose(values, actual[name], rtol=1e-3, atol=5e-4), name
