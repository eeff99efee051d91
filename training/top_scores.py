"""Measures the top scores of the test images, to compare them with those of served images."""

import numpy as np

from model_store.manifest import Calibration, Outputs
from model_store.provenance import TOP_SCORE_PERCENTILES, TopScores
from model_store.session import Logits, probabilities


def measure_top_scores(
    scores: Logits, outputs: Outputs, calibration: Calibration | None = None
) -> TopScores:
    """Measure the distribution of the top scores that the service would return.

    Args:
        scores: What the model computes for each image, float32 `[n, classes]`.
        outputs: Says whether the scores are logits.
        calibration: How they become probabilities; None for a temperature of 1.
    """
    temperature = calibration.temperature if calibration else 1.0
    top = probabilities(scores, outputs, temperature).max(axis=1).astype(np.float64).clip(0, 1)
    values = np.percentile(top, TOP_SCORE_PERCENTILES).tolist()
    return TopScores.model_validate(
        {
            "mean": float(top.mean()),
            "percentiles": dict(zip(map(str, TOP_SCORE_PERCENTILES), values, strict=True)),
        }
    )
