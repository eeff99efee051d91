"""Claim, method and verdicts of the experiment `identity`."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from training.experiments.experiment_report import Verdict
from training.experiments.identity_measurements import ConstructedPair
from training.experiments.identity_stacks import CopyingErrors
from training.statistics import SeedValues, join_values, seed_count_text

SOURCES: Final = ("He et al. 2015, sections 1 and 3.1",)
CLAIM: Final = (
    "A deeper network can do whatever a shallower one does: it can copy the shallower network's "
    "layers and make the other layers identities. So a solution exists, and a higher training "
    "error has another cause. Stacks of non-linear layers are hard to train towards the identity. "
    "Layers with a shortcut only need to learn F(x) = 0, which is easy."
)
CONSTRUCTION_METHOD: Final = (
    "Each stage of a network of {deeper} layers starts with the trained blocks of a network of "
    "{depth} layers. The following blocks are identities. A residual block becomes an identity by "
    "zeroing its last batch norm: F(x) = 0, and relu(x + 0) = x because x is not negative. A plain "
    "block becomes an identity with convolutions that copy and batch norms that cancel out: their "
    "weight and bias are the running standard deviation and mean of the incoming feature maps. "
    "Both networks are measured in evaluation mode (running statistics) on {images} training "
    "images without augmentation. The remaining differences are float32 rounding."
)
FURTHER_TRAINING_METHOD: Final = (
    "Both networks are then trained further by their recipe on the same augmented batches, for "
    "{steps} steps at a constant learning rate of {rate}, with new momentum. Batch norm now uses "
    "the statistics of each batch. The identities of the residual network remain exact. Those of "
    "the plain network hold only as far as the batch statistics equal the running statistics."
)
COPYING_METHOD: Final = (
    "Stacks of blocks, each with two 3x3 convolutions and their batch norms, are trained to return "
    "their input: the feature maps of {images} training images after {stage} of a trained "
    "{network}. Plain and residual stacks have the same weights and the same initialisation (He's "
    "for convolutions; batch norms 1 and 0; the last one is not zeroed, so F(x) starts far from "
    "0). There is no weight decay; SGD has a momentum of {momentum}. Each stack uses the better of "
    "the learning rates {rates}. There are {starts} starts of {steps} steps each. The final error "
    "is the mean over the last {final_steps} steps. Returning the mean has an error of 1. A "
    "residual stack has the identity built in and only needs to unlearn its branches. That is the "
    "point of it, so this comparison says nothing about other functions."
)
ROUNDING: Final = 1e-4
"""Logits count as equal if they differ by at most this fraction of the largest logit.

This is the float32 rounding error of about fifty layers.
"""
LAST_LOSSES: Final = 10
"""Steps at the end of further training over which losses are averaged."""


def verdicts(
    built: Mapping[str, Sequence[ConstructedPair]],
    copied: Sequence[CopyingErrors],
    depth: int,
    deeper: int,
) -> list[Verdict]:
    """`built` holds the constructed networks of each family, one per seed."""
    plain, residual = (
        [stack for stack in copied if stack.kind == kind] for kind in ("plain", "residual")
    )
    return [
        *(_solution_exists(family, pairs, depth, deeper) for family, pairs in built.items()),
        _training_leaves_plain_solution(built, depth, deeper),
        *(_plain_is_harder(*stacks) for stacks in zip(plain, residual, strict=True)),
        _depth_makes_plain_harder(plain[0], plain[-1]),
        _depth_does_not_make_residual_harder(residual[0], residual[-1]),
    ]


def _solution_exists(
    family: str, pairs: Sequence[ConstructedPair], depth: int, deeper: int
) -> Verdict:
    difference = max(pair.difference for pair in pairs)
    loss = max(abs(pair.loss["deep"] - pair.loss["shallow"]) for pair in pairs)
    error = max(abs(pair.error["deep"] - pair.error["shallow"]) for pair in pairs)
    return Verdict(
        all(pair.difference <= ROUNDING * pair.largest for pair in pairs),
        f"The solution exists: the logits of {family}{deeper}, built from {family}{depth} and "
        f"identities, differ from {family}{depth}'s by at most {difference:.2g}. The losses differ "
        f"by at most {loss:.2g} and the training errors by {100 * error:.2g} points, over "
        f"{seed_count_text(len(pairs))}.",
    )


def _training_leaves_plain_solution(
    built: Mapping[str, Sequence[ConstructedPair]], depth: int, deeper: int
) -> Verdict:
    last = min(LAST_LOSSES, len(built["plain"][0].trained_on["deep"]))
    first_steps = {family: _excess_loss(pairs, slice(0, 1)) for family, pairs in built.items()}
    last_steps = {
        family: _excess_loss(pairs, slice(-last, None)) for family, pairs in built.items()
    }
    excesses = [
        f"{family}{deeper}'s loss minus {family}{depth}'s on the same batches is "
        f"{first_steps[family].mean:+.3f} at the first step and {last_steps[family].mean:+.3f} "
        f"over the last {last}"
        for family in built
    ]
    return Verdict(
        (last_steps["plain"] - last_steps["resnet"]).is_positive(),
        "Training leaves the constructed solution in plain networks more than in residual ones: "
        f"{join_values(excesses, '; ')}, over {seed_count_text(len(built['plain']))}.",
    )


def _excess_loss(pairs: Sequence[ConstructedPair], steps: slice) -> SeedValues:
    """Mean loss of the deeper network minus that of the shallower one over these steps."""
    deep, shallow = (
        SeedValues([float(np.mean(pair.trained_on[name][steps])) for pair in pairs])
        for name in ("deep", "shallow")
    )
    return deep - shallow


def _plain_is_harder(plain: CopyingErrors, residual: CopyingErrors) -> Verdict:
    return Verdict(
        (plain.final - residual.final).is_positive(),
        f"The identity is harder to learn for plain layers, {2 * plain.blocks} convolutions: the "
        f"plain stack's final error is {plain.final.mean:.3g} of the variance, the residual "
        f"stack's {residual.final.mean:.3g} (ratio {plain.final.mean / residual.final.mean:.3g}), "
        f"{_over_starts(plain)}.",
    )


def _depth_makes_plain_harder(short: CopyingErrors, long: CopyingErrors) -> Verdict:
    return Verdict(
        (long.final - short.final).is_positive(),
        f"Depth makes it harder for plain layers: {_final_errors(short, long)}.",
    )


def _depth_does_not_make_residual_harder(short: CopyingErrors, long: CopyingErrors) -> Verdict:
    is_harder = (long.final - short.final).is_positive()
    return Verdict(
        None if is_harder is None else not is_harder,
        f"Depth does not make it harder for residual layers: {_final_errors(short, long)}.",
    )


def _final_errors(short: CopyingErrors, long: CopyingErrors) -> str:
    return (
        f"the final error is {short.final.mean:.3g} with {2 * short.blocks} convolutions and "
        f"{long.final.mean:.3g} with {2 * long.blocks}, {_over_starts(short)}"
    )


def _over_starts(stacks: CopyingErrors) -> str:
    starts = len(stacks.errors)
    text = "one start" if starts == 1 else f"{starts} starts"
    return f"over {text} on the feature maps of one network"
