"""The training loop.

A run that is killed at any step and resumed ends with the weights of an uninterrupted run. On a CPU
with the same `DeterminismInfo`, the weights are bit-identical. All random numbers are functions of
(seed, epoch, image), so one integer, the step, is the position in the run.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import torch
from torch import nn
from torch.nn import functional

from training.errors import DivergedError, InterruptedRunError, RunError
from training.learning.determinism import DeterminismInfo
from training.learning.distributed import SINGLE_PROCESS, DistributedProcess
from training.learning.learner import Learner
from training.learning.normalization import Normalization
from training.learning.optimization import remaining_work, set_learning_rate
from training.learning.throughput import ESTIMATE_STEPS, RunEstimate, ThroughputMeter, peak_bytes
from training.run.checkpoint import CHECKPOINT_FILE, load_checkpoint, save_checkpoint
from training.run.data import RunData
from training.run.directory import Run, damaged_file_error
from training.run.inference import predict_split
from training.run.known_images import (
    TRAINED_IMAGES_FILE,
    encode_known_images,
    read_known_images,
)
from training.run.metrics import write_metrics
from training.run.weights import BEST_WEIGHTS, LAST_WEIGHTS, TrainedNetwork, serialise
from training.steps.progress import Progress
from training.steps.thread_choice import choose_threads
from training.steps.training_setup import prepare_training

CHECKPOINT_SECONDS: Final = 30


@dataclass
class Position:
    """The position that a checkpoint stores. The field names are part of the checkpoint format.

    Attributes:
        step: Steps since the start of the run.
        seen: Number of images of this epoch that were trained on.
        tally: Sum of the losses and number of correct answers over these images.
        history: The metrics of each finished epoch.
    """

    step: int = 0
    seen: int = 0
    tally: list[float] = field(default_factory=lambda: [0.0, 0.0])
    history: list[dict[str, Any]] = field(default_factory=list)


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
    config, recipe = run.config, run.config.recipe
    chosen_threads = choose_threads(run, len(data.images.class_names), process)
    learner, loader, determinism = prepare_training(run, data, process)
    if process.is_main:
        trained_images = encode_known_images(
            data.scan, data.training_indices, read_known_images(run)
        )
        run.write(TRAINED_IMAGES_FILE, trained_images)
    total, steps = loader.total_steps, loader.steps_per_epoch
    position, resumed = _restore(run, learner, determinism)
    notice = "\n".join(filter(None, (chosen_threads, resumed))) or None
    throughput, estimate, checkpoint_steps = ThroughputMeter(), None, checkpoint_every or total
    tally = torch.tensor(position.tally, dtype=torch.float64, device=process.device)
    tally /= process.world_size

    def progress(**events: Any) -> Progress:
        loss, correct = (value / position.seen for value in position.tally)
        ended = len(position.history)
        work = remaining_work(recipe.schedule, position.step, total, loader.image_size)
        left = throughput.seconds_left(work, loader.epochs - ended)
        place = (
            ended + 1,
            loader.epochs,
            position.step - ended * steps,
            steps,
            position.step,
            total,
        )
        accuracy = None if recipe.mixing.enabled else correct  # meaningless for mixed images
        return Progress(*place, loss, accuracy, throughput.images_per_second, left, **events)

    def checkpoint() -> None:
        position.tally = process.all_reduce(tally.clone()).tolist()
        state = {
            "learner": learner.state_dict(),  # on every process: it is a collective
            "position": asdict(position),
            "environment": asdict(determinism),
            "config": config.training_values,
        }
        if process.is_main:
            save_checkpoint(run, state)

    def trained(epoch: int) -> TrainedNetwork:
        network = learner.evaluation_network
        return TrainedNetwork(
            network, loader.normalize, config.architecture, loader.classes, epoch, recipe.mirrored
        )

    while position.step < total:
        epoch = len(position.history)
        learner.train(frozen=epoch < recipe.freeze_epochs)
        for batch in throughput.timed(loader.epoch_batches(epoch, position.step - epoch * steps)):
            rate = set_learning_rate(learner.optimizer, recipe.schedule, position.step, total)
            tally += learner.step(batch)
            position.step += 1
            position.seen += batch.size
            within = position.step < min((epoch + 1) * steps, total)
            # Reading the loss waits for the GPU, so on a GPU it is not read after each step.
            if process.device.type == "cpu" or position.step % ESTIMATE_STEPS == 0 or not within:
                position.tally = (tally * process.world_size).tolist()
                if not math.isfinite(position.tally[0]):
                    raise DivergedError(
                        _describe_divergence(epoch, position.step - epoch * steps, rate)
                    )
                if throughput.steps + 1 == ESTIMATE_STEPS:  # a step counts when the next one begins
                    estimate = RunEstimate(progress().seconds_left, peak_bytes(process.device))
                    affordable = max(1, round(CHECKPOINT_SECONDS / throughput.step_seconds))
                    checkpoint_steps = checkpoint_every or int(
                        process.broadcast_text(str(affordable))
                    )
                report(progress(estimate=estimate, notice=notice))
                estimate = notice = None
            if within and ((stop := interrupted()) or position.step % checkpoint_steps == 0):
                checkpoint()
                if stop:
                    raise InterruptedRunError(
                        f"stopped in epoch {epoch + 1}; the checkpoint is at step {position.step}"
                    )

        learner.synchronize()
        position.tally = process.all_reduce(tally.clone()).tolist()
        current = trained(epoch + 1)
        validation = _validate(
            current.inference_network, data, loader.normalize, process, throughput
        )
        _require_finite(validation, epoch, position.tally[0] / position.seen)
        metrics = {
            "epoch": epoch + 1,
            "step": position.step,
            "train_loss": position.tally[0] / position.seen,
            "train_top1": progress().accuracy,
            **validation,
            **measure(current),
            "learning_rate": rate,
            "images_per_second": round(throughput.images_per_second, 1),
            "input_share": round(throughput.input_share, 4),
        }
        if process.is_main and _is_better(metrics, position.history, recipe.select):
            run.write(BEST_WEIGHTS, serialise(current))
        epoch_end = progress(metrics=metrics)
        position.history.append(metrics)
        position.seen, position.tally = 0, [0.0, 0.0]
        tally.zero_()
        checkpoint()
        if process.is_main:
            write_metrics(run, position.history)
        report(epoch_end)
        if interrupted() and position.step < total:
            raise InterruptedRunError(
                f"stopped after epoch {epoch + 1}; the checkpoint is at step {position.step}"
            )

    if process.is_main:
        # Again, because a run killed right after the last checkpoint lacks the last line.
        write_metrics(run, position.history)
        run.write(LAST_WEIGHTS, serialise(trained(loader.epochs)))
    process.barrier()


def _validate(
    network: nn.Module,
    data: RunData,
    normalize: Normalization,
    process: DistributedProcess,
    throughput: ThroughputMeter,
) -> dict[str, float]:
    began = time.perf_counter()
    logits = predict_split(network, data, data.split.validation, normalize, process)
    labels = data.labels(data.split.validation)
    throughput.validation_seconds = time.perf_counter() - began
    return {
        "validation_loss": functional.cross_entropy(logits, labels).item(),
        "validation_top1": (logits.argmax(1) == labels).double().mean().item(),
    }


def _require_finite(validation: dict[str, float], epoch: int, training_loss: float) -> None:
    if not math.isfinite(validation["validation_loss"]):
        raise DivergedError(
            f"the validation loss is not finite after epoch {epoch + 1}, although the training "
            f"loss is {training_loss:.3g}: weights or batch-norm statistics have overflowed. Lower "
            "optimizer.learning_rate"
        )


def _is_better(
    metrics: dict[str, Any],
    history: list[dict[str, Any]],
    select: Literal["accuracy", "loss", "last"],
) -> bool:
    """Whether this epoch's weights are kept. The first of equal epochs is kept."""
    if select == "last":
        return True

    def rank(line: dict[str, Any]) -> tuple[float, float]:
        accuracy, loss = line["validation_top1"], line["validation_loss"]
        return (accuracy, -loss) if select == "accuracy" else (-loss, accuracy)

    return all(rank(metrics) > rank(line) for line in history)


