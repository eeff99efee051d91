"""Which layers quantisation hurts: each alone in INT8, and those left in fp32 without which the loss would not hold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from model_store.preprocessing import Pixels
from model_store.session import Logits
from training.quantization.graph import layers_of
from training.quantization.int8 import Calibrated
from training.quantization.scoring import Scorer, score

SWEEP_IMAGES: Final = 64
KEPT_SHARE: Final = (
    0.25  # of the layers at most: a network that needs more in fp32 is no INT8 network
)


@dataclass(frozen=True)
class Sensitivity:
    """How far the logits drift when this layer alone is quantised, as `relative_drift` measures it."""

    layer: str
    drift: float


def sweep(
    calibrated: Calibrated,
    pixels: Pixels,
    expected: Logits,
    scorer: Scorer,
    progress: Callable[[int, int], None],
) -> tuple[Sensitivity, ...]:
    """Each layer's sensitivity on these images, the worst first; `expected` are their fp32 logits."""
    layers = layers_of(calibrated.model)
    found = []
    for number, layer in enumerate(layers, start=1):
        logits = score(
            scorer.open(calibrated.quantize(only={layer.name})), [pixels], size=scorer.batch
        )
        found.append(Sensitivity(layer.name, relative_drift(logits, expected)))
        progress(number, len(layers))
    return tuple(sorted(found, key=lambda line: -line.drift))


def layers_to_keep(
    holds: Callable[[Sequence[str]], bool], ranked: Callable[[], Sequence[str]]
) -> tuple[str, ...]:
    """The fewest layers, worst first, that must stay in fp32 until it holds; at most a quarter, whether it then holds or not.

    `ranked` is asked only where something has to stay.
    """
    if holds(()):
        return ()
    order = ranked()
    kept: tuple[str, ...] = ()
    for count in range(1, int(len(order) * KEPT_SHARE) + 1):
        kept = tuple(order[:count])
        if holds(kept):
            break
    return kept


def relative_drift(logits: Logits, expected: Logits) -> float:
    """Root mean square of the logits' change, in standard deviations of the expected ones."""
    return float(np.sqrt(np.mean((logits - expected) ** 2)) / max(float(expected.std()), 1e-12))
