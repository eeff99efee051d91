"""Trackers: what an epoch has measured also goes to TensorBoard, and to MLflow where its address is set.

TensorBoard's files lie in the run's directory (`tensorboard --logdir runs`). `MLFLOW_TRACKING_URI` is MLflow's own variable;
`MLFLOW_EXPERIMENT_NAME` names the experiment, else the model does. A tracker that can not be reached is said once, and
training goes on.
"""

import json
import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from training.run.directory import RunDirectory

TENSORBOARD_DIRECTORY: Final = "tensorboard"
MLFLOW_RUN_FILE: Final = "mlflow.json"

EpochMetrics = dict[str, float]
logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """Where measurements go beside the run's own files."""

    def log(self, epoch: int, figures: EpochMetrics) -> None:
        """What this epoch (from 1) has measured."""

    def close(self, *, finished: bool) -> None:
        """The training has ended, or was stopped."""


class TensorBoard:
    """A directory of event files; what an earlier process wrote of the same epochs is hidden."""

    def __init__(self, run: RunDirectory, first_epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  half a second that only a training pays

        self._writer = SummaryWriter(str(run.path / TENSORBOARD_DIRECTORY), purge_step=first_epoch)

    def log(self, epoch: int, figures: EpochMetrics) -> None:
        """A scalar each."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def close(self, *, finished: bool) -> None:  # noqa: ARG002  the files are the same
        """Close the files."""
        self._writer.close()


class MLflow:
    """A run of an MLflow server, the same one after a resume."""

    def __init__(self, run: RunDirectory) -> None:
        import mlflow  # noqa: PLC0415  an optional package

        config = run.config()
        self._client = mlflow.MlflowClient()
        if run.has(MLFLOW_RUN_FILE):
            self._id: str = run.read_json(MLFLOW_RUN_FILE, "resume")["run_id"]
            self._client.update_run(self._id, status="RUNNING")
            return
        experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", config.model))
        self._id = self._client.create_run(
            experiment.experiment_id, run_name=run.run_id
        ).info.run_id
        for name, value in config.model_dump(mode="json", exclude={"packages"}).items():
            self._client.log_param(
                self._id, name, value if isinstance(value, str) else json.dumps(value)
            )
        run.write_json(MLFLOW_RUN_FILE, {"run_id": self._id})

    def log(self, epoch: int, figures: EpochMetrics) -> None:
        """A metric each."""
        for name, value in figures.items():
            self._client.log_metric(self._id, name, value, step=epoch)

    def close(self, *, finished: bool) -> None:
        """Tell the server how it ended."""
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")


class Trackers:
    """All of them. One that fails is said once and left alone: measurements are not worth a training."""

    def __init__(self, run: RunDirectory, say: Callable[[str], None] = logger.warning) -> None:
        self._run, self._say = run, say
        self._trackers: dict[str, Tracker] = {}
        self._opened = False

    def log(self, epoch: int, figures: EpochMetrics) -> None:
        """What this epoch (from 1) has measured; the first call opens the trackers."""
        if not self._opened:
            self._opened = True
            self._guard(
                "TensorBoard",
                lambda: self._trackers.update(TensorBoard=TensorBoard(self._run, epoch)),
            )
            if os.environ.get("MLFLOW_TRACKING_URI"):
                self._guard("MLflow", lambda: self._trackers.update(MLflow=MLflow(self._run)))
        for name, tracker in list(self._trackers.items()):
            self._guard(name, partial(tracker.log, epoch, figures))

    def close(self, *, finished: bool) -> None:
        """The training has ended, or was stopped."""
        for name, tracker in list(self._trackers.items()):
            self._guard(name, partial(tracker.close, finished=finished))

    def _guard(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001  whatever a server, a network or a package does
            self._say(
                f"{name} does not take the measurements, so they go into the run's directory alone: {error}"
            )
            self._trackers.pop(name, None)
