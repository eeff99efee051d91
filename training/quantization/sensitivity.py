"""Measures the effect of quantizing each layer, and chooses layers to leave in fp32."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from model_store.preprocessing import Pixels
from model_store.session import Logits
from training.quantization.graph import layers_of
from training.quantization.int8 import CalibratedGraph
from training.quantization.scoring import Scorer, score

SWEEP_IMAGES: Final = 64
MAX_FP32_SHARE: Final = 0.25  # of the layers


@dataclass(frozen=True)
class Sensitivity:
    """`drift` is the `relative_drift` of the logits when only this layer is quantized."""

    layer: str
    drift: float


def sweep(
    calibrated: CalibratedGraph,
    pixels: Pixels,
    expected: Logits,
    scorer: Scorer,
    progress: Callable[[int, int], None],
) -> tuple[Sensitivity, ...]:
    """Each layer's sensitivity on these images, worst first; `expected` are fp32's logits."""
    layers = layers_of(calibrated.model)
    sensitivities = []
    for number, layer in enumerate(layers, start=1):
        logits = score(
            scorer.open(calibrated.quantize(only={layer.name})), [pixels], size=scorer.batch
        )
        sensitivities.append(Sensitivity(layer.name, relative_drift(logits, expected)))
        progress(number, len(layers))
    return tuple(sorted(sensitivities, key=lambda entry: -entry.drift))


def choose_fp32_layers(
    is_acceptable: Callable[[Sequence[str]], bool], rank_layers: Callable[[], Sequence[str]]
) -> tuple[str, ...]:
    """Choose the fewest layers to leave in fp32, worst first, until the result is acceptable.

    At most a quarter of the layers is chosen, even if the result is not acceptable. `rank_layers`
    is expensive, so it is called only if a layer must be chosen.
    """
    if is_acceptable(()):
        return ()
    order = rank_layers()
    chosen: tuple[str, ...] = ()
    for count in range(1, int(len(order) * MAX_FP32_SHARE) + 1):
        chosen = tuple(order[:count])
        if is_acceptable(chosen):
            break
    return chosen


def relative_drift(logits: Logits, expected: Logits) -> float:
    """Root mean square of the logits' change, in standard deviations of the expected ones."""
    return float(np.sqrt(np.mean((logits - expected) ** 2)) / max(float(expected.std()), 1e-12))
