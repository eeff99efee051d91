"""What the experiment `identity` says: its claim, its method, and the sentences that its figures make."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from training.experiments.experiment_report import Verdict
from training.experiments.identity_stacks import CopyingErrors
from training.statistics import SeedValues, seeds_of

SOURCES: Final = ("He et al. 2015, sections 1 and 3.1",)
CLAIM: Final = (
    "A deeper network can do whatever a shallower one does: copy its layers, and make the rest identities. So a higher training "
    "error is no lack of solutions; it is that stacks of non-linear layers are hard to train towards the identity, and that "
    "layers with a shortcut around them, which need only learn F(x) = 0, are not."
)
CONSTRUCTED: Final = (
    "Each stage of a network of {deeper} layers begins with the trained blocks of one of {depth}; identities follow. A residual "
    "block becomes one by zeroing its last norm, so that F(x) = 0 and relu(x + 0) = x, since x is not negative. A plain block "
    "becomes one by convolutions that copy and norms that undo themselves: weight and bias are the running deviation and mean, "
    "taken from the maps that come there. Both are measured in evaluation mode (running statistics) on {images} training "
    "images, not augmented: all that is left is the rounding of float32."
)
TRAINED_ON: Final = (
    "From there both train on by their recipe, on the same augmented batches, at a constant rate of {rate}, for {steps} steps "
    "without momentum from before. Batch norm now takes the statistics of each batch. The residual network's identities are "
    "exact then too; the plain network's hold only as far as a batch's mean and deviation are those of the maps."
)
COPIED: Final = (
    "Stacks of blocks of two 3x3 convolutions, each with its norm, learn to give back what they get: the maps that {0} training "
    "images have after {2} of a trained {1}. Plain and residual stacks have the same weights to learn, the same start (He's for "
    "convolutions; norms 1 and 0, the last one not zeroed, so F(x) is far from 0), no weight decay, and SGD with momentum {3}. "
    "Of the rates {4} each takes the one that ends lower. {5} starts, {6} steps; the error at the end is the mean of the last "
    "{7}. An error of 1 is that of answering with the mean. A residual stack is given the identity in the wiring, and has only "
    "to unlearn its branches; that is the point of it, and also why the comparison says nothing of other functions."
)
ROUNDING: Final = 1e-4
"""Logits that differ by less than this part of the largest one differ by float32's rounding through some fifty layers."""
WINDOW: Final = 10


def verdicts(
    built: Mapping[str, Sequence[Mapping[str, Any]]],
    copied: Sequence[CopyingErrors],
    depth: int,
    deeper: int,
) -> list[Verdict]:
    """What the figures say of each part of the claim."""
    return [
        *(_constructed(family, found, depth, deeper) for family, found in built.items()),
        _trained_on(built, depth, deeper),
        *_copied(copied),
    ]


def _constructed(
    family: str, found: Sequence[Mapping[str, Any]], depth: int, deeper: int
) -> Verdict:
    difference = max(its["difference"] for its in found)
    loss = max(abs(its["loss"]["deep"] - its["loss"]["shallow"]) for its in found)
    same = all(its["error"]["deep"] == its["error"]["shallow"] for its in found)
    return Verdict(
        all(its["difference"] <= ROUNDING * its["largest"] for its in found),
        f"The solution exists: {family}{deeper}, built from {family}{depth} and identities, answers as it does up to "
        f"{difference:.2g} in a logit; their losses are {loss:.2g} apart, and their training errors are "
        f"{'the same' if same else 'not quite the same'}; over {seeds_of(len(found))}.",
    )


def _trained_on(
    built: Mapping[str, Sequence[Mapping[str, Any]]], depth: int, deeper: int
) -> Verdict:
    def excess(found: Sequence[Mapping[str, Any]], part: slice) -> SeedValues:
        deep, shallow = (
            SeedValues([float(np.mean(its["trained_on"][name][part])) for its in found])
            for name in ("deep", "shallow")
        )
        return deep - shallow

    window = min(WINDOW, len(built["plain"][0]["trained_on"]["deep"]))
    begins = {family: excess(found, slice(0, 1)) for family, found in built.items()}
    ends = {family: excess(found, slice(-window, None)) for family, found in built.items()}
    moved = [
        f"that of {family}{deeper} is {begins[family].mean:+.3f} from {family}{depth}'s on the same batch at the first step, and "
        f"{ends[family].mean:+.3f} over the last {window}"
        for family in built
    ]
    return Verdict(
        (ends["plain"] - ends["resnet"]).agree(),
        f"Training leaves the plain solution more than the residual one. Losses of the constructed networks, over "
        f"{seeds_of(len(built['plain']))}: {'; '.join(moved)}.",
    )


def _copied(copied: Sequence[CopyingErrors]) -> list[Verdict]:
    said = []
    by_kind = {
        kind: [copying for copying in copied if copying.kind == kind]
        for kind in ("plain", "residual")
    }
    for plain, residual in zip(by_kind["plain"], by_kind["residual"], strict=True):
        harder = plain.final - residual.final
        said.append(
            Verdict(
                harder.agree(),
                f"Learning the identity, {2 * plain.blocks} convolutions: the plain stack ends at an error of "
                f"{plain.final.mean:.3g} of the maps' variance, the residual one at {residual.final.mean:.3g} "
                f"({_ratio(plain, residual)}), over {_starts(plain)}.",
            )
        )
    for kind, stacks in by_kind.items():
        deeper = stacks[-1].final - stacks[0].final
        agreed = deeper.agree()
        said.append(
            Verdict(
                agreed if kind == "plain" or agreed is None else not agreed,
                f"Depth {'makes it harder' if kind == 'plain' else 'does not make it harder'} for {kind} layers: from "
                f"{2 * stacks[0].blocks} to {2 * stacks[-1].blocks} convolutions their error goes from "
                f"{stacks[0].final.mean:.3g} to {stacks[-1].final.mean:.3g}, over {_starts(stacks[0])}.",
            )
        )
    return said


def _starts(copying: CopyingErrors) -> str:
    starts = len(copying.errors)
    return f"{'one start' if starts == 1 else f'{starts} starts'} on the maps of one network"


def _ratio(plain: CopyingErrors, residual: CopyingErrors) -> str:
    ratio = plain.final.mean / residual.final.mean
    return (
        f"{ratio:.3g} times as much"
        if ratio >= 1
        else f"the residual one's is {1 / ratio:.3g} times as much"
    )
