"""Claim, method and verdicts of the experiment `gradients`."""

from collections.abc import Mapping
from typing import Final

from training.experiments.experiment_report import Verdict
from training.experiments.gradients_measurements import NORM_WINDOW, LayerNorms
from training.experiments.loss_surface import Surface, basin_share, count_minima
from training.statistics import SeedValues, seed_count_text

SOURCES: Final = ("He et al. 2015, section 4.1", "Li et al. 2018, sections 4 and 5")
CLAIM: Final = (
    "Vanishing gradients are not why plain networks train worse: batch norm keeps the gradients of "
    "all layers at healthy norms. Shortcuts make these norms more even, and they make the loss "
    "around the weights smoother and its basin wider."
)
NORMS_METHOD: Final = (
    "Every network starts from its initial weights and takes its first {steps} steps by the "
    "recipe, with its learning rate, batches and augmentation. After each step, the gradient norm "
    "of every 3x3 convolution's weight is recorded. Shown are the first step, the mean of the "
    "first {window} steps and the mean of the last {window}."
)
CLIPPING_METHOD: Final = (
    " Norms are recorded after the recipe's clipping: if all gradients of a network together have "
    "a norm above {:g}, all are scaled by the same factor, which keeps the ratios of layers."
)
SURFACE_METHOD: Final = (
    "Two random directions from the trained weights. Each filter of a direction has the norm of "
    "the network's own filter, so that networks with weights of different size can be compared. "
    "Parameters of batch norms and biases stay fixed. Shown is the loss on {images} training "
    "images without augmentation, in evaluation mode (running statistics), on a grid of {points} x "
    "{points} points from -1 to 1, with seed {seed}. The basin is the share of the square with a "
    "loss of at most the centre's plus half of the loss of guessing, ln(classes) / 2. Two "
    "directions of several hundred thousand show a slice: a convex slice does not make the loss "
    "convex."
)
VANISHED: Final = 0.01
"""Gradients vanish if a layer's norm is below this fraction of the last layer's."""
EXPLODED: Final = 100.0
"""Gradients explode if a layer's norm is above this multiple of the last layer's."""
BASIN_MARGIN: Final = 0.05
"""Smallest difference of two basin shares that counts. Each is measured on a single slice."""
MINIMA_MARGIN: Final = 2
"""Smallest difference of two numbers of minima that counts."""


def verdicts(
    norms: Mapping[str, LayerNorms], surfaces: Mapping[str, Surface], depth: int, classes: int
) -> list[Verdict]:
    """Verdicts on the plain and the residual network of `depth` layers."""
    names = f"plain{depth}", f"resnet{depth}"
    plain, residual = (norms[name] for name in names)
    last = min(NORM_WINDOW, plain.shape[1])
    twin_surfaces = tuple(surfaces[name] for name in names)
    return [
        _gradients_do_not_vanish(names[0], plain),
        _gradients_do_not_explode(names[0], plain),
        _norms_are_more_even(names, plain[:, :1], residual[:, :1], "at the first step"),
        _norms_are_more_even(
            names, plain[:, -last:], residual[:, -last:], f"over the last {last} steps"
        ),
        _basin_is_wider(names, *(basin_share(losses, classes) for losses in twin_surfaces)),
        _surface_is_smoother(names, *(count_minima(losses) for losses in twin_surfaces)),
    ]


def _gradients_do_not_vanish(name: str, norms: LayerNorms) -> Verdict:
    smallest = float((norms / norms[..., -1:]).min())
    return Verdict(
        smallest >= VANISHED,
        f"Gradients do not vanish towards the input: in {norms.shape[1]} steps the smallest norm "
        f"of a layer of {name} is {smallest:.3g} times the last layer's (vanished: below "
        f"{VANISHED:g}), over {seed_count_text(len(norms))}.",
    )


def _gradients_do_not_explode(name: str, norms: LayerNorms) -> Verdict:
    relative = norms / norms[..., -1:]
    largest = float(relative.max())
    return Verdict(
        largest <= EXPLODED,
        f"Gradients do not explode towards the input: in {norms.shape[1]} steps the largest norm "
        f"of a layer of {name} is {largest:.3g} times the last layer's. At the first step the "
        f"first layer's is {float(relative[:, 0, 0].mean()):.3g} times it (exploded: above "
        f"{EXPLODED:g}), over {seed_count_text(len(norms))}.",
    )


def _norms_are_more_even(
    names: tuple[str, str], plain: LayerNorms, residual: LayerNorms, window: str
) -> Verdict:
    """`window` describes the steps of `plain` and `residual`."""
    spreads = []
    for norms in (plain, residual):
        means = norms.mean(axis=1)
        spreads.append(SeedValues((means.max(axis=1) / means.min(axis=1)).tolist()))
    return Verdict(
        (spreads[0] - spreads[1]).is_positive(),
        f"Shortcuts make the norms more even {window}: the largest norm of a layer is "
        f"{spreads[0].mean:.3g} times the smallest in {names[0]} and {spreads[1].mean:.3g} times "
        f"in {names[1]}, over {seed_count_text(len(plain))}.",
    )


def _basin_is_wider(names: tuple[str, str], plain: float, residual: float) -> Verdict:
    return Verdict(
        None if abs(residual - plain) < BASIN_MARGIN else residual > plain,
        f"The basin is wider with shortcuts: it is {100 * residual:.0f} % of the square around "
        f"{names[1]} and {100 * plain:.0f} % around {names[0]}, with one run and one pair of "
        f"directions each (smallest difference that counts: {100 * BASIN_MARGIN:.0f} points).",
    )


def _surface_is_smoother(names: tuple[str, str], plain: int, residual: int) -> Verdict:
    return Verdict(
        None if abs(residual - plain) < MINIMA_MARGIN else residual < plain,
        f"The surface is smoother with shortcuts: local minima of the grid are {residual} around "
        f"{names[1]} and {plain} around {names[0]}, with one run and one pair of directions each "
        f"(smallest difference that counts: {MINIMA_MARGIN}).",
    )
