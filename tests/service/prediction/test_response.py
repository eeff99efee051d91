"""Ranking probabilities."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model_store.manifest import Calibration, Outputs
from service.engine.classification import SCORE_DECIMALS, Classification, classify
from service.prediction.response import describe_image

NAMES = ("a", "b", "c", "d")


def rank(row: np.ndarray, class_names: Sequence[str], top_k: int) -> list[dict[str, Any]]:
    """What a model is said to have predicted that gives these probabilities."""
    (said,) = classify(row[None], Outputs(kind="probabilities"), Calibration())
    predictions: list[dict[str, Any]] = describe_image(said, class_names, top_k)["predictions"]
    return predictions


def test_predictions_are_best_first() -> None:
    """A prediction has the class's name, its position and its probability, the most probable first."""
    predictions = rank(np.array([0.1, 0.6, 0.05, 0.25], np.float32), NAMES, 2)
    assert predictions == [
        {"label": "b", "index": 1, "score": pytest.approx(0.6)},
        {"label": "d", "index": 3, "score": pytest.approx(0.25)},
    ]


def test_equal_classes_stand_by_index() -> None:
    """Ties have one order, so that the same image always gets the same answer."""
    assert [prediction["index"] for prediction in rank(np.full(4, 0.25, np.float32), NAMES, 4)] == [
        0,
        1,
        2,
        3,
    ]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    row=arrays(np.float32, st.integers(1, 30), elements=st.floats(0, 1, width=32)),
    top_k=st.one_of(st.integers(1, 40), st.just(10**30)),
)
def test_ranking_keeps_every_class_once(row: np.ndarray, top_k: int) -> None:
    """Any row and any top_k give min(top_k, classes) different classes, falling in score, each with its own probability."""
    predictions = rank(row, [str(index) for index in range(len(row))], top_k)
    assert (
        len({prediction["index"] for prediction in predictions})
        == len(predictions)
        == min(top_k, len(row))
    )
    scores = [prediction["score"] for prediction in predictions]
    assert scores == sorted(scores, reverse=True)
    for prediction in predictions:
        assert prediction["label"] == str(prediction["index"])
        assert prediction["score"] == pytest.approx(
            float(row[prediction["index"]]), abs=10**-SCORE_DECIMALS
        )


LOGITS = np.array([[9, 1, 0, 0], [1, 1, 1, 0], [5, 5, 0, 0]], np.float32)


def test_rows_are_a_softmax_alone_where_nothing_was_calibrated() -> None:
    """Such a model neither abstains nor says that it does not, and has no sets."""
    rows = classify(LOGITS, Outputs(), Calibration())
    powers = np.exp(LOGITS)
    for row, expected in zip(rows, powers / powers.sum(axis=1, keepdims=True), strict=True):
        np.testing.assert_allclose(row.scores, expected[row.indices], atol=1e-6)
        assert describe_image(row, NAMES, 1).keys() == {"predictions"}


def test_rows_are_calibrated_and_know_what_is_unlike() -> None:
    """The temperature is in the probabilities and not in the energy; the reason gives both figures of the refused image alone."""
    calibration = Calibration(
        temperature=2.0, energy_threshold=-3.0, conformal_thresholds={"0.8": 0.5, "0.95": 0.1}
    )
    rows = classify(LOGITS, Outputs(), calibration)
    powers = np.exp(LOGITS / 2)
    for row, expected in zip(rows, powers / powers.sum(axis=1, keepdims=True), strict=True):
        np.testing.assert_allclose(row.scores, expected[row.indices], atol=1e-6)
    answers = [describe_image(row, NAMES, 1, label_set=1) for row in rows]
    assert [said["abstained"] for said in answers] == [False, True, False]
    assert [said.get("reason") for said in answers] == [
        None,
        "unlike what the model was trained on: its energy is -2.21, over the threshold of -3.00",
        None,
    ]
    assert [said["labels"] for said in answers] == [["a"], ["a", "b", "c", "d"], ["a", "b"]]
    assert [describe_image(row, NAMES, 1, label_set=0)["labels"] for row in rows] == [
        ["a"],
        ["a"],
        ["a"],
    ]


def test_a_set_may_be_larger_than_top_k() -> None:
    """The two are asked for apart."""
    said = describe_image(
        Classification([1, 3, 2, 0], [0.4, 0.3, 0.2, 0.1], set_sizes=(3,)), NAMES, 1, label_set=0
    )
    assert [prediction["label"] for prediction in said["predictions"]] == ["b"]
    assert said["labels"] == ["b", "d", "c"]
