"""Batches: every image once per epoch, the same for any number of processes and workers."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from training.learning.batches import (
    Batch,
    BatchLoader,
    PixelsFromWorkers,
    PixelsOnDevice,
    PixelSource,
    split_batches,
    split_micro_batches,
)
from training.learning.distributed import DistributedProcess
from training.learning.normalization import Normalization
from training.learning.recipe import Recipe

CPU = torch.device("cpu")
PIXELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8))
ONE = torch.ones(1, 1, 1)


class Numbered(Dataset[Tensor]):
    """PIXELS, one image at a time, as a decoder returns them."""

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, position: int) -> Tensor:
        return PIXELS[position]


def make_loader(
    rank: int = 0, world_size: int = 1, source: PixelSource | None = None, **changes: object
) -> BatchLoader:
    """Fifty small images, with warps, flips, erasing and mixing."""
    values = {
        "epochs": 3,
        "batch_size": 8,
        "optimizer": {"learning_rate": 0.1},
        "mixing": {"mixup": 0.4, "cutmix": 1.0},
        "augmentation": {
            "flip": "random",
            "crop_area": [0.5, 1.2],
            "fill": "reflect",
            "erase": 0.3,
        },
        **changes,
    }
    return BatchLoader(
        source=source or PixelsOnDevice(PIXELS, CPU),
        labels=torch.arange(50) % 5,
        classes=5,
        recipe=Recipe.model_validate_json(json.dumps(values)),
        normalize=Normalization(128 * ONE, 64 * ONE),
        image_size=(8, 8),
        fill=torch.zeros(3, 1, 1),
        seed=1,
        process=DistributedProcess(rank, world_size),
    )


def images_of(batch: Batch) -> Tensor:
    return torch.cat([part.images for part in batch.micro_batches])


@pytest.mark.parametrize("workers", [0, 2])
def test_any_number_of_workers_gives_the_same_pixels(workers: int) -> None:
    """Workers only decode."""
    streamed = make_loader(source=PixelsFromWorkers(Numbered(), workers, CPU))
    batches = zip(make_loader().epoch_batches(1), streamed.epoch_batches(1), strict=True)
    for expected, actual in batches:
        assert torch.equal(images_of(expected), images_of(actual))
        assert torch.equal(expected.micro_batches[0].targets, actual.micro_batches[0].targets)


@pytest.mark.parametrize("batch_size", [8, 10, 12])
def test_two_processes_get_the_micro_batches_of_one_that_accumulates(batch_size: int) -> None:
    """Mixed pairs included."""
    single = make_loader(batch_size=batch_size, accumulation=2)
    loaders = [make_loader(rank, 2, batch_size=batch_size) for rank in range(2)]
    assert single.micro_batches_per_batch == loaders[0].micro_batches_per_batch == 2
    epochs = [loader.epoch_batches(0) for loader in (single, *loaders)]
    for whole, *halves in zip(*epochs, strict=True):
        for part, half in zip(whole.micro_batches, halves, strict=True):
            assert half.size == whole.size
            assert torch.equal(part.images, half.micro_batches[0].images)
            assert torch.equal(part.targets, half.micro_batches[0].targets)
            assert torch.equal(part.labels, half.micro_batches[0].labels)


def test_every_process_gets_the_same_number_of_micro_batches() -> None:
    """Accumulation is rounded up to a multiple of the number of processes."""
    counts = [make_loader(0, 2, accumulation=n).micro_batches_per_batch for n in (1, 2, 3, 4)]
    assert counts == [2, 2, 4, 4]


def test_an_epoch_has_each_image_once_with_its_label() -> None:
    """In another order each time."""
    loader = make_loader(augmentation={}, mixing={})
    position_of = {image.numpy().tobytes(): index for index, image in enumerate(PIXELS)}
    orders = []
    for epoch in range(2):
        order = []
        for batch in loader.epoch_batches(epoch):
            for part in batch.micro_batches:
                pixels = (part.images * 64 + 128).round().to(torch.uint8).permute(0, 2, 3, 1)
                positions = [position_of[image.numpy().tobytes()] for image in pixels]
                assert part.labels.tolist() == [position % 5 for position in positions]
                assert torch.equal(part.targets, part.labels)
                order += positions
        assert sorted(order) == list(range(50))
        orders.append(order)
    assert orders[0] != orders[1]


def test_an_epoch_can_start_at_any_step() -> None:
    """A resumed run stores only the number of its step."""
    loader = make_loader()
    rest = list(loader.epoch_batches(2))[4:]
    for expected, actual in zip(rest, loader.epoch_batches(2, first_step=4), strict=True):
        assert torch.equal(images_of(expected), images_of(actual))


def test_iterations_can_end_a_run_within_an_epoch() -> None:
    loader = make_loader(epochs=None, iterations=10)
    assert (loader.steps_per_epoch, loader.total_steps, loader.epochs) == (7, 10, 2)
    assert [len(list(loader.epoch_batches(epoch))) for epoch in range(2)] == [7, 3]


@pytest.mark.parametrize(
    ("count", "batch_size", "micro_batches", "sizes"),
    [
        (50, 8, 1, [8] * 6 + [2]),
        (49, 8, 1, [8] * 5 + [9]),
        (51, 8, 1, [8] * 6 + [3]),
        (51, 8, 2, [8] * 5 + [11]),
        (5, 8, 1, [5]),
        (1, 8, 1, [1]),
    ],
)
def test_a_last_batch_that_is_too_small_joins_the_one_before(
    count: int, batch_size: int, micro_batches: int, sizes: list[int]
) -> None:
    """Batch norm cannot compute the variance of one image."""
    order = torch.arange(count).flip(0)
    batches = split_batches(order, batch_size, micro_batches)
    assert [len(batch) for batch in batches] == sizes
    assert torch.equal(torch.cat(batches), order)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [8, 9, 11, 128])
def test_micro_batches_have_even_lengths_except_the_last(size: int, count: int) -> None:
    """Mixed pairs stay together, and no image is lost."""
    parts = split_micro_batches(torch.arange(size), count)
    assert torch.equal(torch.cat(parts), torch.arange(size))
    assert len(parts) == count
    assert all(len(part) % 2 == 0 for part in parts[:-1])
    assert all(len(part) >= 2 for part in parts)
    assert max(map(len, parts)) - min(map(len, parts)) <= 3


def test_images_grow_over_the_run_if_the_recipe_says_so() -> None:
    loader = make_loader(batch_size=25, epochs=2, schedule={"scales": [0.5, 1.0]}, mixing={})
    loader = replace(loader, image_size=(32, 32))
    sides = [
        images_of(batch).shape[-1] for epoch in (0, 1) for batch in loader.epoch_batches(epoch)
    ]
    assert sides == [16, 16, 32, 32]
    resumed = [images_of(batch).shape[-1] for batch in loader.epoch_batches(0, first_step=1)]
    resumed += [images_of(batch).shape[-1] for batch in loader.epoch_batches(1, first_step=1)]
    assert resumed == [16, 32]


def test_the_settings_of_the_recipe_reach_the_augmentation() -> None:
    """Flips by the recipe, and the loader's color outside the image."""
    loader = make_loader(augmentation={"flip": "alternate"}, mixing={}, batch_size=50)
    sides = []
    for epoch in range(2):
        (batch,) = loader.epoch_batches(epoch)
        sides.append({image.numpy().tobytes() for image in batch.micro_batches[0].images})
    assert sides[0].isdisjoint(sides[1])
    padded = make_loader(augmentation={"pad": 8, "fill": "background"}, mixing={})
    padded = replace(padded, fill=torch.full((3, 1, 1), 5.0))
    assert (images_of(next(padded.epoch_batches(0))) == 5).any()
