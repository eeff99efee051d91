"""The training loop, from top to bottom on one page.

Claim: a run that was killed at any step goes on to the same weights, bit for bit on a CPU in the same environment. What
random numbers it needs come from (seed, epoch, image) alone, so where it stands is one integer: the step.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import torch
from torch.nn import functional

from training.errors import DivergedError, InterruptedRunError, RunError
from training.learning.determinism import DeterminismInfo
from training.learning.distributed import SINGLE_PROCESS, DistributedProcess
from training.learning.learner import Learner
from training.learning.normalization import Normalization
from training.learning.optimization import remaining_work, set_learning_rate
from training.learning.throughput import ESTIMATE_STEPS, RunEstimate, ThroughputMeter, peak_bytes
from training.run.checkpoint import CHECKPOINT_FILE as CHECKPOINT
from training.run.checkpoint import load_checkpoint, save_checkpoint
from training.run.data import RunData
from training.run.directory import RunDirectory, damaged
from training.run.inference import predict_split
from training.run.weights import BEST_WEIGHTS, LAST_WEIGHTS, Trained, serialise
from training.steps.training_setup import prepare_training

METRICS_FILE: Final = "metrics.jsonl"
METRIC_NAMES: Final = frozenset(
    {
        "epoch",
        "step",
        "train_loss",
        "train_top1",
        "validation_loss",
        "validation_top1",
        "learning_rate",
    }
)
CHECKPOINT_SECONDS: Final = 30


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step. `metrics` is set when an epoch has ended, `notice` when there is something to say."""

    epoch: int
    epochs: int
    step: int
    """Of this epoch's `steps`."""
    steps: int
    run_step: int
    """Of the run's `total_steps`."""
    total_steps: int
    loss: float
    accuracy: float | None
    images_per_second: float
    seconds_left: float
    estimate: RunEstimate | None = None
    metrics: dict[str, Any] | None = None
    notice: str | None = None


@dataclass
class Position:
    """How far a run has come: everything beside the weights that a checkpoint keeps. `step` counts from the run's beginning."""

    step: int = 0
    seen: int = 0
    tally: list[float] = field(default_factory=lambda: [0.0, 0.0])
    history: list[dict[str, Any]] = field(default_factory=list)


