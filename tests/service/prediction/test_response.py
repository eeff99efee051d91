"""The part of the response that describes one image."""

import pytest

from service.engine.classification import Classification
from service.prediction.response import describe_image

NAMES = ("a", "b", "c", "d")
INDICES, SCORES = [1, 3, 2, 0], [0.4, 0.3, 0.2, 0.1]


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (2, 2), (4, 4), (10**30, 4)])
def test_predictions_are_the_top_k_classes(top_k: int, count: int) -> None:
    """A prediction has the name, the index and the score of its class, best first."""
    described = describe_image(Classification(INDICES, SCORES), NAMES, top_k)
    assert described == {
        "predictions": [
            {"label": "b", "index": 1, "score": 0.4},
            {"label": "d", "index": 3, "score": 0.3},
            {"label": "c", "index": 2, "score": 0.2},
            {"label": "a", "index": 0, "score": 0.1},
        ][:count]
    }


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (None, {}),
        ("", {"abstained": False}),
        ("unlike", {"abstained": True, "reason": "unlike"}),
    ],
)
def test_abstention_is_part_of_a_calibrated_answer(
    reason: str | None, expected: dict[str, object]
) -> None:
    """Models that cannot abstain omit `abstained`."""
    described = describe_image(Classification(INDICES, SCORES, reason), NAMES, 1)
    del described["predictions"]
    assert described == expected


def test_label_set_may_be_larger_than_top_k() -> None:
    """The size of the set comes from its own threshold."""
    classification = Classification(INDICES, SCORES, set_sizes=(1, 3))
    for label_set, labels in enumerate((["b"], ["b", "d", "c"])):
        described = describe_image(classification, NAMES, 1, label_set=label_set)
        assert [prediction["label"] for prediction in described["predictions"]] == ["b"]
        assert described["labels"] == labels
