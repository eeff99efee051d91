"""From the scores of a batch to ranked classes, abstention and prediction sets."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model_store.manifest import Calibration, Outputs
from service.engine.classification import SCORE_DECIMALS, Classification, classify

LOGITS = np.array([[9, 1, 0, 0], [1, 1, 1, 0], [5, 5, 0, 0]], np.float32)


def classify_probabilities(row: np.ndarray) -> Classification:
    (classification,) = classify(row[None], Outputs(kind="probabilities"), Calibration())
    return classification


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True)


def check_scores(classifications: list[Classification], expected: np.ndarray) -> None:
    for classification, row in zip(classifications, expected, strict=True):
        np.testing.assert_allclose(classification.scores, row[classification.indices], atol=1e-6)


def test_equal_classes_are_ordered_by_index() -> None:
    """The same image always gets the same answer."""
    assert classify_probabilities(np.full(4, 0.25, np.float32)).indices == [0, 1, 2, 3]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(row=arrays(np.float32, st.integers(1, 30), elements=st.floats(0, 1, width=32)))
def test_every_class_is_ranked_once(row: np.ndarray) -> None:
    """Scores fall, and each is the probability of its own class."""
    classification = classify_probabilities(row)
    assert sorted(classification.indices) == list(range(len(row)))
    assert classification.scores == sorted(classification.scores, reverse=True)
    for index, score in zip(classification.indices, classification.scores, strict=True):
        assert score == pytest.approx(float(row[index]), abs=10**-SCORE_DECIMALS)


def test_model_without_calibration_has_softmax_scores_only() -> None:
    """It cannot abstain and has no prediction sets."""
    classifications = classify(LOGITS, Outputs(), Calibration())
    check_scores(classifications, softmax(LOGITS))
    assert {(each.abstention_reason, each.set_sizes) for each in classifications} == {(None, ())}


def test_calibrated_model_has_temperature_abstention_and_sets() -> None:
    """The temperature scales the probabilities, but not the energy."""
    calibration = Calibration(
        temperature=2.0, energy_threshold=-3.0, conformal_thresholds={"0.8": 0.5, "0.95": 0.1}
    )
    classifications = classify(LOGITS, Outputs(), calibration)
    check_scores(classifications, softmax(LOGITS / 2))
    assert [each.set_sizes for each in classifications] == [(1, 1), (1, 4), (1, 2)]
    first, second, third = (each.abstention_reason for each in classifications)
    assert (first, third) == ("", "")
    assert second
    assert "-2.21" in second
    assert "-3.00" in second
