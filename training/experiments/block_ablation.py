"""Test error after deleting or swapping blocks (Veit et al. 2016, sections 4.1 and 4.2)."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import Tensor

from training.experiments.laboratory import Laboratory
from training.experiments.network_parts import (
    BlockFunction,
    NetworkParts,
    block_inputs,
    deleted_block,
    run_blocks,
)
from training.experiments.sample_images import SampleTestImages
from training.experiments.trained_run import TrainedRun
from training.learning.networks import fold_batch_norms


class BlockAblation:
    """Test errors of one trained network with changed sequences of blocks.

    The input of each original block is computed once per batch. A changed sequence is computed only
    from its first difference on.
    """

    def __init__(self, laboratory: Laboratory, run: TrainedRun, images: SampleTestImages) -> None:
        network = fold_batch_norms(run.trained.network).to(
            laboratory.process.device, memory_format=torch.channels_last
        )  # type: ignore[call-overload]
        self.laboratory, self.name = laboratory, run.architecture
        self.parts = NetworkParts.of(network)
        self._batches, self._labels = images.batches(run), images.labels

    @torch.inference_mode()
    def errors(
        self, sequences: Sequence[Sequence[BlockFunction]], description: str = "run"
    ) -> list[float]:
        """Test error of the network with each sequence of blocks."""
        wrong, inputs = [0] * len(sequences), list[Tensor]()
        work = [(batch, n) for batch in range(len(self._batches)) for n in range(len(sequences))]
        for batch, n in self.laboratory.iterate(f"{description}: {self.name}", work):
            if n == 0:
                inputs = block_inputs(self.parts, self._batches[batch])
            first = self._first_difference(sequences[n])
            logits = self.parts.head(run_blocks(sequences[n][first:], inputs[first]))
            wrong[n] += int((logits.argmax(1) != self._labels[batch]).sum())
        images = sum(len(labels) for labels in self._labels)
        return [count / images for count in wrong]

    def _first_difference(self, sequence: Sequence[BlockFunction]) -> int:
        for position, (block, own) in enumerate(zip(sequence, self.parts.blocks, strict=True)):
            if block is not own:
                return position
        return len(sequence)

    def without(self, deleted: Iterable[int]) -> list[BlockFunction]:
        """The blocks of the network with these positions deleted."""
        positions = set(deleted)
        return [
            deleted_block(block) if position in positions else block
            for position, block in enumerate(self.parts.blocks)
        ]

    def delete_each(self) -> list[float]:
        """Errors `[1 + blocks]`: the whole network first, then without each block."""
        deletions = [[], *([position] for position in range(len(self.parts.blocks)))]
        return self.errors([self.without(deleted) for deleted in deletions], "delete one block")

    def delete_many(self, draws: int, seed: int) -> list[list[float]]:
        """Errors `[number deleted - 1][draw]` without 1, 2, … random shape-keeping blocks."""
        candidates = self.parts.shape_keeping
        deletions = [
            np.random.default_rng((seed, number, draw)).permutation(candidates)[:number].tolist()
            for number in range(1, len(candidates) + 1)
            for draw in range(draws)
        ]
        errors = self.errors([self.without(deleted) for deleted in deletions], "delete blocks")
        return [errors[start : start + draws] for start in range(0, len(errors), draws)]

    def swap(self, draws: int, seed: int) -> list[dict[str, Any]]:
        """`swaps`, `tau` and `error` of random orders of the blocks."""
        orders = [
            (swaps, swap_blocks(self.parts, swaps, np.random.default_rng((seed, swaps, draw))))
            for swaps in swap_counts(len(self.parts.blocks))
            for draw in range(draws)
        ]
        sequences = [[self.parts.blocks[position] for position in order] for _, order in orders]
        errors = self.errors(sequences, "swap blocks")
        return [
            {"swaps": swaps, "tau": kendall_tau(order), "error": error}
            for (swaps, order), error in zip(orders, errors, strict=True)
        ]


def swap_counts(blocks: int) -> list[int]:
    """1, 2, 4, … up to the number of blocks."""
    return [2**power for power in range(blocks.bit_length())]


def swap_blocks(parts: NetworkParts, swaps: int, generator: np.random.Generator) -> list[int]:
    """Order of the blocks after random swaps of two shape-keeping blocks of the same stage."""
    order = list(range(len(parts.blocks)))
    pairs = parts.swappable_pairs
    for index in generator.integers(len(pairs), size=swaps) if pairs else ():
        a, b = pairs[index]
        order[a], order[b] = order[b], order[a]
    return order


def kendall_tau(order: Sequence[int]) -> float:
    """Kendall's rank correlation of an order with the trained order; 1 if no block moved."""
    return float(kendalltau(range(len(order)), order).statistic)
