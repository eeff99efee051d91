"""A finished run of an experiment."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from training.errors import RunError
from training.experiments.training_curve import CURVE, CurvePoint, read_curve
from training.run.config import RunConfig
from training.run.data import CHECK_FILE
from training.run.directory import Run
from training.run.metrics import read_metrics
from training.run.weights import LAST_WEIGHTS, TrainedNetwork, read_weights


@dataclass(frozen=True)
class TrainedRun:
    """A finished run of one network and one seed."""

    directory: Run
    config: RunConfig
    history: list[dict[str, Any]]
    """Lines of `metrics.jsonl`, one per epoch."""

    @classmethod
    def read(cls, run: Run) -> Self:
        """Read a finished run.

        Raises:
            RunError: The run was partly trained by another command, so its curves have gaps.
        """
        history = read_metrics(run)
        complete = all(line.keys() >= {"test_top1", "train_top1"} for line in history)
        if not run.has(CURVE) or not complete:
            raise RunError(
                f"{run.path} was partly trained outside the experiments, so its curves have gaps. "
                "Move it away to train it again."
            )
        return cls(run, run.config, history)

    @property
    def architecture(self) -> str:
        return self.config.architecture

    @property
    def seed(self) -> int:
        return self.config.seed

    def final_metric(self, name: str) -> float:
        """A value of `metrics.jsonl` after the last epoch."""
        return float(self.history[-1][name])

    def training_curve(self) -> list[CurvePoint]:
        return read_curve(self.directory)

    @cached_property
    def trained(self) -> TrainedNetwork:
        """The network after the last epoch, in evaluation mode."""
        return read_weights(self.directory.file(LAST_WEIGHTS, "experiment"))

    @property
    def data_digest(self) -> str:
        """SHA-256 of the pixels and labels that the run used."""
        return str(self.directory.read_json(CHECK_FILE, "experiment")["data_digest"])

    def measurement_key(self) -> dict[str, Any]:
        """Values that identify this network in `Laboratory.measure_once`."""
        weights = hashlib.sha256(
            self.directory.file(LAST_WEIGHTS, "experiment").read_bytes()
        ).hexdigest()
        return {"run": self.directory.run_id, "weights": weights, "data": self.data_digest}
