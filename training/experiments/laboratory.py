"""Where experiments train: each network once, under a name that says all it depends on, so that experiments share it.

A training that was cut goes on where it stood; one that is finished is read. The test split is measured after every epoch, to
draw it; it chooses nothing, since the last epoch counts.
"""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.store import ModelStore
from training.beginning import Wish, configure, look_at
from training.data.sources import ImageSet
from training.errors import RunError
from training.learning.networks import build_network
from training.learning.process import Process
from training.pipeline import Display
from training.run_data import RunData, open_run_data
from training.run_directory import Config, RunDirectory, damaged
from training.train import Progress, read_metrics, train
from training.weights import LAST, Trained, predict_split, read_weights

CURVE: Final = "curve.csv"
POINT_STEPS: Final = 50
"""Steps that a point of the training curve is the mean of, or a few more: an epoch is cut evenly."""
MEASUREMENTS: Final = "measurements"


@dataclass(frozen=True)
class TrainedRun:
    """A finished training. `architecture` and `seed` are what tells it from its neighbours in an experiment."""

    directory: RunDirectory
    config: Config
    history: list[dict[str, Any]]

    @property
    def architecture(self) -> str:
        """The network's name."""
        return self.config.architecture

    @property
    def seed(self) -> int:
        """What drew its weights, its order and its augmentation."""
        return self.config.seed

    def last(self, figure: str) -> float:
        """A figure of `metrics.jsonl` at the end of the training. Raises RunError where it was not measured."""
        value = self.history[-1].get(figure)
        if value is None:
            raise RunError(f"{self.directory.path} has no {figure}; remove it, and the experiment trains it anew")
        return float(value)

    def curve(self) -> tuple[list[int], list[float]]:
        """Training error by iteration: the iteration that each point ends at, and the error over the steps since the last."""
        path = self.directory.path / CURVE
        try:
            rows = [(int(row["iteration"]), float(row["training_error"])) for row in csv.DictReader(path.read_text().splitlines())]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise damaged(path, error) from None
        return [step for step, _ in rows], [error for _, error in rows]

    @cached_property
    def trained(self) -> Trained:
        """The network at the end of its training, in evaluation mode."""
        return read_weights(self.directory.file(LAST, "experiment"))


@dataclass(frozen=True)
class Laboratory:
    """What all networks of an experiment have in common: data, recipe, where runs and measurements lie, and who watches."""

    wish: Wish
    runs: Path
    out: Path
    display: Display
    process: Process
    interrupted: Callable[[], bool]

    def config(self, architecture: str, seed: int) -> Config:
        """What a run of this network would be asked for. Raises RecipeError, DataError."""
        wish = replace(self.wish, architecture=architecture, seed=seed, model=f"{self.wish.short_data}-{architecture}")
        return configure(wish, self.images, ModelStore())

    @cached_property
    def images(self) -> ImageSet:
        """What all networks learn from, not yet decoded. Raises DataError."""
        return look_at(self.wish)

    def directory(self, architecture: str, seed: int) -> RunDirectory:
        """Where this network's run lies, begun or not."""
        config = self.config(architecture, seed)
        return RunDirectory(self.runs / f"{architecture}-seed{seed}-{digest(config.trained_as)}")

    def train(self, architecture: str, seed: int) -> TrainedRun:
        """Train this network, go on with it, or read it where it is finished. Raises TrainingError."""
        run = self.directory(architecture, seed)
        config = self.config(architecture, seed)
        run.path.mkdir(parents=True, exist_ok=True)
        with run.alone():
            if not run.has("config.json"):
                run.write_config(config)
            if not run.has(LAST):
                self.display.announce(f"train {architecture}, seed {seed}")
                data = open_run_data(run, self.display.count("checking"), self.process)
                curve = Curve(run, config.recipe.batch_size, len(data.learned))
                train(
                    run,
                    data,
                    lambda progress: (curve(progress), self.display(progress))[1],  # type: ignore[func-returns-value]
                    self.process,
                    self.interrupted,
                    measure=lambda trained: measure_test(trained, data, self.process),
                )
        return TrainedRun(run, run.config(), read_metrics(run))

    def untrained(self, architecture: str, seed: int, classes: int) -> nn.Module:
        """The network at its start, the same for the same seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build_network(architecture, classes).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def data(self, run: TrainedRun) -> RunData:
        """The images that a run was trained on."""
        return open_run_data(run.directory, self.display.count("checking"), self.process)

    def measured(self, name: str, depends_on: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
        """What `measure` gives, as JSON values, kept under `name` and what it depends on: a second time it is read."""
        path = self.out / MEASUREMENTS / f"{name}-{digest(depends_on)}.json"
        if path.exists():
            try:
                return json.loads(path.read_bytes())["measured"]
            except (ValueError, KeyError, TypeError) as error:
                raise damaged(path, error) from None
        self.display.announce(f"measure {name}")
        value = measure()
        RunDirectory(path.parent.parent).write_json(f"{MEASUREMENTS}/{path.name}", {"of": dict(depends_on), "measured": value})
        return json.loads(json.dumps(value))


class Curve:
    """The training error of a run by iteration, each point over `POINT_STEPS` steps; a resumed run goes on with its file."""

    def __init__(self, run: RunDirectory, batch_size: int, images: int) -> None:
        self._run, self._batch_size, self._images = run, batch_size, images
        self._points: list[tuple[int, float]] | None = None
        self._before = (0, 0.0)  # images seen and got right in this epoch, up to the last point

    def __call__(self, progress: Progress) -> None:
        """Take in where the training stands."""
        if progress.accuracy is None or progress.metrics:  # an epoch's end repeats its last step
            return
        ended = progress.step == progress.steps
        seen = self._images if ended else progress.step * self._batch_size
        right = progress.accuracy * seen
        if self._points is None:
            self._points = self._read(progress.run_step)
            if progress.step > 1:
                self._before = (seen, right)
                return
        points = max(1, progress.steps // POINT_STEPS)
        if progress.step * points // progress.steps == (progress.step - 1) * points // progress.steps:
            return
        images = seen - self._before[0]
        self._points.append((progress.run_step, 1 - (right - self._before[1]) / images))
        self._before = (0, 0.0) if ended else (seen, right)
        self._write(self._points)

    def _read(self, step: int) -> list[tuple[int, float]]:
        """The points before this step, which the resumed training does not make again."""
        if not self._run.has(CURVE):
            return []
        rows = csv.DictReader((self._run.path / CURVE).read_text().splitlines())
        return [(int(row["iteration"]), float(row["training_error"])) for row in rows if int(row["iteration"]) < step]

    def _write(self, points: list[tuple[int, float]]) -> None:
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(("iteration", "training_error"))
        writer.writerows((step, f"{error:.6f}") for step, error in points)
        self._run.write(CURVE, buffer.getvalue().encode())


def measure_test(trained: Trained, data: RunData, process: Process) -> dict[str, float]:
    """Loss and top-1 on the test split."""
    logits = predict_split(trained.answering, data, data.split.test, trained.normalize, process)
    labels = data.labels(data.split.test)
    return {"test_loss": functional.cross_entropy(logits, labels).item(), "test_top1": top1(logits, labels)}


def top1(logits: Tensor, labels: Tensor) -> float:
    """The share of rows whose highest value is at their label."""
    return (logits.argmax(1) == labels).double().mean().item()


def digest(values: Mapping[str, Any]) -> str:
    """Eight hex digits that stand for these JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:8]


def deviation(values: list[float]) -> float | None:
    """The sample standard deviation; None of a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