def _restore(
    run: Run, learner: Learner, determinism: DeterminismInfo
) -> tuple[Position, str | None]:
    """Load the newest checkpoint; return the position and a message for the user."""
    state = load_checkpoint(run)
    if state is None:
        return Position(), None
    try:
        _require_same_values(run, state["config"])
        learner.load_state_dict(state["learner"])
        differences = determinism.differences(state["environment"])
        position = Position(**state["position"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise damaged_file_error(run.path / CHECKPOINT_FILE, error) from None
    notice = f"resumed at step {position.step}"
    if differences:
        notice += (
            "; the weights will not be bit-identical to those of an uninterrupted run, because of: "
            + ", ".join(differences)
        )
    return position, notice


def _require_same_values(run: Run, began_with: dict[str, Any]) -> None:
    values = run.config.training_values
    # The place of the data may change: `check.json` states the digest of the images.
    names = (values.keys() | began_with.keys()) - {"data"}
    if changed := sorted(name for name in names if values.get(name) != began_with.get(name)):
        raise RunError(
            f"{', '.join(changed)} in {run.path}/config.json changed since the run began. "
            "Restore the values, or start a new run"
        )


def _describe_divergence(epoch: int, step: int, rate: float) -> str:
    return (
        f"the loss is not finite in epoch {epoch + 1}, step {step}, at a learning rate of "
        f"{rate:.3g}: lower optimizer.learning_rate"
    )
