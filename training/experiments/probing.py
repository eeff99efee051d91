"""What experiments look at a trained network with: some of its training images, a loss, and a few steps of training."""

from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.errors import InterruptedRunError
from training.experiments.laboratory import Laboratory, TrainedRun
from training.learning.environment import Environment
from training.learning.feed import Batch, Feed
from training.learning.learner import Learner
from training.setup import prepare_training

CHUNK: Final = 256


def sample_images(laboratory: Laboratory, run: TrainedRun, count: int) -> tuple[Tensor, Tensor]:
    """So many of a run's training images, spread over all of them: normalised `[n, 3, h, w]`, and their labels, on the device."""
    data = laboratory.data(run)
    spread = torch.linspace(0, len(data.learned) - 1, min(count, len(data.learned))).long().numpy()
    chosen, device = data.learned[spread], laboratory.process.device
    images = torch.cat([run.trained.normalize(torch.from_numpy(chunk)) for chunk in data.chunks(chosen)])
    return images.to(device), data.labels(chosen).to(device)


@torch.inference_mode()
def answers(network: nn.Module, images: Tensor) -> Tensor:
    """Logits `[n, classes]` of normalised images, in evaluation mode."""
    network.eval()
    return torch.cat([network(part) for part in torch.split(images, CHUNK)])


def loss_of(logits: Tensor, labels: Tensor) -> float:
    """The mean cross-entropy."""
    return functional.cross_entropy(logits, labels).item()


def prepare(laboratory: Laboratory, run: TrainedRun) -> tuple[Feed, Environment]:
    """The images of a run as its training saw them, and its arithmetic: for other networks than its own, too."""
    _, feed, environment = prepare_training(run.directory, laboratory.data(run), laboratory.process)
    return feed, environment


def take_steps(
    laboratory: Laboratory, learner: Learner, feed: Feed, steps: int, what: str, before: Callable[[int], None]
) -> Iterator[tuple[int, float]]:
    """Let a learner take the first `steps` of a feed; after each, its number (from 1) and the loss on its batch.

    `before` is called with the number of the step (from 0) that comes, to set its rate. Raises InterruptedRunError.
    """
    learner.train()
    advance = laboratory.display.count(what)
    for step, batch in enumerate(first_batches(feed, steps)):
        if laboratory.interrupted():
            raise InterruptedRunError(f"stopped at step {step} of {steps}: {what}")
        before(step)
        loss = learner.step(batch)[0].item() / batch.images
        advance(step + 1, steps)
        yield step + 1, loss


def first_batches(feed: Feed, steps: int) -> Iterator[Batch]:
    """The first `steps` batches of a feed, over as many epochs as they need, or as many as its run has."""
    taken = 0
    for epoch in range(feed.epochs):
        for batch in feed.epoch(epoch):
            if taken == steps:
                return
            taken += 1
            yield batch