def train(
    run: RunDirectory,
    data: RunData,
    report: Callable[[Progress], None] = lambda _: None,
    process: DistributedProcess = SINGLE_PROCESS,
    interrupted: Callable[[], bool] = lambda: False,
    checkpoint_every: int | None = None,
    measure: Callable[[Trained], dict[str, float]] = lambda _: {},
) -> None:
    """Train as the run's config says, from its checkpoint where there is one; leave the best weights and the last.

    A checkpoint is written at the end of each epoch and every `checkpoint_every` steps (every 30 seconds where it is None).
    `interrupted` is asked after each step; where it says yes, a checkpoint is written and InterruptedRunError raised. What
    `measure` finds in the network at the end of an epoch stands among that epoch's figures. Raises
    DivergedError when the loss is not finite, RunError where the checkpoint is of another configuration.
    """
    config = run.config()
    recipe = config.recipe
    learner, loader, determinism = prepare_training(run, data, process)
    total, steps = loader.total_steps, loader.steps_per_epoch
    position, notice = _restore(run, learner, determinism)
    throughput, estimate, checkpoint_steps = ThroughputMeter(), None, checkpoint_every or total
    tally = (
        torch.tensor(position.tally, dtype=torch.float64, device=process.device)
        / process.world_size
    )

    def progress(**news: Any) -> Progress:
        loss, correct = (value / position.seen for value in position.tally)
        ended = len(position.history)
        left = throughput.seconds_left(
            remaining_work(recipe.schedule, position.step, total, loader.image_size),
            loader.epochs - ended,
        )
        place = (
            ended + 1,
            loader.epochs,
            position.step - ended * steps,
            steps,
            position.step,
            total,
        )
        accuracy = None if recipe.mixing.enabled else correct  # of mixed images it means nothing
        return Progress(*place, loss, accuracy, throughput.images_per_second, left, **news)

    def checkpoint() -> None:
        position.tally = process.all_reduce(tally.clone()).tolist()
        state = {
            "learner": learner.state_dict(),
            "position": asdict(position),
            "environment": asdict(determinism),
        }
        if process.is_main:
            save_checkpoint(run, {**state, "config": config.trained_as})

    def trained(epoch: int) -> Trained:
        network = learner.evaluation_network
        return Trained(
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
            if (
                process.device.type == "cpu" or position.step % ESTIMATE_STEPS == 0 or not within
            ):  # a GPU is not held up each step
                position.tally = (tally * process.world_size).tolist()
                if not math.isfinite(position.tally[0]):
                    raise DivergedError(_diverged(epoch, position.step - epoch * steps, rate))
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
        now = trained(epoch + 1)
        metrics = {
            "epoch": epoch + 1,
            "step": position.step,
            "train_loss": position.tally[0] / position.seen,
            "train_top1": progress().accuracy,
            **_validate(now.answering, data, loader.normalize, process, throughput),
            **measure(now),
            "learning_rate": rate,
            "images_per_second": round(throughput.images_per_second, 1),
            "input_share": round(throughput.input_share, 4),
        }
        if process.is_main and _better(metrics, position.history, recipe.select):
            run.write(BEST_WEIGHTS, serialise(now))
        news = progress(metrics=metrics)
        position.history.append(metrics)
        position.seen, position.tally = 0, [0.0, 0.0]
        tally.zero_()
        checkpoint()
        if process.is_main:
            _write_metrics(run, position.history)
        report(news)
        if interrupted() and position.step < total:
            raise InterruptedRunError(
                f"stopped after epoch {epoch + 1}; the checkpoint is at step {position.step}"
            )

    if process.is_main:
        _write_metrics(
            run, position.history
        )  # once more: a kill right after the last checkpoint has left a line out
        run.write(LAST_WEIGHTS, serialise(trained(loader.epochs)))
    process.barrier()


def _validate(
    network: torch.nn.Module,
    data: RunData,
    normalize: Normalization,
    process: DistributedProcess,
    throughput: ThroughputMeter,
) -> dict[str, float]:
    """Loss and top-1 on the validation split."""
    began = time.perf_counter()
    logits = predict_split(network, data, data.split.validation, normalize, process)
    labels = torch.from_numpy(data.images.labels[data.split.validation])
    throughput.validation_seconds = time.perf_counter() - began
    right = (logits.argmax(1) == labels).double().mean().item()
    return {
        "validation_loss": functional.cross_entropy(logits, labels).item(),
        "validation_top1": right,
    }


def _better(
    metrics: dict[str, Any],
    history: list[dict[str, Any]],
    select: Literal["accuracy", "loss", "last"],
) -> bool:
    """Whether this epoch is to be kept; of equals the first."""
    if select == "last":
        return True

    def rank(line: dict[str, Any]) -> tuple[float, float]:
        accuracy, loss = line["validation_top1"], line["validation_loss"]
        return (accuracy, -loss) if select == "accuracy" else (-loss, accuracy)

    return all(rank(metrics) > rank(line) for line in history)


def _restore(
    run: RunDirectory, learner: Learner, determinism: DeterminismInfo
) -> tuple[Position, str | None]:
    """Put the newest checkpoint into the learner; where the run stands, and what to say about it.

    Raises RunError where it is damaged or was written for another configuration.
    """
    state = load_checkpoint(run)
    if state is None:
        return Position(), None
    try:
        now = run.config().trained_as
        if changed := sorted(
            name
            for name in now.keys() | state["config"].keys()
            if now.get(name) != state["config"].get(name)
        ):
            raise RunError(
                f"{run.path} was begun with other values of {', '.join(changed)} than its config.json holds now; "
                "put them back, or start a new run"
            )
        learner.load_state_dict(state["learner"])
        differences = determinism.differences(state["environment"])
        position = Position(**state["position"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise damaged(run.path / CHECKPOINT, error) from None
    notice = f"goes on at step {position.step}"
    if differences:
        notice += (
            f"; not bit for bit as an unbroken run, since these differ: {', '.join(differences)}"
        )
    return position, notice


def _diverged(epoch: int, step: int, rate: float) -> str:
    return f"the loss is not finite in epoch {epoch + 1}, step {step}, at a learning rate of {rate:.3g}: lower optimizer.learning_rate"


def _write_metrics(run: RunDirectory, history: list[dict[str, Any]]) -> None:
    run.write(METRICS_FILE, b"".join(json.dumps(line).encode() + b"\n" for line in history))


def read_metrics(run: RunDirectory) -> list[dict[str, Any]]:
    """A line an epoch, as far as the run has come. Raises RunError where no epoch has ended, or the file is damaged."""
    path = run.file(METRICS_FILE, "resume")
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise damaged(path, error) from None
    if not lines or not all(
        isinstance(line, dict) and line.keys() >= METRIC_NAMES for line in lines
    ):
        raise damaged(path, ValueError("figures are missing"))
    return lines
