"""Probe images, on which a reference and its import are compared."""

from typing import Final

import numpy as np

from model_store.manifest import Input
from model_store.preprocessing import Pixels
from model_store.session import Logits
from training.errors import ForeignModelError
from training.steps.golden import draw_scene

_SEED: Final = 20151210  # the day on which He et al. put residual networks on arXiv
PROBE_COUNT: Final = 16
SPREAD_IN_TOLERANCES: Final = 10.0


def make_probes(shape: Input) -> Pixels:
    """Make different images: eight variants of the scene, flat colours, blends and noise.

    Returns:
        uint8 `[PROBE_COUNT, height, width, 3]`.
    """
    picture = draw_scene(shape.width, shape.height)
    variants = [picture, picture[::-1], picture[:, ::-1], picture[::-1, ::-1]]
    variants += [variant[..., [2, 0, 1]] for variant in variants]
    generator = np.random.default_rng(_SEED)
    flat = [
        np.broadcast_to(np.array(colour, np.uint8), picture.shape)
        for colour in ((250, 20, 30), (10, 200, 90))
    ]
    blends = [(picture * share + flat[1] * (1 - share)).astype(np.uint8) for share in (0.3, 0.6)]
    noise = [
        generator.integers(0, limit, picture.shape, dtype=np.uint8) for limit in (64, 128, 192, 255)
    ]
    return np.ascontiguousarray(np.stack([*variants, *flat, *blends, *noise]))


def require_finite(scores: Logits) -> None:
    """Raise ForeignModelError if a score is NaN or infinite."""
    if not np.isfinite(scores).all():
        raise ForeignModelError(
            "the network returns NaN or infinity for ordinary images, so its import cannot be "
            "checked; give the pixel range that it was trained on (--preset, or --scale, --mean "
            "and --std)"
        )


def score_spread(scores: Logits) -> float:
    """The largest change of one class's score over the images `[n, classes]`.

    Scores are taken relative to their mean over the classes, because adding a number to all of
    them does not change the probabilities.
    """
    return float(np.ptp(scores - scores.mean(axis=1, keepdims=True), axis=0).max())
