"""What the experiment `gradients` says: its claim, its method, and the sentences that its figures make."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.experiments.experiment_report import Verdict
from training.experiments.loss_surface import basin, minima
from training.statistics import SeedValues, seeds_of

SOURCES: Final = ("He et al. 2015, section 4.1", "Li et al. 2018, sections 4 and 5")
CLAIM: Final = (
    "Plain networks do not train worse because gradients vanish: batch norm keeps those of all layers at healthy norms. What "
    "shortcuts change is how even they are, and the loss around the weights, which is smoother and wider with them."
)
NORMS: Final = (
    "Every network begins from its start and takes its first {steps} steps by the recipe: its rate, batches and augmentation. "
    "After each step the norm of the gradient of every 3x3 convolution's weight is kept{clipped}. Shown are the first step, the "
    "mean of the first {window} and that of the last {window}."
)
CLIPPED: Final = (
    ", after the recipe's clipping: where all gradients of a network together are longer than {:g}, all of them are shortened by "
    "the same factor, which leaves the ratios of layers as they were"
)
SURFACE: Final = (
    "Two random directions from the trained weights; each filter of a direction is as long as the network's own filter, so that "
    "networks whose weights differ in size can be compared; batch norm's parameters and biases stay where they are. The loss of "
    "{images} fixed training images, not augmented, in evaluation mode (running statistics), on a grid of {points} x {points} "
    "points from -1 to 1; seed {seed}. The basin is the share of the square whose loss is above the centre's by at most half of "
    "what guessing costs, ln(classes) / 2. Two directions of some hundred thousand show a slice: that it is convex does not "
    "make the loss so."
)
WINDOW: Final = 10
"""Steps at the beginning and at the end whose norms are averaged."""
VANISHED: Final = 0.01
"""Gradients go from the last layer to the first: they vanish where a norm is less than this part of the last layer's."""
EXPLODED: Final = 100.0
"""They explode on the way where a norm is more than so many times the last layer's."""
BASIN_MARGIN: Final = 0.05
"""Shares of the square that are closer than this say nothing: each surface is one slice, along one pair of directions."""
MINIMA_MARGIN: Final = 2
"""Numbers of minima that are closer than this say nothing."""


def verdicts(
    norms: Mapping[str, NDArray[np.float64]],
    around: Mapping[str, list[list[float]]],
    depths: Sequence[int],
    classes: int,
) -> list[Verdict]:
    """What norms `[seeds, steps, layers]` and losses around the weights say of each part of the claim."""
    plain, residual = (norms[f"{family}{depths[-1]}"] for family in ("plain", "resnet"))
    names = f"plain{depths[-1]}", f"resnet{depths[-1]}"
    return [*_healthy(names[0], plain), *_even(names, plain, residual), *_basins(around, classes)]


def _healthy(name: str, norms: NDArray[np.float64]) -> list[Verdict]:
    against_last = norms / norms[..., -1:]  # of each seed, step and layer
    lowest, highest, over = (
        float(against_last.min()),
        float(against_last.max()),
        f"over {seeds_of(len(norms))}",
    )
    within = f"in {norms.shape[1]} steps"
    return [
        Verdict(
            lowest >= VANISHED,
            f"Gradients do not vanish on their way to the input: the smallest norm of a layer of {name} is {lowest:.3g} times the "
            f"last layer's, {within} (vanished: less than {VANISHED:g}), {over}.",
        ),
        Verdict(
            highest <= EXPLODED,
            f"They do not explode either: the largest is {highest:.3g} times the last layer's, {within}; at the first step the "
            f"first layer's is {float(against_last[:, 0, 0].mean()):.3g} times it (exploded: more than {EXPLODED:g}), {over}.",
        ),
    ]


def _even(
    names: tuple[str, str], plain: NDArray[np.float64], residual: NDArray[np.float64]
) -> list[Verdict]:
    said = []
    last = min(WINDOW, plain.shape[1])
    for window, part in (
        ("at the first step", slice(0, 1)),
        (f"over the last {last} steps", slice(-last, None)),
    ):
        spreads = []
        for norms in (plain, residual):
            means = norms[:, part].mean(axis=1)
            spreads.append(SeedValues((means.max(axis=1) / means.min(axis=1)).tolist()))
        said.append(
            Verdict(
                (spreads[0] - spreads[1]).agree(),
                f"Shortcuts make them even {window}: the largest norm of a layer is {spreads[0].mean:.3g} times the smallest in "
                f"{names[0]}, and {spreads[1].mean:.3g} times in {names[1]}, over {seeds_of(len(plain))}.",
            )
        )
    return said


def _basins(around: Mapping[str, list[list[float]]], classes: int) -> list[Verdict]:
    (plain, its), (residual, others) = around.items()
    shares = basin(its, classes), basin(others, classes)
    counts = minima(its), minima(others)
    return [
        Verdict(
            None if abs(shares[1] - shares[0]) < BASIN_MARGIN else shares[1] > shares[0],
            f"The basin is wider with shortcuts: it is {100 * shares[1]:.0f} % of the square around {residual} and "
            f"{100 * shares[0]:.0f} % of that around {plain}, one run and one pair of directions each (less than "
            f"{100 * BASIN_MARGIN:.0f} points apart: not told).",
        ),
        Verdict(
            None if abs(counts[1] - counts[0]) < MINIMA_MARGIN else counts[1] < counts[0],
            f"The surface is smoother with shortcuts: the grid has {counts[1]} local {'minimum' if counts[1] == 1 else 'minima'} "
            f"around {residual} and {counts[0]} around {plain}, one run and one pair of directions each (less than "
            f"{MINIMA_MARGIN} apart: not told).",
        ),
    ]
