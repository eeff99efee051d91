"""Trackers: TensorBoard and MLflow get every epoch once, and their failures are harmless."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.run.directory import Run
from training.run.tracking import TENSORBOARD_DIRECTORY, Trackers


def scalars(run: Run, name: str) -> list[tuple[int, float]]:
    """Return the points that TensorBoard shows."""
    events = EventAccumulator(str(run.path / TENSORBOARD_DIRECTORY)).Reload()
    return [(event.step, round(event.value, 3)) for event in events.Scalars(name)]


def test_tensorboard_shows_each_epoch_once_after_a_resume(
    new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repeated epochs hide those of the killed process."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run, warnings = new_run(), []
    killed = Trackers(run, warnings.append)
    for epoch, loss in ((1, 0.9), (2, 0.8), (3, 0.7)):
        killed.log(epoch, {"validation_loss": loss})
    # Files are read in the order of their names, which start with the second of their creation.
    (events,) = (run.path / TENSORBOARD_DIRECTORY).iterdir()
    events.rename(events.with_name(re.sub(r"\d{10}", "1000000000", events.name, count=1)))
    resumed = Trackers(run, warnings.append)
    for epoch, loss in ((3, 0.6), (4, 0.5)):
        resumed.log(epoch, {"validation_loss": loss})
    resumed.close(finished=True)
    assert scalars(run, "validation_loss") == [(1, 0.9), (2, 0.8), (3, 0.6), (4, 0.5)]
    assert warnings == []


@pytest.mark.timeout(120)
def test_an_unreachable_tracker_is_reported_once(
    new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Soon, because MLflow's seven retries take minutes. Other trackers still get every epoch."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, "")  # is restored after the test
        monkeypatch.delenv(name)
    run, warnings = new_run(), []
    trackers = Trackers(run, warnings.append)
    for epoch in (1, 2, 3):
        trackers.log(epoch, {"validation_loss": 0.5})
    trackers.close(finished=True)
    (warning,) = warnings
    assert warning.startswith("MLflow failed")
    assert len(scalars(run, "validation_loss")) == 3


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[str]:
    """The address of an MLflow server with its own database."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    stores = (
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/mlflow.db",
        "--artifacts-destination",
        str(tmp_path / "artifacts"),
    )
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        *stores,
    ]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            while not is_healthy(address):  # pytest-timeout ends a test whose server never starts
                assert process.poll() is None, "the MLflow server has ended"
                time.sleep(0.3)
            yield address
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def is_healthy(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=10).is_success
    except httpx.HTTPError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("sqlalchemy") is None, reason="no MLflow server is installed here, only its client"
)
def test_mlflow_gets_the_parameters_and_every_epoch(
    new_run: Callable[..., Run], mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run continues the same MLflow run."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    run, warnings = new_run(), []
    for epochs, finished in (((1, 2), False), ((3,), True)):
        trackers = Trackers(run, warnings.append)
        for epoch in epochs:
            trackers.log(epoch, {"validation_top1": epoch / 10})
        trackers.close(finished=finished)
    assert warnings == []
    import mlflow  # noqa: PLC0415  only where there is a server

    client = mlflow.MlflowClient(mlflow_server)
    (experiment,) = [
        candidate for candidate in client.search_experiments() if candidate.name == run.config.model
    ]
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["architecture"] == "resnet20"
    history = client.get_metric_history(tracked.info.run_id, "validation_top1")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.1), (2, 0.2), (3, 0.3)]
