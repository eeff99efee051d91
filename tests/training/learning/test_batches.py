"""The loader: every image once an epoch, cut the same for any number of processes and workers, from any step on."""

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
    """The same pixels, one at a time, as a decoder would give them."""

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, position: int) -> Tensor:
        return PIXELS[position]


def make_loader(
    rank: int = 0, world_size: int = 1, source: PixelSource | None = None, **changes: object
) -> BatchLoader:
    """Fifty small images under a recipe that does something of everything."""
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
        image_size=8,
        fill=torch.zeros(3, 1, 1),
        seed=1,
        process=DistributedProcess(rank, world_size),
    )


def images_of(batch: Batch) -> Tensor:
    """All parts of a batch behind one another."""
    return torch.cat([part.images for part in batch.micro_batches])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_any_number_of_workers_gives_the_same_pixels(workers: int) -> None:
    """Workers only decode; what is drawn belongs to the image."""
    streamed = make_loader(source=PixelsFromWorkers(Numbered(), workers, CPU))
    for expected, found in zip(
        make_loader().epoch_batches(1), streamed.epoch_batches(1), strict=True
    ):
        assert torch.equal(images_of(expected), images_of(found))
        assert torch.equal(expected.micro_batches[0].targets, found.micro_batches[0].targets)


@pytest.mark.parametrize("batch_size", [8, 10, 12])
def test_processes_share_a_batch_that_one_would_cut_into_parts(batch_size: int) -> None:
    """The parts of two processes are the two micro-batches of one that accumulates, mixed pairs included."""
    alone = make_loader(batch_size=batch_size, accumulation=2)
    first, second = (make_loader(rank, 2, batch_size=batch_size) for rank in range(2))
    assert alone.micro_batches_per_batch == first.parts_per_batch == 2
    for whole, *halves in zip(
        alone.epoch_batches(0), first.epoch_batches(0), second.epoch_batches(0), strict=True
    ):
        for part, half in zip(whole.micro_batches, halves, strict=True):
            assert half.size == whole.size
            assert torch.equal(part.images, half.micro_batches[0].images)
            assert torch.equal(part.targets, half.micro_batches[0].targets)


def test_an_epoch_has_each_image_once() -> None:
    """In another order each time."""
    loader = make_loader(augmentation={}, mixing={})
    epochs = [
        torch.cat([images_of(batch) for batch in loader.epoch_batches(epoch)]) for epoch in range(2)
    ]
    expected = loader.normalize(PIXELS)
    for seen in epochs:
        assert sorted(map(float, seen.sum((1, 2, 3)))) == pytest.approx(
            sorted(map(float, expected.sum((1, 2, 3)))), abs=1e-3
        )
    assert not torch.equal(epochs[0], epochs[1])


def test_an_epoch_begun_in_the_middle_is_the_rest_of_the_whole() -> None:
    """Where a run goes on is one integer."""
    loader = make_loader()
    for expected, found in zip(
        list(loader.epoch_batches(2))[4:], loader.epoch_batches(2, first_step=4), strict=True
    ):
        assert torch.equal(images_of(expected), images_of(found))


def test_iterations_end_a_run_inside_an_epoch() -> None:
    """64,000 iterations are no whole number of epochs."""
    loader = make_loader(epochs=None, iterations=10)
    assert (loader.steps_per_epoch, loader.total_steps, loader.epochs) == (7, 10, 2)
    assert [len(list(loader.epoch_batches(epoch))) for epoch in range(2)] == [7, 3]


@pytest.mark.parametrize(
    ("count", "batch_size", "parts", "sizes"),
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
    count: int, batch_size: int, parts: int, sizes: list[int]
) -> None:
    """Batch norm has no deviation of one image, and no image is dropped."""
    order = torch.randperm(count)
    batches = split_batches(order, batch_size, parts)
    assert [len(batch) for batch in batches] == sizes
    assert torch.equal(torch.cat(batches), order)


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [8, 9, 11, 128])
def test_parts_of_a_batch_are_even_but_the_last(size: int, parts: int) -> None:
    """So that pairs stay together; none is empty, nothing is lost."""
    pieces = split_micro_batches(torch.arange(size), parts)
    assert torch.equal(torch.cat(pieces), torch.arange(size))
    assert len(pieces) == parts
    assert all(len(piece) % 2 == 0 for piece in pieces[:-1])
    assert all(len(piece) >= 2 for piece in pieces)


def test_images_grow_over_the_run_where_the_recipe_says_so() -> None:
    """Small first, the model's own size at the end."""
    loader = make_loader(batch_size=25, epochs=2, schedule={"scales": [0.5, 1.0]}, mixing={})
    loader = replace(loader, image_size=32)
    sides = [
        images_of(batch).shape[-1] for epoch in range(2) for batch in loader.epoch_batches(epoch)
    ]
    assert sides == [16, 16, 32, 32]
