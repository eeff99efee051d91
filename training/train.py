"""The training loop, from top to bottom on one page.

Claim: ResNet-20 learns the digits to 99 % and better in some two minutes on two CPU cores (LOG.md has the figures). What
random numbers it needs come from (seed, epoch) alone, so a run that was cut continues to the same weights, given the same
thread count, CPU instructions and torch build.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from training.augmentation import affine, draws, shuffled
from training.checkpoint import NAME as CHECKPOINT
from training.checkpoint import load_checkpoint, save_checkpoint
from training.data import ImageSet
from training.errors import DivergedError
from training.networks import CifarResNet, build_network
from training.run_directory import RunDirectory, damaged

WEIGHTS = "weights.safetensors"
METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Normalization:
    """Pixels 0 to 255 become (pixel - mean) / std: one scalar pair, so that the graph needs one multiply and one add."""

    mean: float
    std: float

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 `[n, h, w, 3]` to float32 `[n, 3, h, w]`, channels_last in memory."""
        floats = pixels.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last).float()
        return (floats - self.mean) / self.std


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step; `metrics` is set when an epoch has ended."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    images_per_second: float
    metrics: dict[str, Any] | None = None


def train(run: RunDirectory, data: ImageSet, report: Callable[[Progress], None] = lambda _: None) -> None:
    """Train as the run's config says, from its checkpoint where there is one, and leave the weights that validation chose.

    Raises DivergedError when the loss is not finite.
    """
    config, split = run.config(), run.split()
    recipe = config.recipe
    pixels, labels = torch.from_numpy(data.pixels(split.train)), torch.from_numpy(data.labels[split.train])
    held_out, held_out_labels = torch.from_numpy(data.pixels(split.validation)), torch.from_numpy(data.labels[split.validation])
    normalize = Normalization(float(pixels.float().mean()), float(pixels.float().std()))
    images, background = normalize(pixels), (0 - normalize.mean) / normalize.std
    steps = math.ceil(len(images) / recipe.batch_size)

    torch.manual_seed(config.seed)
    model = build_network(config.architecture, len(data.class_names)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.max_learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.max_learning_rate, total_steps=recipe.epochs * steps)
    history, best = _restore(run, model, optimizer, schedule)

    for epoch in range(len(history) + 1, recipe.epochs + 1):
        model.train()
        draw, order = draws(len(images), config.seed, epoch), shuffled(len(images), config.seed, epoch)
        began, seen, loss_sum, correct = time.perf_counter(), 0, 0.0, 0
        for step, chosen in enumerate(torch.split(order, recipe.batch_size), start=1):
            batch = affine(images[chosen], draw[chosen], recipe.augmentation, background)
            logits = model(batch.contiguous(memory_format=torch.channels_last))
            loss = functional.cross_entropy(logits, labels[chosen], label_smoothing=recipe.label_smoothing)
            if not torch.isfinite(loss):
                raise DivergedError(f"the loss is {loss.item()} in epoch {epoch}, step {step}: lower max_learning_rate")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
            optimizer.step()
            schedule.step()
            seen += len(chosen)
            loss_sum += loss.item() * len(chosen)
            correct += int((logits.argmax(1) == labels[chosen]).sum())
            speed = seen / (time.perf_counter() - began)
            report(Progress(epoch, recipe.epochs, step, steps, loss_sum / seen, correct / seen, speed))

        validation = predict(model, held_out, normalize)
        metrics = {
            "epoch": epoch,
            "train_loss": loss_sum / seen,
            "train_top1": correct / seen,
            "validation_loss": functional.cross_entropy(validation, held_out_labels).item(),
            "validation_top1": (validation.argmax(1) == held_out_labels).float().mean().item(),
            "learning_rate": schedule.get_last_lr()[0],
            "images_per_second": round(speed, 1),
        }
        history.append(metrics)
        if metrics["validation_loss"] < best["loss"]:  # 180 images tie in accuracy, hardly ever in loss
            weights = {name: value.clone().contiguous() for name, value in model.state_dict().items()}
            best = {"epoch": epoch, "loss": metrics["validation_loss"], "weights": weights}
        save_checkpoint(
            run,
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "history": history,
                "best": best,
            },
        )
        _write_metrics(run, history)
        report(Progress(epoch, recipe.epochs, steps, steps, loss_sum / seen, correct / seen, speed, metrics))

    _write_metrics(run, history)  # once more: a kill right after the last checkpoint has left a line out
    described = {"best_epoch": str(best["epoch"]), "mean": repr(normalize.mean), "std": repr(normalize.std)}
    run.write(WEIGHTS, save(best["weights"], metadata={**described, "architecture": config.architecture}))


@dataclass(frozen=True)
class Trained:
    """What a training left: the network of the epoch that validation chose, in evaluation mode, and its normalisation."""

    model: CifarResNet
    normalize: Normalization
    best_epoch: int


def load_trained(run: RunDirectory, classes: int) -> Trained:
    """Read what `train` left. Raises RunError where it has not run."""
    path = run.file(WEIGHTS, "resume")
    try:
        with safe_open(path, framework="pt") as file:
            described = file.metadata()
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  safe_open is no mapping
        model = build_network(described["architecture"], classes)
        model.load_state_dict(weights)
        normalize = Normalization(float(described["mean"]), float(described["std"]))
        return Trained(model.eval(), normalize, int(described["best_epoch"]))
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise damaged(path, error) from None


def _restore(
    run: RunDirectory, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Put the newest checkpoint into all three, if there is one; the metrics of the epochs so far, and the best of them."""
    state = load_checkpoint(run)
    if state is None:
        return [], {"epoch": 0, "loss": math.inf, "weights": {}}
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        return state["history"], state["best"]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise damaged(run.path / CHECKPOINT, error) from None


def _write_metrics(run: RunDirectory, history: list[dict[str, Any]]) -> None:
    run.write(METRICS, b"".join(json.dumps(line).encode() + b"\n" for line in history))


@torch.inference_mode()
def predict(model: nn.Module, pixels: Tensor, normalize: Normalization, batch_size: int = 256) -> Tensor:
    """Logits, float32 `[n, classes]`, of uint8 images `[n, h, w, 3]`, in evaluation mode."""
    model.eval()
    return torch.cat([model(normalize(part)) for part in torch.split(pixels, batch_size)])
