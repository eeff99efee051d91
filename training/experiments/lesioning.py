"""Blocks deleted and swapped at test time, and the error after it (Veit et al. 2016, sections 4.1 and 4.2)."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import Tensor

from training.experiments.anatomy import Anatomy, run_blocks, states, without
from training.experiments.laboratory import Laboratory, TrainedRun
from training.experiments.pictures import Pictures, counted
from training.learning.networks import fold_norms

Block = Callable[[Tensor], Tensor]


class Patient:
    """A trained network under test: its error with other blocks in the row than its own.

    Norms are folded into the convolutions; what goes into each block of the whole network is computed once, so that a row that
    begins like the network's costs only what is different.
    """

    def __init__(self, laboratory: Laboratory, run: TrainedRun, pictures: Pictures) -> None:
        network = fold_norms(run.trained.network).to(laboratory.process.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.laboratory, self.name, self.anatomy = laboratory, run.architecture, Anatomy.of(network)
        self._labels = pictures.labels
        self._states = [
            states(self.anatomy, batch) for batch in counted(laboratory, f"images through {self.name}", pictures.batches(run))
        ]

    @torch.inference_mode()
    def error(self, row: Sequence[Block]) -> float:
        """The share of images that the network gets wrong with these blocks."""
        pairs = zip(row, self.anatomy.blocks, strict=True)
        first = next((position for position, (block, own) in enumerate(pairs) if block is not own), len(row))
        wrong = images = 0
        for kept, labels in zip(self._states, self._labels, strict=True):
            logits = self.anatomy.head(run_blocks(row[first:], kept[first]))
            wrong += int((logits.argmax(1) != labels).sum())
            images += len(labels)
        return wrong / images

    def without(self, deleted: Iterable[int]) -> list[Block]:
        """The row without these blocks."""
        gone = set(deleted)
        return [without(block) if position in gone else block for position, block in enumerate(self.anatomy.blocks)]

    def delete_each(self) -> list[float]:
        """The error without each block alone; the whole network's is first."""
        lesions = [[], *([position] for position in range(len(self.anatomy.blocks)))]
        return [self.error(self.without(gone)) for gone in counted(self.laboratory, f"delete a block of {self.name}", lesions)]

    def delete_many(self, draws: int, seed: int) -> list[list[float]]:
        """Errors `[number deleted - 1][draw]` without 1, 2, … all blocks that keep the shape, drawn anew for each."""
        movable = self.anatomy.movable
        lesions = [
            np.random.default_rng((seed, number, draw)).permutation(movable)[:number].tolist()
            for number in range(1, len(movable) + 1)
            for draw in range(draws)
        ]
        errors = [self.error(self.without(gone)) for gone in counted(self.laboratory, f"delete blocks of {self.name}", lesions)]
        return [errors[start : start + draws] for start in range(0, len(errors), draws)]

    def swap(self, draws: int, seed: int) -> list[dict[str, Any]]:
        """Tau and error after 1, 2, 4, … random swaps of two blocks of a stage, up to as many swaps as there are blocks."""
        orders = [
            (swaps, order)
            for swaps in swap_counts(len(self.anatomy.blocks))
            for draw in range(draws)
            for order in [swapped(self.anatomy, swaps, np.random.default_rng((seed, swaps, draw)))]
        ]
        return [
            {"swaps": swaps, "tau": tau(order), "error": self.error([self.anatomy.blocks[position] for position in order])}
            for swaps, order in counted(self.laboratory, f"swap blocks of {self.name}", orders)
        ]


def swap_counts(blocks: int) -> list[int]:
    """1, 2, 4, … up to the number of blocks."""
    return [2**power for power in range(blocks.bit_length())]


def swapped(anatomy: Anatomy, swaps: int, draw: np.random.Generator) -> list[int]:
    """The order of the blocks after so many random swaps; as it was where no stage has two that could be swapped."""
    order = list(range(len(anatomy.blocks)))
    pairs = anatomy.exchangeable
    for a, b in (pairs[index] for index in draw.integers(len(pairs), size=swaps)) if pairs else ():
        order[a], order[b] = order[b], order[a]
    return order


def tau(order: Sequence[int]) -> float:
    """Kendall's rank correlation of an order with the one that was trained: 1 where nothing moved."""
    return float(kendalltau(range(len(order)), order).statistic)
