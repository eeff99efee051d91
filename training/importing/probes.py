"""Probe images: what an original and its import are compared on, chosen so that their answers differ from each other."""

from typing import Final

import numpy as np

from model_store.manifest import Input
from model_store.preprocessing import Pixels
from model_store.session import Logits
from training.errors import ForeignModelError
from training.gates.checks import LOGIT_TOLERANCE
from training.steps.golden import draw_scene

_SEED: Final = 20151210  # the day on which He et al. put residual networks on arXiv
NUMBER: Final = 16
_USUAL_LOGIT: Final = 10.0
SPREAD_IN_TOLERANCES: Final = 10.0


def make_probes(shape: Input) -> Pixels:
    """uint8 `[NUMBER, height, width, 3]`: the scene in eight guises, flat colours, gradients and noise."""
    picture = draw_scene(shape.width, shape.height)
    guises = [picture, picture[::-1], picture[:, ::-1], picture[::-1, ::-1]]
    guises += [guise[..., [2, 0, 1]] for guise in guises]
    chance = np.random.default_rng(_SEED)
    flat = [
        np.broadcast_to(np.array(colour, np.uint8), picture.shape)
        for colour in ((250, 20, 30), (10, 200, 90))
    ]
    blends = [(picture * share + flat[1] * (1 - share)).astype(np.uint8) for share in (0.3, 0.6)]
    noise = [
        chance.integers(0, limit, picture.shape, dtype=np.uint8) for limit in (64, 128, 192, 255)
    ]
    return np.ascontiguousarray(np.stack([*guises, *flat, *blends, *noise]))


def require_finite(answers: Logits) -> None:
    """Raises ForeignModelError where an answer is no number, so that nothing can be held against it."""
    if not np.isfinite(answers).all():
        raise ForeignModelError(
            "the network answers pictures with NaN or infinity, so there is nothing to hold it against; "
            "pixels in another range than it was trained on can do that (--preset, --scale)"
        )


def tolerance_of(answers: Logits) -> float:
    """How far the import's scores may be from these: what our own exports may, and in proportion where scores are large."""
    return LOGIT_TOLERANCE * max(1.0, float(np.abs(answers).max()) / _USUAL_LOGIT)


def spread_of(answers: Logits) -> float:
    """How far a class's score changes over the probes, at most: where it hardly does, agreement proves nothing.

    Against the mean over the classes: what is added to all of them changes no probability.
    """
    return float(np.ptp(answers - answers.mean(axis=1, keepdims=True), axis=0).max())
