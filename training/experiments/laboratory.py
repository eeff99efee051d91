"""Where experiments train: each network once, under a name that says all it depends on, so that experiments share it.

A training that was cut goes on where it stood; one that is finished is read. The test split is measured after every epoch, to
draw it; it chooses nothing, since the last epoch counts.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.store import ModelStore
from training.data.scan import scan
from training.data.sources import ImageSet
from training.errors import RecipeError, RunError
from training.experiments.training_curve import CURVE, CurvePoint, CurveRecorder, read_curve
from training.learning.distributed import DistributedProcess
from training.learning.networks import build_network, parse_architecture
from training.run.data import CHECK_FILE, RunData, canvas_of, open_run_data
from training.run.directory import RunConfig, RunDirectory, damaged
from training.run.inference import predict_split
from training.run.request import RunRequest, configure, look_at
from training.run.weights import LAST_WEIGHTS, Trained, read_weights
from training.steps.pipeline import ProgressDisplay
from training.steps.train import Progress, read_metrics, train

TWINS: Final = ("plain", "resnet")
"""Families whose networks of one depth differ in their shortcuts alone."""
RECIPE: Final = "experiment"
MEASUREMENTS: Final = ".measurements"


@dataclass(frozen=True)
class TrainedRun:
    """A finished training. `architecture` and `seed` are what tells it from its neighbours in an experiment."""

    directory: RunDirectory
    config: RunConfig
    history: list[dict[str, Any]]

    @classmethod
    def read(cls, run: RunDirectory) -> Self:
        """A finished run, with all that experiments draw. Raises RunError for one that something else has trained in part."""
        history = read_metrics(run)
        if not run.has(CURVE) or not all(
            line.keys() >= {"test_top1", "train_top1"} for line in history
        ):
            raise RunError(
                f"{run.path} was not trained by an experiment alone, so its curves have gaps: move it away"
            )
        return cls(run, run.config(), history)

    @property
    def architecture(self) -> str:
        """The network's name."""
        return self.config.architecture

    @property
    def seed(self) -> int:
        """What drew its weights, its order and its augmentation."""
        return self.config.seed

    def last(self, figure: str) -> float:
        """A figure of `metrics.jsonl` at the end of the training."""
        return float(self.history[-1][figure])

    def curve(self) -> list[CurvePoint]:
        """Training error by iteration."""
        return read_curve(self.directory)

    @cached_property
    def trained(self) -> Trained:
        """The network at the end of its training, in evaluation mode."""
        return read_weights(self.directory.file(LAST_WEIGHTS, "experiment"))

    @property
    def data_digest(self) -> str:
        """What the images of its data were, to the pixel."""
        return str(self.directory.read_json(CHECK_FILE, "experiment")["data_digest"])

    def identity(self) -> dict[str, Any]:
        """What any measurement of this network on its data depends on: for `Laboratory.measured`."""
        weights = hashlib.sha256(
            self.directory.file(LAST_WEIGHTS, "experiment").read_bytes()
        ).hexdigest()
        return {"run": self.directory.run_id, "weights": weights, "data": self.data_digest}


@dataclass(frozen=True)
class Laboratory:
    """What all networks of an experiment have in common: data, recipe, where they lie, and who watches."""

    wish: RunRequest
    runs: Path
    display: ProgressDisplay
    process: DistributedProcess
    interrupted: Callable[[], bool]
    _digests: set[str] = field(default_factory=set)
    """That of the data, once it was looked at."""

    def config(self, architecture: str, seed: int) -> RunConfig:
        """What a run of this network would be asked for. Raises RecipeError, DataError."""
        model = model_name(self.wish.short_data, architecture)
        wish = replace(self.wish, architecture=architecture, seed=seed, model=model)
        return configure(wish, self.images, ModelStore())

    def require(self, architectures: Sequence[str]) -> None:
        """Raise RecipeError, before anything is trained, for an unknown network and for networks of two kinds."""
        styles = {parse_architecture(architecture).style for architecture in architectures}
        if len(styles) > 1:
            raise RecipeError(
                f"{', '.join(architectures)} are of two kinds, for small images and for large ones: compare one kind"
            )
        if self.config(architectures[0], 0).recipe.mixing.enabled:
            raise RecipeError(
                "of mixed images there is no training error: add --set mixing.mixup=0 --set mixing.cutmix=0"
            )

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
        run.path.mkdir(parents=True, exist_ok=True)
        with run.alone():
            if run.has(LAST_WEIGHTS):
                self._check_data(run)
            else:
                self._train(run, self.config(architecture, seed))
        return TrainedRun.read(run)

    def _train(self, run: RunDirectory, config: RunConfig) -> None:
        if not run.has("config.json"):
            run.write_config(config)
        self.display.announce(f"train {config.architecture}, seed {config.seed}")
        data = open_run_data(run, self.display.count("checking"), self.process)
        curve = CurveRecorder(run, config.recipe.batch_size, len(data.learned))

        def report(progress: Progress) -> None:
            curve(progress)
            self.display(progress)

        def measure(trained: Trained) -> dict[str, float]:
            return measure_test(trained, data, self.process)

        train(run, data, report, self.process, self.interrupted, measure=measure)

    def _check_data(self, run: RunDirectory) -> None:
        """Raise RunError where a finished run learned from other images than lie there now."""
        if not self._digests:
            canvas = canvas_of(run.config().preprocessing)
            self._digests.add(scan(self.images, canvas, 2, self.display.count("checking")).digest)
        if run.read_json(CHECK_FILE, "experiment").get("data_digest") not in self._digests:
            raise RunError(
                f"{run.path} has learned from other data than {self.images.name} holds now: give another --runs"
            )

    def untrained(self, architecture: str, seed: int) -> nn.Module:
        """The network at its start, the same for the same seed."""
        torch.manual_seed(seed)
        network = build_network(architecture, len(self.images.class_names)).to(self.process.device)
        return network.to(memory_format=torch.channels_last)

    def data(self, run: TrainedRun) -> RunData:
        """The images that a run was trained on."""
        return open_run_data(run.directory, self.display.count("checking"), self.process)

    def measured(self, name: str, depends_on: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
        """What `measure` gives, as JSON values, kept beside the runs by what it depends on: a second time it is read."""
        kept, store = f"{MEASUREMENTS}/{name}-{digest(depends_on)}.json", RunDirectory(self.runs)
        if not store.has(kept):
            self.display.announce(f"measure {name}")
            store.write_json(kept, {"of": dict(depends_on), "measured": measure()})
        values = store.read_json(kept, "experiment")
        if not isinstance(values, dict) or "measured" not in values:
            raise damaged(self.runs / kept, ValueError("it holds no measurement"))
        return values["measured"]


def model_name(data: str, architecture: str) -> str:
    """What a network is called in a store, whatever its data is called."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', data).strip('-._') or 'data'}-{architecture}"


def measure_test(trained: Trained, data: RunData, process: DistributedProcess) -> dict[str, float]:
    """Loss and top-1 on the test split."""
    logits = predict_split(trained.answering, data, data.split.test, trained.normalize, process)
    labels = data.labels(data.split.test)
    return {
        "test_loss": functional.cross_entropy(logits, labels).item(),
        "test_top1": top1(logits, labels),
    }


def top1(logits: Tensor, labels: Tensor) -> float:
    """The share of rows whose highest value is at their label."""
    return (logits.argmax(1) == labels).double().mean().item()


def digest(values: Mapping[str, Any]) -> str:
    """Eight hex digits that stand for these JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
