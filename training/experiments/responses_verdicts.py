"""Claim, method and verdicts of the experiment `responses`."""

import itertools
from collections.abc import Sequence
from typing import Final

from training.experiments.experiment_report import Verdict
from training.experiments.responses_measurements import LayerResponses

SOURCES: Final = ("He et al. 2015, section 4.2 and figure 7",)
CLAIM: Final = (
    "Residual functions are generally closer to zero than functions without a shortcut. Layers of "
    "residual networks respond more weakly than those of their plain twins. The deeper a residual "
    "network is, the less each layer changes the signal."
)
METHOD: Final = (
    "The response of a layer is the standard deviation of its convolution's output after batch "
    "norm, before the ReLU and before the addition. It is taken over all channels and positions of "
    "{:,} test images, in evaluation mode. Convolutions on shortcuts are not counted as layers."
)


def verdicts(responses: Sequence[LayerResponses]) -> list[Verdict]:
    """`responses` alternate between plain and residual networks, from shallow to deep."""
    plain, residual = responses[::2], responses[1::2]
    twins = [_residual_is_weaker(*twin) for twin in zip(plain, residual, strict=True)]
    return [*twins, *(_deeper_is_weaker(*pair) for pair in itertools.pairwise(residual))]


def _residual_is_weaker(plain: LayerResponses, residual: LayerResponses) -> Verdict:
    weaker = plain.deviations.mean(axis=0) > residual.deviations.mean(axis=0)
    decision = (plain.layer_mean - residual.layer_mean).is_positive()
    # A few large layers can dominate the mean, so most layers have to agree with it.
    most_layers_agree = decision == bool(2 * weaker.sum() > len(weaker))
    return Verdict(
        decision if most_layers_agree else None,
        "Layers of residual networks respond more weakly than those of plain ones: "
        f"{residual.architecture}'s mean response is {residual.layer_mean.mean:.3f}, "
        f"{plain.architecture}'s {plain.layer_mean.mean:.3f}. {weaker.sum()} of {len(weaker)} "
        "layers respond more weakly than their twins.",
    )


def _deeper_is_weaker(shallow: LayerResponses, deep: LayerResponses) -> Verdict:
    return Verdict(
        (shallow.layer_mean - deep.layer_mean).is_positive(),
        "Layers of deeper residual networks respond more weakly: "
        f"{deep.architecture}'s mean response is {deep.layer_mean.mean:.3f}, "
        f"{shallow.architecture}'s {shallow.layer_mean.mean:.3f}.",
    )
