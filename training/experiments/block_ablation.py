"""Blocks deleted and swapped at test time, and the error after it (Veit et al. 2016, sections 4.1 and 4.2)."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import Tensor

from training.experiments.laboratory import Laboratory, TrainedRun
from training.experiments.network_parts import NetworkParts, run_blocks, states, without
from training.experiments.sample_images import TestImages, counted
from training.learning.networks import fold_batch_norms

Block = Callable[[Tensor], Tensor]


class BlockAblation:
    """A trained network under test: its error with other blocks in the row than its own.

    Norms are folded into the convolutions. What goes into each block of the whole network is kept for one batch at a time (some
    megabyte an image, at 56 layers), so that a row that begins like the network's costs only what is different.
    """

    def __init__(self, laboratory: Laboratory, run: TrainedRun, pictures: TestImages) -> None:
        network = fold_batch_norms(run.trained.network).to(
            laboratory.process.device, memory_format=torch.channels_last
        )  # type: ignore[call-overload]
        self.laboratory, self.name, self.anatomy = (
            laboratory,
            run.architecture,
            NetworkParts.of(network),
        )
        self._batches, self._labels = pictures.batches(run), pictures.labels

    @torch.inference_mode()
    def errors(self, rows: Sequence[Sequence[Block]], what: str = "run") -> list[float]:
        """The share of images that the network gets wrong with each of these rows of blocks."""
        wrong, kept = [0] * len(rows), list[Tensor]()
        todo = [
            (batch, number) for batch in range(len(self._batches)) for number in range(len(rows))
        ]
        for batch, number in counted(self.laboratory, f"{what} of {self.name}", todo):
            if number == 0:
                kept = states(self.anatomy, self._batches[batch])
            first = self._first_other(rows[number])
            logits = self.anatomy.head(run_blocks(rows[number][first:], kept[first]))
            wrong[number] += int((logits.argmax(1) != self._labels[batch]).sum())
        images = sum(len(labels) for labels in self._labels)
        return [count / images for count in wrong]

    def _first_other(self, row: Sequence[Block]) -> int:
        """Where a row ceases to be the network's."""
        pairs = zip(row, self.anatomy.blocks, strict=True)
        return next(
            (position for position, (block, own) in enumerate(pairs) if block is not own), len(row)
        )

    def without(self, deleted: Iterable[int]) -> list[Block]:
        """The row without these blocks."""
        gone = set(deleted)
        return [
            without(block) if position in gone else block
            for position, block in enumerate(self.anatomy.blocks)
        ]

    def delete_each(self) -> list[float]:
        """The error without each block alone; the whole network's is first."""
        lesions = [[], *([position] for position in range(len(self.anatomy.blocks)))]
        return self.errors([self.without(gone) for gone in lesions], "delete a block")

    def delete_many(self, draws: int, seed: int) -> list[list[float]]:
        """Errors `[number deleted - 1][draw]` without 1, 2, … all blocks that keep the shape, drawn anew for each."""
        movable = self.anatomy.movable
        lesions = [
            np.random.default_rng((seed, number, draw)).permutation(movable)[:number].tolist()
            for number in range(1, len(movable) + 1)
            for draw in range(draws)
        ]
        errors = self.errors([self.without(gone) for gone in lesions], "delete blocks")
        return [errors[start : start + draws] for start in range(0, len(errors), draws)]

    def swap(self, draws: int, seed: int) -> list[dict[str, Any]]:
        """Tau and error after 1, 2, 4, … random swaps of two blocks of a stage, up to as many swaps as there are blocks."""
        orders = [
            (swaps, order)
            for swaps in swap_counts(len(self.anatomy.blocks))
            for draw in range(draws)
            for order in [swapped(self.anatomy, swaps, np.random.default_rng((seed, swaps, draw)))]
        ]
        errors = self.errors(
            [[self.anatomy.blocks[position] for position in order] for _, order in orders],
            "swap blocks",
        )
        return [
            {"swaps": swaps, "tau": tau(order), "error": error}
            for (swaps, order), error in zip(orders, errors, strict=True)
        ]


def swap_counts(blocks: int) -> list[int]:
    """1, 2, 4, … up to the number of blocks."""
    return [2**power for power in range(blocks.bit_length())]


def swapped(anatomy: NetworkParts, swaps: int, draw: np.random.Generator) -> list[int]:
    """The order of the blocks after so many random swaps; as it was where no stage has two that could be swapped."""
    order = list(range(len(anatomy.blocks)))
    pairs = anatomy.exchangeable
    for a, b in (pairs[index] for index in draw.integers(len(pairs), size=swaps)) if pairs else ():
        order[a], order[b] = order[b], order[a]
    return order


def tau(order: Sequence[int]) -> float:
    """Kendall's rank correlation of an order with the one that was trained: 1 where nothing moved."""
    return float(kendalltau(range(len(order)), order).statistic)
