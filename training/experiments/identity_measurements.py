"""Measurements of the experiment `identity`."""

import copy
import itertools
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from training.experiments.constructed_network import CIFAR_STAGES, deepen, stage_outputs
from training.experiments.identity_stacks import (
    STACK_BATCH,
    STACK_BLOCKS,
    STACK_MOMENTUM,
    STACK_RATES,
    CopyingErrors,
    best_rate,
    build_stack,
    train_to_copy,
)
from training.experiments.laboratory import Laboratory, mean_loss, top1_accuracy
from training.experiments.sample_images import sample_training_images
from training.experiments.trained_run import TrainedRun
from training.experiments.training_steps import open_batches, predict_logits, take_steps
from training.learning.learner import Learner

COMPARED_IMAGES: Final = 2048
"""Training images on which a constructed network is compared with the shallower one."""
COPIED_IMAGES: Final = 1024
COPIED_STAGE: Final = "layer2"
STACK_LENGTHS: Final = (1, 3, 9)
STACK_SEEDS: Final = (0, 1, 2)
RATE_FACTOR: Final = 0.1
"""Learning rate of further training as a fraction of the recipe's.

The recipe's full rate would undo the construction.
"""


@dataclass(frozen=True)
class ConstructedPair:
    """A trained network and the deeper one that was constructed from it."""

    images: int
    """Number of images on which both were compared."""
    difference: float
    """Largest absolute difference of two logits."""
    largest: float
    """Largest absolute logit of the trained network."""
    loss: dict[str, float]
    """Keys are `shallow` and `deep`, also in `error` and `trained_on`."""
    error: dict[str, float]
    trained_on: dict[str, list[float]]
    """Training loss of each step of further training."""


def construct(laboratory: Laboratory, run: TrainedRun, deeper: int, steps: int) -> ConstructedPair:
    """Construct a network of `deeper` layers from a run, compare both and train both further."""
    key = run.measurement_key() | {"deeper": deeper, "steps": steps}
    key |= {"images": COMPARED_IMAGES, "rate": RATE_FACTOR}
    values = laboratory.measure_once(
        f"construction-{deeper_name(run, deeper)}",
        key,
        lambda: _construct(laboratory, run, deeper, steps),
    )
    return ConstructedPair(**values)


def deeper_name(run: TrainedRun, deeper: int) -> str:
    return run.architecture.rstrip("0123456789") + str(deeper)


def _construct(laboratory: Laboratory, run: TrainedRun, deeper: int, steps: int) -> dict[str, Any]:
    images, labels = sample_training_images(laboratory, run, COMPARED_IMAGES)
    # A copy, because further training changes it.
    shallow = copy.deepcopy(run.trained.network).to(images.device)
    # The convolutions of residual identities are random and affect further training.
    torch.manual_seed(run.seed)
    deep = deepen(shallow, deeper_name(run, deeper), run.trained.classes, images)
    networks = {"shallow": shallow, "deep": deep}
    logits = {name: predict_logits(network, images) for name, network in networks.items()}
    return {
        "images": len(images),
        "difference": (logits["deep"] - logits["shallow"]).abs().max().item(),
        "largest": logits["shallow"].abs().max().item(),
        "loss": {name: mean_loss(values, labels) for name, values in logits.items()},
        "error": {name: 1 - top1_accuracy(values, labels) for name, values in logits.items()},
        "trained_on": _train_further(laboratory, run, networks, steps),
    }


def _train_further(
    laboratory: Laboratory, run: TrainedRun, networks: dict[str, nn.Module], steps: int
) -> dict[str, list[float]]:
    loader, determinism = open_batches(laboratory, run)
    losses = {}
    for name, network in networks.items():
        learner = Learner(network, run.config.recipe, laboratory.process, determinism)
        description = f"train further: {run.architecture} ({name})"
        taken = take_steps(laboratory, learner, loader, steps, description, lambda _: RATE_FACTOR)
        losses[name] = list(taken)
    return losses


def measure_copying(
    laboratory: Laboratory, run: TrainedRun, steps: int
) -> tuple[list[CopyingErrors], int]:
    """Train stacks to copy the feature maps of a run.

    Returns:
        Errors of each kind and length of stack, and the number of images.
    """
    key = run.measurement_key() | {"steps": steps, "images": COPIED_IMAGES, "stage": COPIED_STAGE}
    key |= {"stacks": STACK_LENGTHS, "starts": STACK_SEEDS, "rates": STACK_RATES}
    key |= {"batch": STACK_BATCH, "momentum": STACK_MOMENTUM}
    values = laboratory.measure_once(
        "copying", key, lambda: _measure_copying(laboratory, run, steps)
    )
    errors = [
        best_rate(kind, blocks, values["errors"][kind][str(blocks)])
        for kind in STACK_BLOCKS
        for blocks in STACK_LENGTHS
    ]
    return errors, values["images"]


def _measure_copying(laboratory: Laboratory, run: TrainedRun, steps: int) -> dict[str, Any]:
    images, _ = sample_training_images(laboratory, run, COPIED_IMAGES)
    outputs = stage_outputs(run.trained.network.to(images.device), images)
    maps = dict(zip(CIFAR_STAGES, outputs, strict=True))[COPIED_STAGE]
    errors: dict[str, dict[str, list[list[list[float]]]]] = {kind: {} for kind in STACK_BLOCKS}
    trainings = list(itertools.product(STACK_BLOCKS, STACK_LENGTHS, STACK_RATES, STACK_SEEDS))
    for kind, blocks, rate, seed in laboratory.iterate("copying", trainings):
        stack = build_stack(kind, blocks, maps.shape[1], seed)
        by_rate = errors[kind].setdefault(str(blocks), [[] for _ in STACK_RATES])
        stack_errors = train_to_copy(laboratory, stack, maps, rate, steps, seed)
        by_rate[STACK_RATES.index(rate)].append(stack_errors)
    return {"images": len(images), "errors": errors}
