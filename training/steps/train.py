"""The training loop.

A run that is killed at any step and resumed ends with the weights of an uninterrupted run. On a CPU
with the same `DeterminismInfo`, the weights are bit-identical. All random numbers are functions of
(seed, epoch, image), so one integer, the step, is the position in the run.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

import torch

from training.errors import DivergedError, InterruptedRunError
from training.learning.batches import Batch
from training.learning.distributed import SINGLE_PROCESS, DistributedProcess
from training.learning.optimization import remaining_work, set_learning_rate
from training.learning.throughput import ESTIMATE_STEPS, RunEstimate, ThroughputMeter, peak_bytes
from training.run.checkpoint import save_checkpoint
from training.run.data import RunData
from training.run.directory import Run
from training.run.known_images import (
    TRAINED_IMAGES_FILE,
    encode_known_images,
    read_known_images,
)
from training.run.metrics import write_metrics
from training.run.weights import BEST_WEIGHTS, LAST_WEIGHTS, TrainedNetwork, serialise
from training.steps.position import restore
from training.steps.progress import Progress
from training.steps.thread_choice import choose_threads
from training.steps.training_setup import prepare_training
from training.steps.validation import is_better, require_finite, validate
from training.steps.worker_choice import choose_workers

CHECKPOINT_SECONDS: Final = 30


def train(
    run: Run,
    data: RunData,
    report: Callable[[Progress], None] = lambda _: None,
    process: DistributedProcess = SINGLE_PROCESS,
    interrupted: Callable[[], bool] = lambda: False,
    checkpoint_every: int | None = None,
    measure: Callable[[TrainedNetwork], dict[str, float]] = lambda _: {},
) -> None:
    """Train to the end, from the checkpoint if there is one. Writes the best and last weights.

    Args:
        run: The run.
        data: Its data.
        report: Called after each step.
        process: This process of a distributed training.
        interrupted: Asked after each step. If it returns True, training stops after a checkpoint.
        checkpoint_every: Steps between checkpoints within an epoch; None for about 30 seconds.
            One is also written at the end of each epoch.
        measure: Returns more metrics of the network at the end of each epoch.

    Raises:
        DivergedError: The training loss or the validation loss is not finite.
        InterruptedRunError: `interrupted` returned True.
        RunError: The checkpoint is damaged or belongs to another configuration.
    """
    training = _Training(run, data, report, process, interrupted, checkpoint_every)
    while not training.is_finished:
        training.train_epoch()
        training.finish_epoch(measure)
    training.write_results()


class _Training:
    """A training in progress, in the state of the checkpoint if there is one."""

    def __init__(
        self,
        run: Run,
        data: RunData,
        report: Callable[[Progress], None],
        process: DistributedProcess,
        interrupted: Callable[[], bool],
        checkpoint_every: int | None,
    ) -> None:
        chosen_threads = choose_threads(run, len(data.images.class_names), process)
        workers, chosen_workers = choose_workers(run, data, process)
        self._run, self._data, self._process = run, data, process
        self._report, self._interrupted = report, interrupted
        self._recipe = run.config.recipe
        self._learner, self._loader, self._determinism = prepare_training(
            run, data, process, workers
        )
        if process.is_main:
            trained_on = encode_known_images(
                data.scan, data.training_indices, read_known_images(run)
            )
            run.write(TRAINED_IMAGES_FILE, trained_on)
        self._position, resumed = restore(run, self._learner, self._determinism)
        self._notice = "\n".join(filter(None, (chosen_threads, chosen_workers, resumed)))
        self._throughput = ThroughputMeter()
        self._checkpoint_every = checkpoint_every
        self._checkpoint_steps = checkpoint_every or self._loader.total_steps
        self._learning_rate = 0.0
        # The sums of this process, which are on the device until they are read.
        self._tally = torch.tensor(self._position.tally, dtype=torch.float64, device=process.device)
        self._tally /= process.world_size

    @property
    def is_finished(self) -> bool:
        return self._position.step >= self._loader.total_steps

    @property
    def _epoch(self) -> int:
        """The current epoch, from 0."""
        return len(self._position.history)

    @property
    def _first_step(self) -> int:
        """The step at which the current epoch begins."""
        return self._epoch * self._loader.steps_per_epoch

    @property
    def _mean_loss(self) -> float:
        """Mean training loss of the current epoch so far."""
        return self._position.tally[0] / self._position.seen

    def train_epoch(self) -> None:
        """Train to the end of the epoch. Raises DivergedError or InterruptedRunError."""
        position, first = self._position, self._first_step
        end = min(first + self._loader.steps_per_epoch, self._loader.total_steps)
        self._learner.train(frozen=self._epoch < self._recipe.freeze_epochs)
        batches = self._loader.epoch_batches(self._epoch, position.step - first)
        for batch in self._throughput.timed(batches):
            self._step(batch)
            within = position.step < end
            # Reading the loss waits for the GPU, so on a GPU it is not read after each step.
            is_read = self._process.device.type == "cpu" or position.step % ESTIMATE_STEPS == 0
            if is_read or not within:
                self._report_step()
            if within:
                self._checkpoint_within_epoch()

    def finish_epoch(self, measure: Callable[[TrainedNetwork], dict[str, float]]) -> None:
        """Validate, keep the weights if they are the best, write a checkpoint and the metrics."""
        position, epoch = self._position, self._epoch + 1
        self._learner.synchronize()
        position.tally = self._process.all_reduce(self._tally.clone()).tolist()
        current = self._trained(epoch)
        metrics = self._epoch_metrics(current, measure)
        if self._process.is_main and is_better(metrics, position.history, self._recipe.select):
            self._run.write(BEST_WEIGHTS, serialise(current))
        epoch_end = self._progress(metrics=metrics)
        position.history.append(metrics)
        position.seen, position.tally = 0, [0.0, 0.0]
        self._tally.zero_()
        self._checkpoint()
        if self._process.is_main:
            write_metrics(self._run, position.history)
        self._report(epoch_end)
        if self._interrupted() and not self.is_finished:
            raise InterruptedRunError(
                f"stopped after epoch {epoch}; the checkpoint is at step {position.step}"
            )

    def write_results(self) -> None:
        """Write the last weights, and the metrics again."""
        if self._process.is_main:
            # A run that was killed right after the last checkpoint lacks the last line.
            write_metrics(self._run, self._position.history)
            self._run.write(LAST_WEIGHTS, serialise(self._trained(self._loader.epochs)))
        self._process.barrier()

    def _step(self, batch: Batch) -> None:
        position, total = self._position, self._loader.total_steps
        self._learning_rate = set_learning_rate(
            self._learner.optimizer, self._recipe.schedule, position.step, total
        )
        self._tally += self._learner.step(batch)
        position.step += 1
        position.seen += batch.size

    def _report_step(self) -> None:
        position, estimate = self._position, None
        position.tally = (self._tally * self._process.world_size).tolist()
        if not math.isfinite(position.tally[0]):
            raise DivergedError(
                f"the loss is not finite in epoch {self._epoch + 1}, step "
                f"{position.step - self._first_step}, at a learning rate of "
                f"{self._learning_rate:.3g}: lower optimizer.learning_rate"
            )
        if self._throughput.steps + 1 == ESTIMATE_STEPS:  # a step counts when the next one begins
            seconds = self._progress().seconds_left
            estimate = RunEstimate(seconds, peak_bytes(self._process.device))
            affordable = max(1, round(CHECKPOINT_SECONDS / self._throughput.step_seconds))
            self._checkpoint_steps = self._checkpoint_every or int(
                self._process.broadcast_text(str(affordable))
            )
        self._report(self._progress(estimate=estimate, notice=self._notice or None))
        self._notice = ""

    def _checkpoint_within_epoch(self) -> None:
        step, stop = self._position.step, self._interrupted()
        if stop or step % self._checkpoint_steps == 0:
            self._checkpoint()
        if stop:
            raise InterruptedRunError(
                f"stopped in epoch {self._epoch + 1}; the checkpoint is at step {step}"
            )

    def _checkpoint(self) -> None:
        self._position.tally = self._process.all_reduce(self._tally.clone()).tolist()
        state = {
            "learner": self._learner.state_dict(),  # on every process: it is a collective
            "position": asdict(self._position),
            "environment": asdict(self._determinism),
            "config": self._run.config.training_values,
        }
        if self._process.is_main:
            save_checkpoint(self._run, state)

    def _epoch_metrics(
        self, trained: TrainedNetwork, measure: Callable[[TrainedNetwork], dict[str, float]]
    ) -> dict[str, Any]:
        began = time.perf_counter()
        validation = validate(
            trained.inference_network, self._data, self._loader.normalize, self._process
        )
        self._throughput.validation_seconds = time.perf_counter() - began
        require_finite(validation, trained.epoch, self._mean_loss)
        return {
            "epoch": trained.epoch,
            "step": self._position.step,
            "train_loss": self._mean_loss,
            "train_top1": self._progress().accuracy,
            **validation,
            **measure(trained),
            "learning_rate": self._learning_rate,
            "images_per_second": round(self._throughput.images_per_second, 1),
            "input_share": round(self._throughput.input_share, 4),
        }

    def _trained(self, epoch: int) -> TrainedNetwork:
        loader = self._loader
        return TrainedNetwork(
            self._learner.evaluation_network,
            loader.normalize,
            self._run.config.architecture,
            loader.classes,
            epoch,
            self._recipe.mirrored,
        )

    def _progress(self, **events: Any) -> Progress:
        position, loader = self._position, self._loader
        work = remaining_work(
            self._recipe.schedule, position.step, loader.total_steps, loader.image_size
        )
        correct = position.tally[1] / position.seen
        return Progress(
            epoch=self._epoch + 1,
            epochs=loader.epochs,
            step=position.step - self._first_step,
            steps=loader.steps_per_epoch,
            run_step=position.step,
            total_steps=loader.total_steps,
            loss=self._mean_loss,
            accuracy=None if self._recipe.mixing.enabled else correct,  # meaningless if mixed
            images_per_second=self._throughput.images_per_second,
            seconds_left=self._throughput.seconds_left(work, loader.epochs - self._epoch),
            **events,
        )
