"""Trackers: TensorBoard's files hold each epoch once, MLflow gets everything, neither can stop a training."""

import os
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
    """What TensorBoard would draw."""
    events = EventAccumulator(str(run.path / TENSORBOARD_DIRECTORY)).Reload()
    return [(event.step, round(event.value, 3)) for event in events.Scalars(name)]


def test_tensorboard_shows_each_epoch_once_also_after_a_kill(
    new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs that were written by a process that died are hidden by those that came again."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run, heard = new_run(), []
    killed = Trackers(run, heard.append)
    for epoch, loss in ((1, 0.9), (2, 0.8), (3, 0.7)):
        killed.log(epoch, {"validation_loss": loss})
    time.sleep(1.1)  # event files of one second would be read in any order
    resumed = Trackers(run, heard.append)
    for epoch, loss in ((3, 0.6), (4, 0.5)):
        resumed.log(epoch, {"validation_loss": loss})
    resumed.close(finished=True)
    assert scalars(run, "validation_loss") == [(1, 0.9), (2, 0.8), (3, 0.6), (4, 0.5)]
    assert heard == []


def test_a_tracker_that_can_not_be_reached_is_said_once(
    new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And training goes on: measurements are in the run's directory."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run, heard = new_run(), []
    trackers = Trackers(run, heard.append)
    for epoch in (1, 2, 3):
        trackers.log(epoch, {"validation_loss": 0.5})
    trackers.close(finished=True)
    (said,) = heard
    assert said.startswith("MLflow failed")
    assert len(scalars(run, "validation_loss")) == 3


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[str]:
    """A real MLflow server on a database of its own."""
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
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{address}/health", timeout=2).is_success:
                    break
            except httpx.HTTPError:
                time.sleep(0.3)
        yield address
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("sqlalchemy") is None, reason="no MLflow server is installed here, only its client"
)
def test_mlflow_gets_a_run_with_its_values_and_every_epoch(
    new_run: Callable[..., Run], mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a resume it is the same run."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    run, heard = new_run(), []
    for epochs, finished in (((1, 2), False), ((3,), True)):
        trackers = Trackers(run, heard.append)
        for epoch in epochs:
            trackers.log(epoch, {"validation_top1": epoch / 10})
        trackers.close(finished=finished)
    assert heard == []
    import mlflow  # noqa: PLC0415  only where there is a server

    client = mlflow.MlflowClient(mlflow_server)
    (experiment,) = [
        found for found in client.search_experiments() if found.name == run.config.model
    ]
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["architecture"] == "resnet20"
    history = client.get_metric_history(tracked.info.run_id, "validation_top1")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.1), (2, 0.2), (3, 0.3)]
