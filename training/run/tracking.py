"""Trackers: send the metrics of each epoch to TensorBoard, and to MLflow if it is configured.

TensorBoard's files are in the run directory (`tensorboard --logdir runs`). MLflow is used if
`MLFLOW_TRACKING_URI` is set; `MLFLOW_EXPERIMENT_NAME` overrides the name of the model. A failing
tracker is reported once and then ignored. `MLFLOW_HTTP_REQUEST_MAX_RETRIES` and
`MLFLOW_HTTP_REQUEST_TIMEOUT` are MLflow's own settings.
"""

import json
import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from training.run.directory import Run, RunDirectory

TENSORBOARD_DIRECTORY: Final = "tensorboard"
MLFLOW_RUN_FILE: Final = "mlflow.json"

_MLFLOW_LIMITS: Final = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""Its defaults of 7 retries and 120 seconds stop a training for minutes if the server is gone."""

EpochMetrics = dict[str, float]
logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """A destination of metrics in addition to the run directory."""

    def log(self, epoch: int, metrics: EpochMetrics) -> None:
        """Record the metrics of an epoch (from 1)."""

    def close(self, *, finished: bool) -> None:
        """End the recording; `finished` is False if the training was stopped."""


class TensorBoard:
    """Writes event files. A resumed run hides what a killed process wrote for the same epochs."""

    def __init__(self, run: RunDirectory, first_epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  takes half a second

        directory = str(run.path / TENSORBOARD_DIRECTORY)
        self._writer = SummaryWriter(directory, purge_step=first_epoch)

    def log(self, epoch: int, metrics: EpochMetrics) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def close(self, *, finished: bool) -> None:  # noqa: ARG002
        self._writer.close()


class MLflow:
    """A run on an MLflow server; a resumed run continues the same one."""

    def __init__(self, run: Run) -> None:
        for name, value in _MLFLOW_LIMITS.items():
            os.environ.setdefault(name, value)
        import mlflow  # noqa: PLC0415  an optional package

        config = run.config
        self._client = mlflow.MlflowClient()
        if run.has(MLFLOW_RUN_FILE):
            self._id: str = run.read_json(MLFLOW_RUN_FILE, "resume")["run_id"]
            self._client.update_run(self._id, status="RUNNING")
            return
        experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", config.model))
        created = self._client.create_run(experiment.experiment_id, run_name=run.run_id)
        self._id = created.info.run_id
        for name, value in config.model_dump(mode="json", exclude={"packages"}).items():
            text = value if isinstance(value, str) else json.dumps(value)
            self._client.log_param(self._id, name, text)
        run.write_json(MLFLOW_RUN_FILE, {"run_id": self._id})

    def log(self, epoch: int, metrics: EpochMetrics) -> None:
        for name, value in metrics.items():
            self._client.log_metric(self._id, name, value, step=epoch)

    def close(self, *, finished: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")


class Trackers:
    """All trackers of a run. A tracker that fails is reported once and then ignored."""

    def __init__(self, run: Run, warn: Callable[[str], None] = logger.warning) -> None:
        self._run, self._warn = run, warn
        self._trackers: dict[str, Tracker] = {}
        self._opened = False

    def log(self, epoch: int, metrics: EpochMetrics) -> None:
        """Record the metrics of an epoch (from 1). The first call opens the trackers."""
        if not self._opened:
            self._opened = True
            self._open("TensorBoard", lambda: TensorBoard(self._run, epoch))
            if os.environ.get("MLFLOW_TRACKING_URI"):
                self._open("MLflow", lambda: MLflow(self._run))
        for name, tracker in list(self._trackers.items()):
            self._guard(name, partial(tracker.log, epoch, metrics))

    def close(self, *, finished: bool) -> None:
        for name, tracker in list(self._trackers.items()):
            self._guard(name, partial(tracker.close, finished=finished))

    def _open(self, name: str, create: Callable[[], Tracker]) -> None:
        self._guard(name, lambda: self._trackers.update({name: create()}))

    def _guard(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001  servers and optional packages raise anything
            self._warn(f"{name} failed; metrics are written to the run directory only: {error}")
            self._trackers.pop(name, None)
