"""Ranking probabilities."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from service.postprocessing import SCORE_DECIMALS, rank

NAMES = ("a", "b", "c", "d")


def test_predictions_are_best_first() -> None:
    """A prediction has the class's name, its position and its probability, the most probable first."""
    predictions = rank(np.array([0.1, 0.6, 0.05, 0.25], np.float32), NAMES, 2)
    assert predictions == [
        {"label": "b", "index": 1, "score": pytest.approx(0.6)},
        {"label": "d", "index": 3, "score": pytest.approx(0.25)},
    ]


def test_equal_classes_stand_by_index() -> None:
    """Ties have one order, so that the same image always gets the same answer."""
    assert [prediction["index"] for prediction in rank(np.full(4, 0.25, np.float32), NAMES, 4)] == [0, 1, 2, 3]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    row=arrays(np.float32, st.integers(1, 30), elements=st.floats(0, 1, width=32)),
    top_k=st.one_of(st.integers(1, 40), st.just(10**30)),
)
def test_ranking_keeps_every_class_once(row: np.ndarray, top_k: int) -> None:
    """Any row and any top_k give min(top_k, classes) different classes, falling in score, each with its own probability."""
    predictions = rank(row, [str(index) for index in range(len(row))], top_k)
    assert len({prediction["index"] for prediction in predictions}) == len(predictions) == min(top_k, len(row))
    scores = [prediction["score"] for prediction in predictions]
    assert scores == sorted(scores, reverse=True)
    for prediction in predictions:
        assert prediction["label"] == str(prediction["index"])
        assert prediction["score"] == pytest.approx(float(row[prediction["index"]]), abs=10**-SCORE_DECIMALS)
