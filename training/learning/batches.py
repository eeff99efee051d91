"""The training images of an epoch as augmented batches, cut the same way for any number of processes and workers.

A batch of the recipe is cut into `parts` micro-batches, one or more for each process. The order, the cuts and the
augmentation come from (seed, epoch) alone. Images that fit lie on the device as uint8; more of them are decoded ahead by
worker processes, which only decode, so that their number changes no pixel.
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

PREFETCHED: Final = 4  # micro-batches that each worker decodes ahead


class PixelSource(Protocol):
    """Where the training images' pixels come from, uint8 `[n, side, side, 3]`."""

    def stream(self, chosen: Sequence[Tensor]) -> Iterator[Tensor]:
        """The pixels of each list of positions, in order."""


class PixelsOnDevice:
    """All of them, on the device."""

    def __init__(self, pixels: Tensor, device: torch.device) -> None:
        self._pixels = pixels.to(device)

    def stream(self, chosen: Sequence[Tensor]) -> Iterator[Tensor]:
        """A gather each."""
        return (self._pixels[positions.to(self._pixels.device)] for positions in chosen)


class PixelsFromWorkers:
    """Decoded when they are needed, by `workers` processes; the dataset gives one image by its position."""

    def __init__(self, dataset: Dataset[Tensor], workers: int, device: torch.device) -> None:
        self._dataset, self._workers, self._device = dataset, workers, device

    def stream(self, chosen: Sequence[Tensor]) -> Iterator[Tensor]:
        """Batches decoded ahead."""
        batches: DataLoader[Tensor] = DataLoader(
            self._dataset,
            batch_sampler=[positions.tolist() for positions in chosen],
            num_workers=self._workers,
            prefetch_factor=PREFETCHED if self._workers else None,
            pin_memory=self._device.type == "cuda",
        )
        return (pixels.to(self._device, non_blocking=True) for pixels in batches)


@dataclass(frozen=True)
class MicroBatch:
    """Images `[n, 3, size, size]`, what they are compared with (labels, or soft labels where they are mixed), their labels."""

    images: Tensor
    targets: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Batch:
    """This process's part of a batch of `size` images."""

    size: int
    micro_batches: tuple[MicroBatch, ...]


@dataclass(frozen=True)
class BatchLoader:
    """What an epoch is made of. `labels` (int64 `[n]`) lie on the CPU; `image_size` is the model's input, `fill` the colour outside."""

    source: PixelSource
    labels: Tensor
    classes: int
    recipe: Recipe
    normalize: Normalization
    image_size: int
    fill: Tensor
    seed: int
    process: DistributedProcess

    @property
    def parts_per_batch(self) -> int:
        """Micro-batches of a batch: at least one a process, and as many for each."""
        processes = self.process.world_size
        return -(-max(self.recipe.accumulation, processes) // processes) * processes

    @cached_property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return len(
            split_batches(
                torch.empty(len(self.labels)), self.recipe.batch_size, self.parts_per_batch
            )
        )

    @property
    def total_steps(self) -> int:
        """Batches in the whole run."""
        return self.recipe.iterations or (self.recipe.epochs or 0) * self.steps_per_epoch

    @property
    def epochs(self) -> int:
        """Epochs of the whole run, the last perhaps cut short."""
        return -(-self.total_steps // self.steps_per_epoch)

    def epoch_batches(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of this epoch (from 0), from `first_step` to its end or the run's."""
        recipe = self.recipe
        draws = AugmentationDraws.of_epoch(
            len(self.labels), self.seed, epoch, recipe.augmentation.flip, recipe.mixing
        )
        batches = split_batches(
            shuffled_order(len(self.labels), self.seed, epoch),
            recipe.batch_size,
            self.parts_per_batch,
        )
        remaining = batches[first_step : self.total_steps - epoch * self.steps_per_epoch]
        own = slice(self.process.rank, None, self.process.world_size)
        pieces = [split_micro_batches(batch, self.parts_per_batch)[own] for batch in remaining]
        pixels = self.source.stream([piece for mine in pieces for piece in mine])
        for step, (batch, mine) in enumerate(
            zip(remaining, pieces, strict=True), start=epoch * self.steps_per_epoch + first_step
        ):
            side = training_image_size(recipe.schedule, step, self.total_steps, self.image_size)
            parts = [
                self._prepared(piece, raw, draws, side)
                for piece, raw in zip(mine, islice(pixels, len(mine)), strict=True)
            ]
            yield Batch(len(batch), tuple(parts))

    def _prepared(
        self, positions: Tensor, pixels: Tensor, draws: AugmentationDraws, side: int
    ) -> MicroBatch:
        device = self.process.device
        own, labels = draws.take(positions, device), self.labels[positions].to(device)
        images = augment(
            self.normalize(pixels), own, self.recipe.augmentation, self.image_size, self.fill
        )
        targets = labels
        if self.recipe.mixing.enabled:
            images, targets = mix_pairs(images, labels, own, self.recipe.mixing, self.classes)
        return MicroBatch(resize(images, side), targets, labels)


def split_batches(order: Tensor, batch_size: int, parts: int) -> list[Tensor]:
    """The order as batches. A last one that is too small for two images a part joins the one before it.

    Batch norm has no deviation of one image (pytorch#7716), and no image is dropped.
    """
    batches = list(torch.split(order, batch_size))
    if len(batches) > 1 and len(batches[-1]) < 2 * parts:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def split_micro_batches(batch: Tensor, parts: int) -> list[Tensor]:
    """A batch cut into parts, each but the last of even length, so that the pairs that are mixed stay together."""
    bounds = [round(len(batch) / 2 * part / parts) * 2 for part in range(parts)] + [len(batch)]
    return [batch[start:end] for start, end in pairwise(bounds)]
