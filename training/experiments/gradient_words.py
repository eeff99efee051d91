"""What the experiment `gradients` says: its claim, its method, and the sentences that its figures make."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.experiments.report import Verdict
from training.experiments.statistics import Sample
from training.experiments.surface import basin, minima

SOURCES: Final = ("He et al. 2015, section 4.1", "Li et al. 2018, sections 4 and 5")
CLAIM: Final = (
    "Plain networks do not train worse because gradients vanish: batch norm keeps those of all layers at healthy norms. What "
    "shortcuts change is how even they are, and the loss around the weights, which is smoother and wider with them."
)
NORMS: Final = (
    "Every network begins from its start and takes its first {steps} steps by the recipe: its rate, batches and augmentation. "
    "After each step the norm of the gradient of every 3x3 convolution's weight is kept. Shown are the first step, the mean of "
    "the first {window} and that of the last {window}."
)
SURFACE: Final = (
    "Two random directions from the trained weights; each filter of a direction is as long as the network's own filter, so that "
    "networks whose weights differ in size can be compared; batch norm's parameters and biases stay where they are. The loss of "
    "{images} fixed training images, not augmented, in evaluation mode (running statistics), on a grid of {points} x {points} "
    "points from -1 to 1; seed {seed}. The basin is the share of the square whose loss is above the centre's by at most half of "
    "what guessing costs, ln(classes) / 2. Two directions of some hundred thousand show a slice: that it is convex does not "
    "make the loss so."
)
VANISHED: Final = 0.01
"""Gradients vanish where the first layer's norm is less than this part of the last one's."""


def verdicts(
    norms: Mapping[str, NDArray[np.float64]], around: Mapping[str, list[list[float]]], depths: Sequence[int], classes: int
) -> list[Verdict]:
    """What norms `[seeds, steps, layers]` and losses around the weights say of each part of the claim."""
    plain, residual = (norms[f"{family}{depths[-1]}"] for family in ("plain", "resnet"))
    names = f"plain{depths[-1]}", f"resnet{depths[-1]}"
    return [*_vanishing(names[0], plain), *_even(names, plain, residual), *_basins(around, classes)]


def _vanishing(name: str, norms: NDArray[np.float64]) -> list[Verdict]:
    ratios = norms[..., 0] / norms[..., -1]  # of each seed and step
    begins, lowest = float(ratios[:, 0].mean()), float(ratios.min())
    return [
        Verdict(
            lowest > VANISHED,
            f"Gradients do not vanish: the first layer's gradient norm in {name} is {begins:.3g} times the last one's at the first "
            f"step, and never less than {lowest:.3g} times it in {norms.shape[1]} steps (vanished: less than {VANISHED:g}).",
        )
    ]


def _even(names: tuple[str, str], plain: NDArray[np.float64], residual: NDArray[np.float64]) -> list[Verdict]:
    said = []
    last = min(10, plain.shape[1])
    for window, part in (("at the first step", slice(0, 1)), (f"over the last {last} steps", slice(-last, None))):
        spreads = []
        for norms in (plain, residual):
            means = norms[:, part].mean(axis=1)
            spreads.append(Sample((means.max(axis=1) / means.min(axis=1)).tolist()))
        said.append(
            Verdict(
                (spreads[0] - spreads[1]).agree(),
                f"Shortcuts make them even {window}: the largest norm of a layer is {spreads[0].mean:.3g} times the smallest in "
                f"{names[0]}, and {spreads[1].mean:.3g} times in {names[1]}.",
            )
        )
    return said


def _basins(around: Mapping[str, list[list[float]]], classes: int) -> list[Verdict]:
    (plain, its), (residual, others) = around.items()
    shares = basin(its, classes), basin(others, classes)
    counts = minima(its), minima(others)
    return [
        Verdict(
            None if shares[0] == shares[1] else shares[1] > shares[0],
            f"The basin is wider with shortcuts: it is {100 * shares[1]:.0f} % of the square around {residual} and "
            f"{100 * shares[0]:.0f} % of that around {plain}, one run each.",
        ),
        Verdict(
            None if counts[0] == counts[1] else counts[1] < counts[0],
            f"The surface is smoother with shortcuts: the grid has {counts[1]} local {'minimum' if counts[1] == 1 else 'minima'} "
            f"around {residual} and {counts[0]} around {plain}.",
        ),
    ]
