"""What experiments look at a trained network with: some of its training images, a loss, and a few steps of training."""

import itertools
from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.data.sampling import evenly_spaced
from training.experiments.laboratory import Laboratory, TrainedRun
from training.experiments.sample_images import counted
from training.learning.batches import BatchLoader
from training.learning.determinism import DeterminismInfo
from training.learning.learner import Learner
from training.steps.training_setup import prepare_training

CHUNK: Final = 256


def sample_images(laboratory: Laboratory, run: TrainedRun, count: int) -> tuple[Tensor, Tensor]:
    """So many of a run's training images, spread over all of them: normalised `[n, 3, h, w]`, and their labels, on the device."""
    data = laboratory.data(run)
    chosen, device = evenly_spaced(data.learned, count), laboratory.process.device
    images = torch.cat(
        [run.trained.normalize(torch.from_numpy(chunk)) for chunk in data.chunks(chosen)]
    )
    return images.to(device), data.labels(chosen).to(device)


@torch.inference_mode()
def answers(network: nn.Module, images: Tensor) -> Tensor:
    """Logits `[n, classes]` of normalised images, in evaluation mode."""
    network.eval()
    return torch.cat([network(part) for part in torch.split(images, CHUNK)])


def loss_of(logits: Tensor, labels: Tensor) -> float:
    """The mean cross-entropy."""
    return functional.cross_entropy(logits, labels).item()


def prepare(laboratory: Laboratory, run: TrainedRun) -> tuple[BatchLoader, DeterminismInfo]:
    """The images of a run as its training saw them, and its arithmetic: for other networks than its own, too."""
    _, loader, determinism = prepare_training(
        run.directory, laboratory.data(run), laboratory.process
    )
    return loader, determinism


def take_steps(
    laboratory: Laboratory,
    learner: Learner,
    loader: BatchLoader,
    steps: int,
    what: str,
    rate: Callable[[int], float],
) -> Iterator[tuple[int, float]]:
    """Let a learner take the first `steps` of a loader, or as many as its run has; after each, its number (from 1) and its loss.

    `rate` gives, for the number of a step (from 0), the rate as a part of the recipe's own. Raises InterruptedRunError.
    """
    learner.train()
    batches = itertools.chain.from_iterable(
        loader.epoch_batches(epoch) for epoch in range(loader.epochs)
    )
    numbers = counted(laboratory, what, range(min(steps, loader.total_steps)))
    for step, batch in zip(numbers, batches, strict=False):
        for group in learner.optimizer.param_groups:
            group["lr"] = group["height"] * rate(step)
        yield step + 1, learner.step(batch)[0].item() / batch.size
