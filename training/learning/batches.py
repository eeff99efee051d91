"""The training images of an epoch as augmented batches.

A batch of the recipe is split into micro-batches, at least one per process. Order, batches and
augmentation depend on (seed, epoch) only, so they are the same for any number of processes and
workers. If all pixels fit into memory, the device keeps them as uint8. Otherwise worker processes
decode images ahead of time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from typing import Final, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.learning.augmentation import (
    AugmentationDraws,
    augment,
    mix_pairs,
    resize,
    shuffled_order,
)
from training.learning.distributed import DistributedProcess
from training.learning.normalization import Normalization
from training.learning.optimization import training_image_size
from training.learning.recipe import Recipe

PREFETCH_FACTOR: Final = 4
"""Micro-batches that each worker decodes ahead."""


class PixelSource(Protocol):
    def stream(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield uint8 `[n, height, width, 3]` for each tensor of positions (int64 `[n]`)."""


class PixelsOnDevice:
    """All pixels, uint8 `[n, height, width, 3]`, in the device's memory."""

    def __init__(self, pixels: Tensor, device: torch.device) -> None:
        self._pixels = pixels.to(device)

    def stream(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        return (self._pixels[positions.to(self._pixels.device)] for positions in batches)


class PixelsFromWorkers:
    """Pixels decoded on demand by `workers` processes, from a dataset of single images."""

    def __init__(self, dataset: Dataset[Tensor], workers: int, device: torch.device) -> None:
        self._dataset, self._workers, self._device = dataset, workers, device

    def stream(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        loader: DataLoader[Tensor] = DataLoader(
            self._dataset,
            batch_sampler=[positions.tolist() for positions in batches],
            num_workers=self._workers,
            prefetch_factor=PREFETCH_FACTOR if self._workers else None,
            pin_memory=self._device.type == "cuda",
        )
        return (pixels.to(self._device, non_blocking=True) for pixels in loader)


@dataclass(frozen=True)
class MicroBatch:
    """Images of one forward pass.

    Attributes:
        images: float `[n, 3, height, width]`, normalized and augmented.
        targets: int64 `[n]`, or soft labels, float `[n, classes]`, if images are mixed.
        labels: int64 `[n]`, the labels of the images before mixing.
    """

    images: Tensor
    targets: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Batch:
    """The share of this process in a batch; `size` counts the images of all processes."""

    size: int
    micro_batches: tuple[MicroBatch, ...]


@dataclass(frozen=True)
class BatchLoader:
    """Makes the batches of every epoch.

    Attributes:
        source: Pixels of all training images.
        labels: int64 `[n]`, on the CPU.
        classes: Number of classes.
        image_size: Height and width of the model's input in pixels.
        fill: float `[3, 1, 1]`, the normalized color outside an image.
        process: This process among those that share each batch.
    """

    source: PixelSource
    labels: Tensor
    classes: int
    recipe: Recipe
    normalize: Normalization
    image_size: tuple[int, int]
    fill: Tensor
    seed: int
    process: DistributedProcess

    @property
    def micro_batches_per_batch(self) -> int:
        """`recipe.accumulation`, rounded up to a multiple of the number of processes."""
        processes = self.process.world_size
        return -(-max(self.recipe.accumulation, processes) // processes) * processes

    @cached_property
    def steps_per_epoch(self) -> int:
        return len(self._split(torch.empty(len(self.labels))))

    @property
    def total_steps(self) -> int:
        return self.recipe.iterations or (self.recipe.epochs or 0) * self.steps_per_epoch

    @property
    def epochs(self) -> int:
        """Epochs in the whole run; the last one may be incomplete."""
        return -(-self.total_steps // self.steps_per_epoch)

    def epoch_batches(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield batches of an epoch (from 0), from `first_step` until the epoch or the run ends."""
        recipe, start = self.recipe, epoch * self.steps_per_epoch
        draws = AugmentationDraws.of_epoch(
            len(self.labels), self.seed, epoch, recipe.augmentation.flip, recipe.mixing
        )
        batches = self._split(shuffled_order(len(self.labels), self.seed, epoch))
        batches = batches[first_step : self.total_steps - start]
        own = slice(self.process.rank, None, self.process.world_size)
        own_positions = [
            split_micro_batches(batch, self.micro_batches_per_batch)[own] for batch in batches
        ]
        pixels = self.source.stream([part for parts in own_positions for part in parts])
        for step, (batch, parts) in enumerate(
            zip(batches, own_positions, strict=True), start=start + first_step
        ):
            size = training_image_size(recipe.schedule, step, self.total_steps, self.image_size)
            micro_batches = tuple(
                self._prepare(part, part_pixels, draws, size)
                for part, part_pixels in zip(parts, islice(pixels, len(parts)), strict=True)
            )
            yield Batch(len(batch), micro_batches)

    def _split(self, order: Tensor) -> list[Tensor]:
        return split_batches(order, self.recipe.batch_size, self.micro_batches_per_batch)

    def _prepare(
        self, positions: Tensor, pixels: Tensor, draws: AugmentationDraws, size: tuple[int, int]
    ) -> MicroBatch:
        recipe, device = self.recipe, self.process.device
        own_draws, labels = draws.take(positions, device), self.labels[positions].to(device)
        images = self.normalize(pixels)
        images = augment(images, own_draws, recipe.augmentation, self.image_size, self.fill)
        targets = labels
        if recipe.mixing.enabled:
            images, targets = mix_pairs(images, labels, own_draws, recipe.mixing, self.classes)
        return MicroBatch(resize(images, size), targets, labels)


def split_batches(order: Tensor, batch_size: int, micro_batches: int) -> list[Tensor]:
    """Split an epoch's order into batches; no image is dropped.

    A last batch with fewer than two images per micro-batch joins the one before it: batch norm
    cannot compute the variance of one image (pytorch#7716).
    """
    batches = list(torch.split(order, batch_size))
    if len(batches) > 1 and len(batches[-1]) < 2 * micro_batches:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def split_micro_batches(batch: Tensor, count: int) -> list[Tensor]:
    """Split a batch; all parts but the last have an even length, so that mixed pairs stay whole."""
    bounds = [round(len(batch) / 2 * part / count) * 2 for part in range(count)] + [len(batch)]
    return [batch[start:end] for start, end in pairwise(bounds)]
