"""The response document, and the part of it that describes one image."""

import json
import threading
import time
from typing import Any

import numpy as np
import pytest

from service.engine.classification import Classification
from service.engine.queued_image import ImageResult
from service.errors import InferenceError
from service.prediction.request import ImageOutcome, PredictRequest, RequestRecord
from service.prediction.response import build_response, describe_image, encode_response

NAMES = ("a", "b", "c", "d")
INDICES, SCORES = np.array([1, 3, 2, 0]), np.array([0.4, 0.3, 0.2, 0.1])


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
    for coverage_index, labels in enumerate((["b"], ["b", "d", "c"])):
        described = describe_image(classification, NAMES, 1, coverage_index=coverage_index)
        assert [prediction["label"] for prediction in described["predictions"]] == ["b"]
        assert described["labels"] == labels


def test_response_has_one_result_per_image_and_the_times_of_its_stages() -> None:
    """An image that failed has its error in place of predictions; times are in milliseconds."""
    row = Classification(INDICES, SCORES, set_sizes=(1, 3))
    outcomes = [
        ImageOutcome(InferenceError("failed"), 0.0),
        ImageOutcome(ImageResult(row, 0.0, 0.0, batch_size=1), 0.0),
    ]
    before = time.monotonic()
    record = RequestRecord(
        before - 20, "letters", 7, seconds={"decode": 0.0123456, "inference": 3.0}
    )
    request = PredictRequest([b"", b""], top_k=2, coverage_index=1)
    response = build_response(outcomes, request, record, NAMES)
    elapsed = time.monotonic() - before
    assert (response["model"], response["version"]) == ("letters", 7)
    failed, described = response["results"]
    assert failed["error"]["code"] == "inference_failed"
    assert described == describe_image(row, NAMES, 2, coverage_index=1)
    total = response["timings"].pop("total_ms")
    assert response["timings"] == {"decode_ms": 12.346, "inference_ms": 3000.0}
    assert 20_000 <= total <= (20 + elapsed) * 1000 + 0.001
    assert total == round(total, 3)


@pytest.mark.anyio
@pytest.mark.parametrize(("images", "in_event_loop"), [(1, True), (3, False)])
async def test_large_responses_are_built_in_a_thread(images: int, in_event_loop: object) -> None:
    """The bytes are the same as if the event loop had built them."""
    threads: set[threading.Thread] = set()

    class Names(list[str]):
        def __getitem__(self, index: Any) -> Any:
            threads.add(threading.current_thread())
            return super().__getitem__(index)

    names = Names(str(number) for number in range(1000))
    row = Classification(np.arange(1000), np.linspace(1, 0, 1000), set_sizes=(900,))
    outcomes = [ImageOutcome(ImageResult(row, 0.0, 0.0, batch_size=1), 0.0)] * images
    request = PredictRequest([b""] * images, top_k=1000, coverage_index=0)
    encoded = await encode_response(outcomes, request, RequestRecord(), names)
    assert (threads == {threading.current_thread()}) is in_event_loop
    document = json.loads(encoded)
    expected = build_response(outcomes, request, RequestRecord(), names)
    assert document["results"] == expected["results"]
    assert encoded.endswith(b"\n")
