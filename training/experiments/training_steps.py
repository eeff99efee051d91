"""Trains any network for a few steps on the images of a run, and predicts logits."""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from training.experiments.laboratory import Laboratory
from training.experiments.trained_run import TrainedRun
from training.learning.batches import BatchLoader
from training.learning.determinism import DeterminismInfo
from training.learning.learner import Learner
from training.run.data import PIXEL_CHUNK_SIZE
from training.steps.training_setup import prepare_training
from training.steps.worker_choice import choose_workers


@torch.inference_mode()
def predict_logits(network: nn.Module, images: Tensor) -> Tensor:
    """Logits `[n, classes]` of normalised images, in evaluation mode."""
    network.eval()
    return torch.cat([network(part) for part in torch.split(images, PIXEL_CHUNK_SIZE)])


def open_batches(laboratory: Laboratory, run: TrainedRun) -> tuple[BatchLoader, DeterminismInfo]:
    """Augmented batches of a run's training, and its numeric environment."""
    data = laboratory.data(run)
    directory, process = run.directory, laboratory.process
    workers, _ = choose_workers(directory, data, process)
    _, loader, determinism = prepare_training(directory, data, process, workers)
    return loader, determinism


def take_steps(
    laboratory: Laboratory,
    learner: Learner,
    loader: BatchLoader,
    steps: int,
    description: str,
    rate_factor: Callable[[int], float],
) -> Iterator[float]:
    """Take the first `steps` training steps, at most `loader.total_steps`.

    Args:
        description: Text of the progress bar.
        rate_factor: Learning rate of a step (from 0) as a fraction of the recipe's.

    Yields:
        The loss of each step.

    Raises:
        InterruptedRunError: The user asked to stop.
    """
    learner.train()
    epochs = range(loader.epochs)
    batches = itertools.chain.from_iterable(loader.epoch_batches(epoch) for epoch in epochs)
    numbers = laboratory.iterate(description, range(min(steps, loader.total_steps)))
    for step, batch in zip(numbers, batches, strict=False):
        for group in learner.optimizer.param_groups:
            group["lr"] = group["height"] * rate_factor(step)
        yield learner.step(batch)[0].item() / batch.size
