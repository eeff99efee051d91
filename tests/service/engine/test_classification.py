"""From the scores of a batch to ranked classes, abstention and prediction sets."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model_store.manifest import Calibration, Outputs
from service.engine.classification import MAX_RANKED, SCORE_DECIMALS, Classification, classify

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
    assert classify_probabilities(np.full(4, 0.25, np.float32)).indices.tolist() == [0, 1, 2, 3]


def test_all_scores_are_kept_in_the_order_of_the_classes() -> None:
    """As the model returned them, and as calibrated probabilities without rounding."""
    calibration = Calibration(temperature=2.0)
    kept = classify(LOGITS, Outputs(), calibration)
    np.testing.assert_array_equal([each.raw_scores for each in kept], LOGITS)
    np.testing.assert_allclose(
        [each.probabilities for each in kept], softmax(LOGITS / 2), rtol=1e-6
    )


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(row=arrays(np.float32, st.integers(1, 30), elements=st.floats(0, 1, width=32)))
def test_every_class_is_ranked_once(row: np.ndarray) -> None:
    """Scores fall, and each is the probability of its own class."""
    classification = classify_probabilities(row)
    assert sorted(classification.indices) == list(range(len(row)))
    assert classification.scores.tolist() == sorted(classification.scores, reverse=True)
    for index, score in zip(classification.indices, classification.scores, strict=True):
        assert score == pytest.approx(float(row[index]), abs=10**-SCORE_DECIMALS)


def test_best_of_many_classes_are_ranked() -> None:
    """As many as a client can ask for, in the order of a full sort; equal ones by index."""
    rng = np.random.default_rng(0)
    rows = rng.choice(np.linspace(0, 1, 300), (3, 21_841)).astype(np.float32)
    classifications = classify(rows, Outputs(kind="probabilities"), Calibration())
    for row, classification in zip(rows, classifications, strict=True):
        expected = np.argsort(-row, kind="stable")[:MAX_RANKED]
        assert classification.indices.tolist() == expected.tolist()
        assert classification.scores.tolist() == row[expected].astype(float).round(6).tolist()


def test_prediction_set_of_many_classes_is_complete() -> None:
    """A set may hold more classes than are ranked otherwise; other images rank no more."""
    rows = np.full((2, 3000), 0.1, np.float32)
    rows[1, 100:] = 0.0
    calibration = Calibration(conformal_thresholds={"0.5": 0.5, "0.9": 0.05})
    many, few = classify(rows, Outputs(kind="probabilities"), calibration)
    assert (many.set_sizes, len(many.indices), len(many.scores)) == ((1, 3000), 3000, 3000)
    assert (few.set_sizes, len(few.indices)) == ((1, 100), MAX_RANKED)
    assert few.indices[:100].tolist() == list(range(100))


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
