"""Trains each network of the experiments once, and keeps runs and measurements for reuse.

The name of a run directory depends on everything that its weights depend on, so experiments share
runs. The test split is measured after every epoch, but only for the figures: experiments always use
the weights of the last epoch.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.geometry import without_crop
from training.data.decode_workers import decode_threads
from training.data.scan import scan
from training.data.sources import ImageSet
from training.errors import InterruptedRunError, RecipeError, RunError
from training.experiments.trained_run import TrainedRun
from training.experiments.training_curve import CurveRecorder
from training.learning.architectures import parse_architecture
from training.learning.distributed import DistributedProcess
from training.learning.networks import build_network
from training.learning.recipe_file import load_recipe
from training.run.config import RunConfig
from training.run.data import CHECK_FILE, RunData, open_run_data
from training.run.directory import CONFIG_FILE, Run, RunDirectory, damaged_file_error
from training.run.inference import predict_split
from training.run.request import RunRequest, build_config, load_request_images
from training.run.weights import LAST_WEIGHTS, TrainedNetwork
from training.steps.pipeline import ProgressDisplay
from training.steps.progress import Progress
from training.steps.train import train

TWIN_FAMILIES: Final = ("plain", "resnet")
"""Networks of these families with the same depth differ only in their shortcuts."""
MEASUREMENTS: Final = ".measurements"

Item = TypeVar("Item")


@dataclass(frozen=True)
class Laboratory:
    """Data, recipe and run folder that all networks of an experiment share."""

    request: RunRequest
    runs: Path
    display: ProgressDisplay
    process: DistributedProcess
    interrupted: Callable[[], bool]
    _data_digests: dict[str, str] = field(default_factory=dict)
    """Digests of the current data, by preprocessing."""

    def config(self, architecture: str, seed: int) -> RunConfig:
        """The configuration of a run. Raises RecipeError or DataError."""
        model = model_name(self.request.data_name, architecture)
        request = replace(self.request, architecture=architecture, seed=seed, model=model)
        recipe = load_recipe(request.recipe_name, request.changes)
        return build_config(request, self.images, recipe)

    def check_networks(self, architectures: Sequence[str]) -> None:
        """Check before any training that these networks can be compared.

        Raises:
            RecipeError: A network is unknown, the networks are of two kinds, or the recipe mixes
                images.
        """
        styles = {parse_architecture(architecture).style for architecture in architectures}
        if len(styles) > 1:
            raise RecipeError(
                f"{', '.join(architectures)} must all be networks for small images (20, 32, … "
                "layers) or all be networks for large images (18, 34, … layers)."
            )
        if self.config(architectures[0], 0).recipe.mixing.enabled:
            raise RecipeError(
                "Experiments need the training error, which mixed images do not have. "
                "Add --set mixing.mixup=0 --set mixing.cutmix=0."
            )

    @cached_property
    def images(self) -> ImageSet:
        """The images of the request, not yet decoded. Raises DataError."""
        return load_request_images(self.request)

    def directory(self, architecture: str, seed: int) -> Run:
        """Directory of this network's run, which need not exist yet."""
        config = self.config(architecture, seed)
        name = f"{architecture}-seed{seed}-{digest(config.training_values)}"
        return Run(self.runs / name, config)

    def train(
        self, architecture: str, seed: int, place: str = "", following: Sequence[str] = ()
    ) -> TrainedRun:
        """Train or resume this network, or read its run if it is finished.

        Args:
            architecture: The network.
            seed: The seed of the run.
            place: The place of the network in the experiment, as in "network 3 of 8".
            following: The networks that are trained after it, for the estimate.

        Raises:
            TrainingError: The training failed, or the finished run used other data.
        """
        run = self.directory(architecture, seed)
        run.path.mkdir(parents=True, exist_ok=True)
        with run.locked():
            if run.has(LAST_WEIGHTS):
                self._check_data(run)
            else:
                self._train(run, place, following)
        return TrainedRun.read(run)

    def train_all(
        self, architectures: Sequence[str], seeds: Sequence[int]
    ) -> dict[tuple[str, int], TrainedRun]:
        """Train every network with every seed. All networks of the first seed come first."""
        self.check_networks(architectures)
        networks = [(architecture, seed) for seed in seeds for architecture in architectures]
        runs = {}
        for number, (architecture, seed) in enumerate(networks, start=1):
            following = [
                name for name, other in networks[number:] if not self.is_trained(name, other)
            ]
            place = f"network {number} of {len(networks)}"
            runs[architecture, seed] = self.train(architecture, seed, place, following)
        return runs

    def is_trained(self, architecture: str, seed: int) -> bool:
        return self.directory(architecture, seed).has(LAST_WEIGHTS)

    def _train(self, run: Run, place: str, following: Sequence[str]) -> None:
        config = run.config
        if not run.has(CONFIG_FILE):
            Run.create_at(run.path, config)
        what = f"train {config.architecture}, seed {config.seed}"
        self.display.announce(f"{place}: {what}" if place else what)
        data = open_run_data(run, self.display.count("checking"), self.process)
        recorder = CurveRecorder(run, config.recipe.batch_size, len(data.training_indices))

        def report(progress: Progress) -> None:
            recorder(progress)
            self.display(progress)
            if progress.estimate and following and progress.run_step < progress.total_steps:
                left, done = progress.estimate.seconds, progress.run_step / progress.total_steps
                seconds = seconds_of_all(left, done, config.architecture, following)
                end = time.strftime("%a %H:%M", time.localtime(time.time() + seconds))
                duration = timedelta(seconds=round(seconds))
                self.display.say(f"estimate for all networks: {duration} left, done at {end}")

        def measure(trained: TrainedNetwork) -> dict[str, float]:
            return measure_test_split(trained, data, self.process)

        train(run, data, report, self.process, self.interrupted, measure=measure)

    def _check_data(self, run: Run) -> None:
        uncropped = without_crop(run.config.preprocessing)
        key = uncropped.model_dump_json()
        if key not in self._data_digests:
            progress = self.display.count("checking")
            threads = decode_threads(self.process.workers)
            self._data_digests[key] = scan(self.images, uncropped, threads, progress).digest
        if run.read_json(CHECK_FILE, "experiment").get("data_digest") != self._data_digests[key]:
            raise RunError(
                f"{run.path} was trained on other data than {self.images.name} contains now. "
                "Choose another folder with --runs."
            )

    def untrained(self, architecture: str, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        network = build_network(architecture, len(self.images.class_names)).to(self.process.device)
        return network.to(memory_format=torch.channels_last)

    def data(self, run: TrainedRun) -> RunData:
        return open_run_data(run.directory, self.display.count("checking"), self.process)

    def iterate(self, description: str, items: Sequence[Item]) -> Iterator[Item]:
        """Yield the items under a progress bar.

        Raises:
            InterruptedRunError: The user asked to stop.
        """
        advance = self.display.count(description)
        for done, item in enumerate(items):
            if self.interrupted():
                raise InterruptedRunError(
                    f"stopped at {done} of {len(items)} ({description}); "
                    "finished measurements are kept"
                )
            advance(done, len(items))
            yield item
        advance(len(items), len(items))

    def measure_once(
        self, name: str, depends_on: Mapping[str, Any], measure: Callable[[], Any]
    ) -> Any:
        """Return the result of `measure`, or read it from its file if it was measured before.

        Args:
            name: First part of the file name in `RUNS/.measurements`.
            depends_on: JSON values that identify the measurement; their digest ends the file name.
            measure: Returns JSON values.
        """
        file, directory = (
            f"{MEASUREMENTS}/{name}-{digest(depends_on)}.json",
            RunDirectory(self.runs),
        )
        if not directory.has(file):
            self.display.announce(f"measure {name}")
            directory.write_json(file, {"of": dict(depends_on), "measured": measure()})
        values = directory.read_json(file, "experiment")
        if not isinstance(values, dict) or "measured" not in values:
            raise damaged_file_error(self.runs / file, ValueError("it holds no measurement"))
        return values["measured"]


def seconds_of_all(left: float, done: float, architecture: str, following: Sequence[str]) -> float:
    """Estimate the seconds until this training and all following ones are finished.

    The recipe is the same for all of them, so a training takes time in proportion to the depth of
    its network.

    Args:
        left: Seconds until this training is finished.
        done: Share of its steps that are done, below 1.
        architecture: The network that is being trained.
        following: The networks that are trained after it.
    """
    own, *others = (parse_architecture(name).depth for name in (architecture, *following))
    return left + left / (1 - done) * sum(others) / own


def model_name(data: str, architecture: str) -> str:
    """Model name of a network in a store. Characters outside A-Z a-z 0-9 . _ - become `-`."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', data).strip('-._') or 'data'}-{architecture}"


def measure_test_split(
    trained: TrainedNetwork, data: RunData, process: DistributedProcess
) -> dict[str, float]:
    logits = predict_split(
        trained.inference_network, data, data.split.test, trained.normalize, process
    )
    labels = data.labels(data.split.test)
    return {"test_loss": mean_loss(logits, labels), "test_top1": top1_accuracy(logits, labels)}


def mean_loss(logits: Tensor, labels: Tensor) -> float:
    """Mean cross-entropy in nats."""
    return functional.cross_entropy(logits, labels).item()


def top1_accuracy(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(1) == labels).double().mean().item()


def digest(values: Mapping[str, Any]) -> str:
    """First eight hex digits of the SHA-256 of these JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
