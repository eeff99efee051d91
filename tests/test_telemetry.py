"""No dependency sends usage data or leaves its files on the machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "model_store/builtin/digits-resnet20/1/model.onnx"
VARIABLES = ("ORT_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY")
ENTRIES = [
    "model_store.session",
    "service.engine.tuned_settings",
    "training.importing.foreign_graph",
]
"""A module of each package that imports onnxruntime."""


def environment(home: Path) -> dict[str, str]:
    """An empty home directory, and none of the variables that turn telemetry off."""
    inherited = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return inherited | {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}


def load_a_model(entry: str) -> list[str]:
    """A command that imports the module and loads a model."""
    code = f"import {entry}, onnxruntime; onnxruntime.InferenceSession({str(MODEL)!r})"
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("entry", ENTRIES)
def test_loading_a_model_leaves_no_file_of_onnxruntime(entry: str, tmp_path: Path) -> None:
    """ONNX Runtime 1.32 writes a device id and an event database when it is imported."""
    subprocess.run(load_a_model(entry), cwd=ROOT, env=environment(tmp_path), check=True)
    assert not [path for path in tmp_path.rglob("*") if "onnxruntime" in str(path).lower()]


def test_loading_a_model_opens_no_network_socket(tmp_path: Path) -> None:
    """Neither a DNS query nor a connection."""
    strace = shutil.which("strace")
    if not strace or subprocess.run([strace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace is not installed or may not trace here")
    trace = tmp_path / "trace"
    command = [strace, "-f", "-e", "trace=%network", "-o", trace, *load_a_model(ENTRIES[0])]
    subprocess.run(command, cwd=ROOT, env=environment(tmp_path), check=True)
    assert "exited with 0" in trace.read_text()
    assert "AF_INET" not in trace.read_text()


@pytest.mark.parametrize("package", ["model_store", "service", "training", "resident.cli"])
def test_every_package_turns_telemetry_off(package: str, tmp_path: Path) -> None:
    """Importing the package is enough, so no import order can miss it."""
    code = f"import os, {package}; print(*(os.environ[name] for name in {VARIABLES!r}))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "true"]


def test_a_user_may_turn_it_on(tmp_path: Path) -> None:
    """A variable that is set already keeps its value."""
    code = "import os, model_store; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(tmp_path) | {"ORT_DISABLE_TELEMETRY": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "0"
